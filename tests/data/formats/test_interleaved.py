"""Shards of interleaved_lm become speech and text with the same words."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.foreign.text_models import write_bpe_tokenizer
from tresse.data import prepare
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.store.text_tokenizer import load_text_tokenizer

CODES = {"a/1": [5, 6, 6, 7, 8], "b": [9, 9]}
TEXT = {"a/1": [3, 4], "b": [30]}
DURATIONS = {"a/1": [2, 3], "b": [2]}


def write_shard(folder: Path, *, aligned: bool = True, codebooks: int = 1, **meta: Any) -> Path:
    """Write a shard as interleaved_speech_data does."""
    folder.mkdir()

    def flat(values: dict[str, list[int]], dtype: type) -> np.ndarray:
        return np.concatenate([np.array(own, dtype) for own in values.values()])

    codes = np.stack([flat(CODES, np.int16) + i for i in range(codebooks)], axis=1)
    arrays = {"audio.bin": codes, "audio.len": np.array([5, 2], np.int64)}
    if aligned:
        lengths = np.array([len(own) for own in TEXT.values()], np.int64)
        arrays |= {"text.bin": flat(TEXT, np.int32), "text.len": lengths}
        arrays["dur.bin"] = flat(DURATIONS, np.int32)
    for name, array in arrays.items():
        array.tofile(folder / name)
    lines = [{"id": key, "audio_steps": len(own)} for key, own in CODES.items()]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = (*arrays, "samples.jsonl")
    content = {
        "schema_version": 1,
        "profile": "aligned" if aligned else "units-only",
        "n_codebooks": codebooks,
        "num_samples": 2,
        "checksums": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names},
    }
    (folder / "meta.json").write_text(json.dumps(content | meta))
    return folder


def run(*arguments: object) -> int:
    return prepare.main(["interleaved", *map(str, arguments)])


@pytest.mark.parametrize("codebooks", [1, 8])
def test_speech_and_text_have_the_same_words(
    codebooks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_bpe_tokenizer(tmp_path / "tokenizer.json")
    known = load_text_tokenizer(tmp_path / "tokenizer.json").get_vocab()
    monkeypatch.setitem(TEXT, "a/1", [known["t"], known["h"], known["Ġcat"]])
    monkeypatch.setitem(DURATIONS, "a/1", [2, 1, 2])
    shard = write_shard(tmp_path / "shard", codebooks=codebooks)
    flags = ("--lang", "en", "--text-tokenizer", tmp_path / "tokenizer.json")
    assert run(shard, *flags, "--out", tmp_path / "c") == 0
    corpus = verify_corpus(tmp_path / "c")
    assert corpus.languages == ("en", "en-text")
    for key in CODES:
        for language, expected in (("en", CODES), ("en-text", TEXT)):
            number = corpus.find(language, key)
            assert corpus.document(language, number)[0].tolist() == expected[key]
    first = corpus.find("en", "a/1")
    assert corpus.words("en", first) == [[0, 3]], "a word is what begins with a space"
    assert corpus.words("en-text", first) == [[0, 2]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "shard", "tokenizer.json"]


def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_bpe_tokenizer(tmp_path / "tokenizer.json")
    flags = (
        "--lang",
        "en",
        "--text-tokenizer",
        tmp_path / "tokenizer.json",
        "--out",
        tmp_path / "c",
    )
    shard, other = write_shard(tmp_path / "shard"), write_shard(tmp_path / "other")
    assert run(shard, other, *flags) == 1
    assert "keys must be unique" in capsys.readouterr().err
    monkeypatch.setitem(TEXT, "b", [900])
    assert run(write_shard(tmp_path / "third"), *flags) == 1
    assert "b: text tokens 900 to 900, the tokenizer has 38" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_speech_alone_needs_no_tokenizer(tmp_path: Path):
    shard = write_shard(tmp_path / "shard", aligned=False)
    assert run(shard, "--lang", "en", "--out", tmp_path / "c") == 0
    assert Corpus.open(tmp_path / "c").languages == ("en",)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda shard: truncate(shard / "audio.bin"), r"audio\.bin: SHA-256 .*restore it"),
        (lambda shard: (shard / "dur.bin").unlink(), r"dur\.bin: no such file; the shard is not"),
        (
            lambda shard: (shard / "meta.json").unlink(),
            r"meta\.json: no such file; expected a shard",
        ),
        (lambda shard: (shard / "meta.json").write_text("{}"), "schema_version 1"),
    ],
)
def test_damaged_shards_are_refused(
    break_it: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shard = write_shard(tmp_path / "shard")
    break_it(shard)
    assert run(shard, "--lang", "en", "--out", tmp_path / "c") == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"profile": "text"}, "profile 'text'"),
        ({"n_codebooks": 0}, "n_codebooks is 0"),
        ({"n_codebooks": 2}, "audio.len says 7 steps of 2 codebooks"),
        ({"num_samples": 3}, "2 lines of samples.jsonl, 2 lengths, 3 samples"),
    ],
)
def test_a_shard_that_contradicts_itself_is_refused(
    meta: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shard = write_shard(tmp_path / "shard", **meta)
    assert run(shard, "--lang", "en", "--out", tmp_path / "c") == 1
    assert message in capsys.readouterr().err


def test_durations_that_do_not_cover_the_speech_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(DURATIONS, "b", [1])
    shard = write_shard(tmp_path / "shard")
    assert run(shard, "--lang", "en", "--out", tmp_path / "c") == 1
    assert "sample 'b' has 2 steps of speech, its tokens 1" in capsys.readouterr().err
    assert run(write_shard(tmp_path / "other", aligned=False), shard, "--lang", "en", "--out", "c")
