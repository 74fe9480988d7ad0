"""`make demo-speech`, at a size that takes seconds: from nothing to the table."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.processes import run
from tresse.data.audio.kmeans import KMeansUnits
from tresse.data.store.corpus import Corpus

pytest.importorskip("ttspico")

SMALL = (
    "--model.hidden-size 32 --model.num-layers 1 --model.num-heads 2 --model.num-kv-heads 1 "
    "--model.head-dim 16 --model.intermediate-size 64 "
    "--stages.0.tokens 8000 --stages.1.tokens 4000 --stages.2.tokens 4000"
)
VENV = Path(sys.executable).parents[1]


@pytest.mark.slow
def test_the_speech_demo_goes_from_nothing_to_the_table(tmp_path: Path) -> None:
    command = ["make", "demo-speech", f"VENV={VENV}", f"--assume-old={VENV}/installed"]
    command += [f"SPEECH={tmp_path}", "STORIES=--train 24 --valid 6 --cloze 12", "UNITS=20"]
    done = run(*command, f"FLAGS={SMALL}")
    table = json.loads((tmp_path / "run" / "table.json").read_text())
    assert [line["setup"] for line in table] == ["en", "interleave", "en-fr"]
    assert all(set(line["scores"]) == {"sSC", "sTC"} for line in table)
    assert "sTC en->fr" in done.stdout

    units = KMeansUnits.open(tmp_path / "units.safetensors")
    for name, documents in {"train": 24, "valid": 6, "cloze": 24}.items():
        corpus = Corpus.open(tmp_path / "corpora" / name)
        assert corpus.tokenizers == (units.identity,)
        assert [corpus.num_documents(language) for language in ("en", "fr")] == [documents] * 2

    # Files that exist are not written again; missing ones are.
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "speech").rglob("*")}
    (tmp_path / "corpora" / "cloze" / "items.jsonl").unlink()
    planned = run(*command, "--dry-run").stdout
    assert "prepare.py" not in planned
    assert "items.jsonl" in planned
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_the_cloze_is_spoken_in_one_voice() -> None:
    planned = run("make", "demo-speech", "--dry-run", f"VENV={VENV}", "SPEECH=/nowhere").stdout
    (line,) = (each for each in planned.splitlines() if "pico /nowhere/texts/cloze" in each)
    assert "--pitch 100 100 --rate 120 120" in line
    (line,) = (each for each in planned.splitlines() if "pico /nowhere/texts/train" in each)
    assert "--pitch" not in line
