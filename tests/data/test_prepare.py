"""The command line that prepares corpora, run as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.processes import ROOT, finish
from tresse.data.store.corpus import Corpus, verify_corpus

REAL = Path(os.environ.get("TRESSE_REAL_UNITS", "."))
"""Folder of manifests of real speech, en.jsonl and fr.jsonl, all of whose French is aligned."""


def prepare(*arguments: object, folder: Path) -> subprocess.CompletedProcess:
    """Run the command in `folder`, outside the repository."""
    command = [sys.executable, str(ROOT / "data" / "prepare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def write_manifest(path: Path, language: str, counts: dict[str, int]) -> Path:
    records = [{"key": k, "lang": language, "sentences": [[1, 2]] * n} for k, n in counts.items()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_manifests_become_a_corpus_and_a_table_lists_its_content(tmp_path):
    write_manifest(tmp_path / "en.jsonl", "en", {"a": 2, "b": 1})
    write_manifest(tmp_path / "fr.jsonl", "fr", {"b": 1})
    done = prepare("manifest", "en.jsonl", "fr.jsonl", "--out", "sub/c", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["en", "2", "3", "6", "0.00", "1"] in lines
    corpus = verify_corpus(tmp_path / "sub" / "c")
    assert corpus.id in done.stdout
    assert corpus.aligned(("en", "fr")).tolist() == [[1, 0]]


def test_the_tokenizer_comes_from_the_flags(tmp_path):
    write_manifest(tmp_path / "en.jsonl", "en", {"a": 1})
    flags = ["--tokenizer-name", "mimi", "--tokenizer-hash", "1f", "--frame-rate", "25"]
    done = prepare(
        "manifest", "en.jsonl", "--out", "c", *flags, "--vocab-size", "70000", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    corpus = Corpus.open(tmp_path / "c")
    found = corpus.tokenizers[0]
    assert (found.name, found.hash, found.frame_rate, found.vocab_size) == (
        "mimi",
        "1f",
        "25",
        70_000,
    )
    assert corpus.document("en", 0)[0].dtype == np.uint32


def test_misaligned_documents_stop_it_unless_told_to_skip(tmp_path):
    write_manifest(tmp_path / "en.jsonl", "en", {"a": 2, "b": 1})
    write_manifest(tmp_path / "fr.jsonl", "fr", {"a": 1, "b": 1})
    command = ["manifest", "en.jsonl", "fr.jsonl", "--out", "c"]
    done = prepare(*command, folder=tmp_path)
    assert done.returncode == 1
    assert "'a': en 2, fr 1" in done.stderr
    assert "--skip-misaligned" in done.stderr
    assert not (tmp_path / "c").exists()
    done = prepare(*command, "--skip-misaligned", folder=tmp_path)
    assert done.returncode == 0
    assert "left out 1 keys" in done.stderr
    assert verify_corpus(tmp_path / "c").num_documents("en") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bad.jsonl", "--out", "c"], "error: bad.jsonl:1: "),
        (["none.jsonl", "--out", "c"], "error: none.jsonl: no such file"),
        (["--out", "c"], "error: no manifest files"),
        (["bad.jsonl", "--out", "c", "--frame-rate", "x"], "error: frame_rate is 'x'"),
        (["bad.jsonl", "--out", "full"], "error: .*full exists and is not an empty folder"),
    ],
)
def test_a_mistake_of_the_user_is_one_line_without_a_traceback(arguments, message, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = prepare("manifest", *arguments, folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "c").exists()


def test_ctrl_c_leaves_nothing(tmp_path):
    manifest = tmp_path / "m.jsonl"
    records = [{"key": str(i), "lang": "en", "sentences": [[1] * 500] * 20} for i in range(2000)]
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [sys.executable, str(ROOT / "data" / "prepare.py"), "manifest", str(manifest)]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "c")],
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs, perhaps these tests, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not list(tmp_path.glob("c.*.tmp/*")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGINT)
    done = finish(process)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip().endswith("stopped; nothing was written")
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


def test_help_explains_every_flag(tmp_path):
    assert "manifest" in prepare("--help", folder=tmp_path).stdout
    text = prepare("manifest", "--help", folder=tmp_path).stdout
    for flag in ("--out", "--vocab-size", "--frame-rate", "--skip-misaligned", "--tokenizer-hash"):
        assert flag in text


@pytest.mark.skipif(
    not (REAL / "en.jsonl").exists(), reason="TRESSE_REAL_UNITS names no folder with en.jsonl"
)
def test_real_speech_becomes_the_same_units(tmp_path):
    files = [REAL / "en.jsonl", REAL / "fr.jsonl"]
    done = prepare("manifest", *files, "--out", "c", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    corpus = verify_corpus(tmp_path / "c")
    for path in files:
        for line in path.read_text().splitlines():
            record = json.loads(line)
            found = corpus.document(record["lang"], corpus.find(record["lang"], record["key"]))
            assert [sentence.tolist() for sentence in found] == record["sentences"]
    assert len(corpus.aligned(("en", "fr"))) == corpus.num_documents("fr")
