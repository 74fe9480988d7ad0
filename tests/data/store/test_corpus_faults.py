"""Damage to a corpus is named with its place, and a killed writer leaves no corpus."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.corpora.sparse import poke
from tests.support.corpora.tiny import UNITS, small, stories
from tresse.data import durable
from tresse.data.store import corpus_writer
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.shards import ShardWriter


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.write_bytes(content)


def test_verify_finds_every_flipped_bit_of_the_tokens_and_open_does_not_look(tmp_path):
    corpus = small(tmp_path / "c")
    path = corpus.shards["fr"][0].path
    for i in range(corpus.num_tokens("fr")):
        good = path.read_bytes()
        poke(path, i, [3])
        Corpus.open(corpus.path)
        with pytest.raises(ValueError, match=rf"{path.name}: tokens have the hash"):
            verify_corpus(corpus.path)
        path.write_bytes(good)
    verify_corpus(corpus.path)


def test_verify_names_the_place_of_a_token_beyond_the_vocabulary(tmp_path):
    corpus = small(tmp_path / "c")
    poke(corpus.shards["fr"][0].path, 8, [2048])
    with pytest.raises(
        ValueError,
        match="document 1, sentence 1, token 1 is 2048, outside the vocabulary 0 to 2047",
    ):
        verify_corpus(corpus.path)


def test_every_flipped_bit_is_found_by_open_or_by_verify(tmp_path):
    corpus = write_corpus(tmp_path / "c", stories("en", "a") + stories("fr", "a"), UNITS)
    for path in corpus.path.iterdir():
        good = path.read_bytes()
        for place in range(0, len(good), 3):  # each costs an open and a verify
            flip(path, place)
            with pytest.raises(ValueError, match=str(corpus.path)):
                verify_corpus(corpus.path)
            path.write_bytes(good)


ITEM = {"task": "sSC", "id": "1", "prompt": "b", "correct": "d", "incorrect": "a"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "item '1' of sSC: fr has no document 'a'"),  # by default it is asked in all languages
        ({"languages": ["en", "de"]}, "item '1' of sSC: language 'de', expected en, fr"),
        ({"languages": ["en"], "prompt": "z"}, "item '1' of sSC: en has no document 'z'"),
        ({"languages": ["en"], "correct": "z"}, "en has no document 'z'"),
        ({"languages": ["en"], "extra": 1}, "unknown field 'extra'"),
        ({"languages": ["en"], "id": "0"}, "item '0' of sSC is there already"),
    ],
)
def test_verify_reads_the_items_and_looks_for_their_documents(changes, message, tmp_path):
    corpus = small(tmp_path / "c")
    good = ITEM | {"id": "0", "languages": ["en"]}
    text = "".join(json.dumps(item) + "\n" for item in (good, ITEM | changes))
    (corpus.path / "items.jsonl").write_text(text)
    Corpus.open(corpus.path)
    with pytest.raises(ValueError, match=rf"{corpus.path}/items\.jsonl.*: {message}"):
        verify_corpus(corpus.path)
    both = ITEM | {"prompt": None, "incorrect": "b", "id": "2"}
    (corpus.path / "items.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(both))
    verify_corpus(corpus.path)


def test_a_missing_or_exchanged_file_is_named(tmp_path):
    corpus = small(tmp_path / "c")
    en, fr = (corpus.shards[name][0].path for name in ("en", "fr"))
    good = fr.read_bytes()
    fr.write_bytes(en.read_bytes())
    with pytest.raises(ValueError, match=rf"{fr.name}: language is en, corpus.json says fr"):
        Corpus.open(corpus.path)
    other = write_corpus(tmp_path / "d", stories("fr", "dbf"), UNITS).shards["fr"][0].path
    fr.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match=rf"{fr.name}: key_hash has the hash|keys has the hash"):
        Corpus.open(corpus.path)
    fr.write_bytes(good[:-1])
    with pytest.raises(ValueError, match=rf"{fr.name}: the header describes"):
        Corpus.open(corpus.path)
    fr.unlink()
    with pytest.raises(ValueError, match=rf"{fr.name}: cannot be read"):
        Corpus.open(corpus.path)
    with pytest.raises(ValueError, match=r"nothing/corpus\.json: cannot be read"):
        Corpus.open(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(version=3), r"format and version are \('tresse-corpus', 3\)"),
        (lambda c: c.update(version=2), "corpus: fields"),
        (lambda c: c.update(more=1), "corpus: fields"),
        (lambda c: c.pop("tokenizer"), "tokenizer of en: fields NoneType"),
        (lambda c: c.update(languages={}), "languages is not a map"),
        (lambda c: c.update(languages={"en": []}), "shards of en: expected a list"),
        (lambda c: c.update(languages={"../x": []}), "language '../x'"),
        (lambda c: c.update(alignment=None), "alignment if and only if"),
        (lambda c: c["alignment"].update(bytes=1), "bytes, expected 1"),
        (lambda c: c["tokenizer"].update(vocab_size=True), "vocab_size is True, expected int"),
        (lambda c: c["tokenizer"].update(vocab_size=4096), "tokenizer is .*, corpus.json says"),
        (lambda c: c["languages"]["en"][0].update(bytes="1"), "bytes is '1', expected int"),
        (lambda c: c["languages"]["en"][0].update(tokens=1), "tokens is 20, corpus.json says 1"),
        (lambda c: c["languages"]["en"][0].update(xxh3=[]), "xxh3 of .* is not a map of hashes"),
        (lambda c: c["languages"]["en"][0].update(file="/etc/x.safetensors"), "expected a plain"),
        (lambda c: c["languages"]["en"][0].update(file="../c.safetensors"), "expected a plain"),
        (lambda c: c["languages"]["en"][0].update(file=""), "expected a plain"),
    ],
)
def test_a_corpus_json_that_lies_is_refused(edit, message, tmp_path):
    path = small(tmp_path / "c").path / "corpus.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        Corpus.open(tmp_path / "c")
    assert str(tmp_path / "c") in str(caught.value)


def test_a_corpus_json_that_is_cut_or_reformatted_is_refused(tmp_path):
    path = small(tmp_path / "c").path / "corpus.json"
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(ValueError, match=r"corpus\.json: "):
            Corpus.open(tmp_path / "c")
    path.write_text(json.dumps(json.loads(good)))
    with pytest.raises(ValueError, match="not in canonical form"):
        Corpus.open(tmp_path / "c")


def test_verify_finds_translations_that_do_not_follow_from_the_keys(tmp_path, monkeypatch):
    table = corpus_writer.build_table
    monkeypatch.setattr(corpus_writer, "build_table", lambda shards: table(shards)[::-1])
    corpus = small(tmp_path / "c")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="the alignment of en does not follow from the keys"):
        verify_corpus(corpus.path)


def test_verify_finds_a_key_hash_that_is_not_of_its_key(tmp_path, monkeypatch):
    monkeypatch.setattr("tresse.data.store.shards.key_hash", lambda key: len(key))
    corpus = write_corpus(tmp_path / "c", stories("en", "a"), UNITS)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="document 0: key_hash is not the hash of its key"):
        verify_corpus(corpus.path)


WRITER = """
import os, signal, sys
from tresse.data import durable
from tresse.data.store.corpus_writer import merge_corpora, write_corpus
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.store.documents import Document
steps = int(sys.argv[1])
def count(function):
    def step(*arguments, **options):
        global steps
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1
        return function(*arguments, **options)
    return step
os.fsync, os.rename, os.replace = count(os.fsync), count(os.rename), count(os.replace)
os.mkdir, os.link, os.unlink = count(os.mkdir), count(os.link), count(os.unlink)
units = Tokenizer("units", "", "25/2", 2048)
documents = [Document(k, l, [[ord(k)], [2]]) for l in ("en", "fr") for k in "abc"]
documents += [Document("x", "en", [[1]]), Document("x", "fr", [[1], [1]])]
if sys.argv[3:]:
    merge_corpora(sys.argv[3:], sys.argv[2])
else:
    write_corpus(sys.argv[2], documents, units, skip_misaligned=True)
print("left", steps)
"""


def run_writer(steps: int, out: Path, *inputs: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WRITER, str(steps), str(out), *map(str, inputs)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", ["write", "merge"])
@pytest.mark.slow
def test_a_writer_killed_at_any_step_leaves_nothing_at_the_final_name(verb, tmp_path):
    inputs = []
    if verb == "merge":
        inputs = [small(tmp_path / "a").path]
        inputs.append(write_corpus(tmp_path / "b", stories("de", "ab"), UNITS).path)
    whole = run_writer(1000, tmp_path / "whole", *inputs)
    assert whole.returncode == 0, whole.stderr
    num_steps = 1000 - int(whole.stdout.split()[-1])
    expected = Corpus.open(tmp_path / "whole").id
    assert num_steps > 10
    for steps in range(num_steps):
        out = tmp_path / f"killed{steps}"
        assert run_writer(steps, out, *inputs).returncode == -signal.SIGKILL
        for left in tmp_path.glob(f"killed{steps}*"):
            if left == out:  # renamed and killed before the last sync: whole
                assert verify_corpus(out).id == expected
            else:
                assert left.suffix == ".tmp"
    again = run_writer(1000, tmp_path / "killed3", *inputs)
    assert again.returncode == 0
    assert "was left over from a run that died; removed" in again.stderr
    assert not list(tmp_path.glob("killed3.*.tmp"))
    assert verify_corpus(tmp_path / "killed3").id == expected


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_writer_that_fails_at_any_step_leaves_nothing_at_all(error, tmp_path, monkeypatch):
    real = durable.sync
    for step in range(100):
        calls = iter(range(100))

        def fail(descriptor, step=step, calls=calls):
            if next(calls) == step:
                raise error
            real(descriptor)

        monkeypatch.setattr(durable, "sync", fail)
        try:
            small(tmp_path / "c")
        except (OSError, KeyboardInterrupt):
            left = list(tmp_path.iterdir())
            # the very last sync comes after the rename: the corpus is there, and whole
            assert left == [] or (left == [tmp_path / "c"] and verify_corpus(tmp_path / "c"))
            for path in left:
                for file in path.iterdir():
                    file.unlink()
                path.rmdir()
        else:
            assert step > 8
            return
    pytest.fail("the writer never finished")


def test_shard_writers_do_not_hold_tokens_in_memory(tmp_path):
    with ShardWriter(tmp_path, "en", UNITS) as writer:
        writer.add("a", [np.zeros(60_000, np.uint16)] * 100)
        assert (tmp_path / "en.tokens.tmp").stat().st_size >= 11_900_000
