"""The commands of README.md and docs/data.md, each run as it stands there, in seconds."""

import itertools
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.evaluation_trees import (
    LEXICAL,
    SYNTACTIC,
    TRIPLE,
    lexical_lines,
    syntactic_lines,
    write_gold,
    write_tree,
)
from tests.support.foreign.audio_tables import dataset, sound, to_parquet
from tests.support.processes import ROOT, run
from tests.support.synthetic_audio import write_buzz
from tresse.data.formats.commands import Output
from tresse.data.prepare import prepare_manifest
from tresse.data.store.cloze import read_items
from tresse.data.store.corpus import Corpus

pytestmark = pytest.mark.slow

SMALL_MODEL = (
    "--model.hidden-size 32 --model.num-layers 1 --model.num-heads 2 --model.num-kv-heads 1 "
    "--model.head-dim 16 --model.intermediate-size 64 "
)
SMALL_STAGES = "--stages.0.tokens 8000 --stages.1.tokens 4000 --stages.2.tokens 4000 "
SMALL_WORLD = (
    "--data.story-world.aligned-documents 200 --data.story-world.extra-documents 200 "
    "--data.story-world.valid-documents 20 --data.story-world.cloze-documents 60 "
)
"""Flags that are added to a command, by its beginning."""
FLAGS = {
    "tresse prepare fit-kmeans": "--units 20",
    "torchrun --nproc-per-node 4 engine/train.py 360m-interleave": SMALL_MODEL
    + SMALL_STAGES
    + "--rows-per-step 8 --micro-rows 2 --data.packing.row-length 128 --no-compile",
    "torchrun --nproc-per-node 2 engine/train.py tiny": SMALL_MODEL + SMALL_STAGES,
}


def commands() -> list[str]:
    """Every line of the bash blocks, the README's first."""
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/data.md"))
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def write_manifests(corpus: Corpus, folder: Path, name: str) -> list[Path]:
    """Write a corpus as a manifest per language."""
    paths = []
    for language in corpus.languages:
        path = folder / f"{name}-{language}.jsonl"
        with path.open("w") as file:
            for i in range(corpus.num_documents(language)):
                sentences = [sentence.tolist() for sentence in corpus.document(language, i)]
                record = {"key": corpus.key(language, i), "lang": language, "sentences": sentences}
                print(json.dumps(record), file=file)
        paths.append(path)
    return paths


def write_tables(folder: Path) -> None:
    """Write FLEURS and the mirror of sBLIMP as they come from the hub, with few lines."""
    for language in ("en_us", "fr_fr"):
        lines = [
            {"id": i // 2, "audio": sound(f"{i}.wav", i), "transcription": "a", "lang_id": language}
            for i in range(4)
        ]
        found = dataset(lines, classes={"lang_id": ["en_us", "fr_fr"]})
        to_parquet(folder / "fleurs" / language / "train" / "0000.parquet", found)
    pairs = [{"id": i, "positive": sound(None, i), "negative": sound(None, 9)} for i in range(2)]
    found = dataset(pairs, ("positive", "negative"))
    to_parquet(folder / "sBLIMP" / "data" / "train-00000-of-00001.parquet", found)


@pytest.fixture(scope="module")
def workspace(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the manifests, recordings and the cloze corpus that they suppose."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "engine").symlink_to(ROOT / "engine")
    with (folder / "recordings.jsonl").open("w") as file:
        for i in range(4):
            path = write_buzz(folder / "en" / f"{i}.flac", 6, seed=i)
            record = {"path": str(path.relative_to(folder)), "key": str(i), "lang": "en"}
            print(json.dumps(record | {"sentences": [[0, 2.4], [2.4, 6]]}), file=file)
    write_tables(folder)
    zerospeech = folder / "sLM21-dataset"
    write_gold(zerospeech / "lexical" / "dev", LEXICAL, lexical_lines())
    write_gold(zerospeech / "syntactic" / "dev", SYNTACTIC, syntactic_lines())
    for task, language in itertools.product(("sSC", "sTC"), ("en", "fr")):
        write_tree(folder / "recorded" / task / language, *TRIPLE)
    for name in ("train", "valid"):
        write_manifests(Corpus.open(world / name), folder, name)
    cloze = write_manifests(Corpus.open(world / "cloze"), folder, "cloze")
    prepare_manifest(tuple(cloze), output=Output(out=folder / "corpora" / "cloze"))
    shutil.copy(world / "cloze" / "items.jsonl", folder / "corpora" / "cloze")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PET_STANDALONE", "1")  # a free port, as other tests may be running
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield folder


# One test, as each command uses the files of those before it.
def test_every_command_runs(workspace: Path) -> None:
    for command in commands():
        if command.startswith("make"):
            continue
        flags = [FLAGS[start] for start in FLAGS if command.startswith(start)]
        done = run(*shlex.split(" ".join([command, *flags])), cwd=workspace)
        assert "Traceback" not in done.stderr, command
    scores = json.loads((workspace / "runs" / "360m-interleave" / "table.json").read_text())
    assert [line["setup"] for line in scores] == ["en", "interleave", "en-fr"]
    assert (workspace / "exported" / "model.safetensors").exists()
    assert (workspace / "scores" / "scores.json").exists()
    fleurs = Corpus.open(workspace / "corpora" / "fleurs")
    assert [fleurs.key("fr_fr", i) for i in range(4)] == ["0", "0/2", "1", "1/2"]
    assert len(list(read_items(workspace / "corpora" / "sblimp" / "items.jsonl"))) == 2
    items = list(read_items(workspace / "corpora" / "evaluation" / "items.jsonl"))
    assert {(item.task, item.languages) for item in items} == {
        ("sWUGGY-dev", ("en",)),
        ("sBLIMP-dev", ("en",)),
        ("sSC", ("en", "fr")),
        ("sTC", ("en", "fr")),
    }


def test_the_first_two_commands_are_the_demo_and_the_tests() -> None:
    assert commands()[:2] == ["make demo", "make test"]
    assert "pytest" in run("make", "--dry-run", "test").stdout


def test_the_demo_prints_the_table_and_writes_it(tmp_path: Path) -> None:
    stages = SMALL_STAGES + "--stages.3.tokens 8000"
    flags = (f"DEMO={tmp_path / 'demo'}", f"FLAGS={SMALL_WORLD} {stages}")
    venv = Path(sys.executable).parents[1]
    done = run("make", f"--assume-old={venv}/installed", "demo", f"VENV={venv}", *flags)
    table = json.loads((tmp_path / "demo" / "table.json").read_text())
    assert [line["setup"] for line in table] == ["en", "interleave", "en-fr", "baseline-en-fr"]
    assert sum(table[2]["tokens"].values()) == sum(table[3]["tokens"].values()) == 16_000
    for line in table:
        assert set(line) == {"setup", "tokens", "scores", "stderr", "truncated"}
        assert set(line["scores"]) == {"sSC", "sTC"}
        for task in line["scores"].values():
            assert set(task) == {"en", "fr", "en->fr", "fr->en"}
            assert all(0 <= accuracy <= 1 for accuracy in task.values())
    assert "sTC en->fr" in done.stdout
    assert "table.json" in done.stdout
    last = [line for line in done.stdout.splitlines() if not line.startswith("make[")][-1]
    assert last.endswith("/demo/report/index.html, report.md, figures/")
    assert "sTC en→fr" in (tmp_path / "demo" / "report" / "index.html").read_text()
