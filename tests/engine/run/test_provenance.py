"""The record of each start of a run: its plan, its versions, and the commit of the code."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from tresse.data.packing.packer import plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.store.corpus import Corpus
from tresse.engine.run import provenance
from tresse.engine.run.provenance import FILE, commit, read_starts, versions, write_start


def test_every_start_is_recorded_with_what_it_planned(world: Path, tmp_path: Path) -> None:
    corpus = Corpus.open(world / "train")
    streams = (Stream(languages=("en",)), Stream(languages=("en", "fr"), mode="sample"))
    packing = Packing(row_length=64)
    plan = plan_rows(corpus, streams, packing, tokens=64_000, seed=0, stage=0)
    assert read_starts(tmp_path) == []
    for num_ranks in (2, 3):
        write_start(tmp_path, {"en": plan}, num_ranks)
    starts = read_starts(tmp_path)
    assert [start["ranks"] for start in starts] == [2, 3]
    assert starts[1]["versions"]["torch"] == version("torch")
    mono, braided = starts[0]["stages"]["en"]
    assert (mono["languages"], mono["mode"], mono["rows"]) == (["en"], "mono", 500)
    assert mono["corpus"] == ""
    assert mono["targets"] == {"en": 32_000}
    assert mono["epochs"] == pytest.approx(32_000 / corpus.num_tokens("en"), rel=0.05)
    assert set(braided["targets"]) == {"en", "fr"}
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ValueError, match=r"starts\.jsonl:1: "):
        read_starts(tmp_path)


def test_the_commit_is_that_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)
        return done.stdout.decode().strip()

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("COMMIT", "given")
    assert commit() == "given", "not that of a folder around the code"
    git("init", "-q")
    for name in ("csrc", "data", "engine", "kernels", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "--short=12", "HEAD")
    (tmp_path / "docs" / "file").write_text("other")
    assert commit() == head
    (tmp_path / "engine" / "file").write_text("other")
    assert commit() == f"{head}+"


def test_packages_that_are_missing_have_no_version() -> None:
    found = versions(("torch", "no-such-package"))
    assert set(found) == {"python", "torch"}
