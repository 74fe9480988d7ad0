"""Manifests: every line is read once, in order, and every fault has its file and line."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.manifest import read_manifest
from tresse.data.store.tokenizer import Tokenizer

UNITS = Tokenizer("units", "", "25/2", 2048)
GOOD = {"key": "a", "lang": "en", "sentences": [[1, 2], [3]]}


def line(**changes) -> bytes:
    record = {k: v for k, v in (GOOD | changes).items() if v is not ...}
    return json.dumps(record).encode()


def manifest(folder: Path, *lines: bytes) -> Path:
    path = folder / "m.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_documents_come_in_order_with_their_place(tmp_path):
    words = [[0, 1], [0]]
    first = manifest(tmp_path, line(), b"", line(key="é/\u2028", lang="pt-BR", words=words), b"")
    second = tmp_path / "n.jsonl"
    second.write_bytes(line(key="b") + b"\r\n")
    found = list(read_manifest([first, second]))
    assert [(d.key, d.language, d.words) for d in found] == [
        ("a", "en", None),
        ("é/\u2028", "pt-BR", words),
        ("b", "en", None),
    ]
    assert [d.where for d in found] == [f"{first}:1", f"{first}:3", f"{second}:1"]
    assert found[0].sentences == GOOD["sentences"]


def test_packed_lines_are_read_as_lines_and_damage_is_named(tmp_path):
    path = tmp_path / "m.jsonl.gz"
    lines = b"".join(line(key=str(i)) + b"\n" for i in range(2000))
    path.write_bytes(gzip.compress(lines))
    found = list(read_manifest([path]))
    assert [d.key for d in found] == [str(i) for i in range(2000)]
    assert found[-1].where == f"{path}:2000"
    for damaged in (lines, gzip.compress(lines)[:-9], gzip.compress(lines)[:100] + b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"m\.jsonl\.gz: cannot be read"):
            list(read_manifest([path]))


def test_any_json_of_the_right_shape_is_read_as_the_json_library_reads_it(tmp_path_factory):
    sentences = st.lists(st.lists(st.integers(0, 2047), min_size=1), min_size=1)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(st.text(), sentences)), st.booleans())
    def check(records, ascii_only):
        path = tmp_path_factory.mktemp("m") / "m.jsonl"
        rows = [{"key": k, "lang": "en", "sentences": s} for k, s in records]
        text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8", newline="")
        assert [(d.key, d.sentences) for d in read_manifest([path])] == records

    check()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"{", "Expecting property name"),
        (line()[:-2], "Expecting ',' delimiter"),
        (line() + b"x", "Extra data"),
        (line() + line(), "Extra data"),
        (b"\xff" + line(), "'utf-8' codec can't decode"),
        (line().replace(b'"a"', b'"\xc3"'), "'utf-8' codec can't decode"),
        (b"\xef\xbb\xbf" + line(), "BOM"),
        (b"[" * 100_000, "nested too deeply|Expecting"),
        (b"[]", "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (line()[:-1] + b', "key": "b"}', "field 'key' occurs twice"),
        (line(key=...), "field 'key' is missing"),
        (line(lang=...), "field 'lang' is missing"),
        (line(sentences=...), "field 'sentences' is missing"),
        (line(text="x"), "unknown field 'text'; known are key, lang, sentences, words, prompt_"),
        (line(key=1), "key is 1, expected text"),
        (line(lang=None), "lang is None, expected text"),
        (line(lang="../en"), r"language '\.\./en'"),
        (line(sentences={}), "sentences is not a list of lists"),
        (line(sentences=[1, 2]), "sentences is not a list of lists"),
        (line(sentences=["12"]), "sentences is not a list of lists"),
        (line(words=[0]), "words is not a list of lists"),
        (line(words=None), "words is not a list of lists"),
        (line(prompt_sentences=3), "prompt_sentences is 3, expected an integer from 0 to 2"),
        (line(prompt_sentences=True), "prompt_sentences is True, expected an integer"),
    ],
)
def test_a_line_that_is_no_document_is_refused_with_its_number(bad, message, tmp_path):
    path = manifest(tmp_path, line(), b"", bad, line(key="b"))
    with pytest.raises(ValueError, match=message) as caught:
        list(read_manifest([path]))
    assert str(caught.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (line(key="c", sentences=[]), "no sentences"),
        (line(key="c", sentences=[[1], []]), "sentence 1 has 0 tokens"),
        (line(key="c", sentences=[[1], [2, 2048]]), "sentence 1, token 1 is 2048, outside"),
        (line(key="c", sentences=[[-1]]), "sentence 0, token 0 is -1, outside"),
        (line(key="c", sentences=[[1, 2.0]]), "sentence 0, token 1 is 2.0, expected an integer"),
        (line(key="c", sentences=[[True]]), "sentence 0, token 0 is True, expected an integer"),
        (line(key="c", sentences=[[None]]), "sentence 0, token 0 is None, expected an integer"),
        (line(key="c", sentences=[[float("nan")]]), "is nan, expected an integer"),
        (line(key="c", sentences=[[1 << 64]]), "a token is beyond 64 bits"),
        (line(key="c", words=[[0]]), "words of 1 sentences, expected 2"),
        (line(key="c", words=[[0, 2], [0]]), "sentence 0: word offsets"),
        (line(key="\ud800"), "surrogates not allowed"),
        (line(key="a"), "this key is taken in this language"),
    ],
)
def test_a_document_that_cannot_be_packed_is_refused_with_its_line(bad, message, tmp_path):
    path = manifest(tmp_path, line(), b"", bad, line(key="b"))
    with pytest.raises(ValueError, match=message) as caught:
        write_corpus(tmp_path / "c", read_manifest([path]), UNITS)
    assert str(caught.value).startswith(f"{path}:3: document ")
    assert not (tmp_path / "c").exists()


def test_missing_files_are_named_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl: no such file"):
        next(read_manifest([manifest(tmp_path, line()), tmp_path / "none.jsonl"]))
    with pytest.raises(ValueError, match="no manifest files"):
        next(read_manifest([]))
