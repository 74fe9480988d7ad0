"""A matrix of codebooks is not taken for sentences; one of its codebooks can be read."""

from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.corpora.tiny import contents
from tests.support.foreign.units import write_parquet
from tresse.data.formats.parquet import Columns, read_columns
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus

CODES = [[[10 * k + t for t in range(size)] for k in range(3)] for size in (4, 6, 2)]
"""Matrices of three codebooks, for three audio files."""


def write(folder: Path, lists: list) -> Path:
    keys = [f"k{i}" for i in range(len(lists))]
    kind = pa.list_(pa.list_(pa.int64()))
    return write_parquet(folder / "t.parquet", pa.table({"key": keys, "c": pa.array(lists, kind)}))


def prepare(path: Path, *flags: str) -> int:
    out = path.parent / "corpus"
    return main(["table", str(path), "--lang", "en", "--out", str(out), *flags])


@pytest.mark.parametrize("lists", [CODES, [*CODES, []], [[[1], [2]], [[3], [4]]], CODES * 100])
def test_equally_long_lists_in_every_line_are_refused_as_sentences(lists, tmp_path, capsys):
    path = write(tmp_path, lists)
    assert prepare(path, "--columns.sentences", "c") == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}: line 0: column 'c' has {len(lists[0])} lists of ")
    full = min(len([line for line in lists if line]), 100)
    assert f"in each of the first {full} lines all lists are equally long" in message
    assert "--columns.units c --columns.codebook 0" in message
    assert "--columns.equal-sentences" in message
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    "lists",
    [
        CODES[:1],  # one document is no pattern
        [*CODES, [[1], [2, 3]]],
        [*CODES, [[1]]],
        [[[1]], [[2]]],
    ],
)
def test_other_lists_are_sentences(lists, tmp_path):
    found = list(read_columns([write(tmp_path, lists)], Columns(sentences="c"), ""))
    assert [u.lengths for u in found] == [[len(s) for s in line] for line in lists]


def test_sentences_may_be_equally_long_when_the_user_says_so(tmp_path):
    flags = ["--columns.sentences", "c", "--columns.equal-sentences"]
    assert prepare(write(tmp_path, CODES), *flags) == 0
    corpus = Corpus.open(tmp_path / "corpus")
    assert contents(corpus) == {("en", f"k{i}"): CODES[i] for i in range(3)}


@pytest.mark.parametrize("codebook", [0, 2])
def test_one_codebook_is_a_document_of_one_sentence(codebook, tmp_path):
    flags = ["--columns.units", "c", "--columns.codebook", str(codebook)]
    assert prepare(write(tmp_path, CODES), *flags) == 0
    corpus = Corpus.open(tmp_path / "corpus")
    assert contents(corpus) == {("en", f"k{i}"): [CODES[i][codebook]] for i in range(3)}


def transposed(matrix: list[list[int]]) -> list[list[int]]:
    return [list(column) for column in zip(*matrix, strict=True)]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([*CODES, CODES[0][:2]], r"line 3: column 'c' has 2 lists \(4, 4, .*, 3 as in the first"),
        ([*CODES, []], r"line 3: column 'c' has 0 lists"),
        ([CODES[0], [[1], [2], [3, 4]]], r"line 1: column 'c' has 3 lists \(1, 1, 2, ... units\)"),
        ([transposed(m) for m in CODES], r"line 1: column 'c' has 6 lists .*, 4 as in the first"),
        ([transposed(CODES[0])] * 2, r"line 0: column 'c' has 4 lists of 3 units.*transpose them"),
        ([[[1], [2]], [[3, 4], [5, 6]]], r"line 0: no codebook 2 in column 'c', it has 0 to 1"),
    ],
)
def test_lists_that_are_not_codebooks_are_refused(lists, message, tmp_path):
    path = write(tmp_path, lists)
    with pytest.raises(ValueError, match=rf"^{path}: {message}"):
        list(read_columns([path], Columns(units="c", codebook=2), ""))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(sentences="c", codebook=0), "--columns.codebook counts from 0, in the column of"),
        (Columns(units="c", codebook=-1), "--columns.codebook counts from 0"),
        (Columns(units="c", equal_sentences=True), "--columns.equal-sentences is for the column"),
    ],
)
def test_flags_that_contradict_are_refused(columns, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        list(read_columns([write(tmp_path, CODES)], columns, ""))


def test_units_in_nested_lists_say_which_flag_reads_them(tmp_path):
    message = r"units are list<.*expected integers \(lists of lists are .* need --columns.codebook"
    with pytest.raises(ValueError, match=message):
        list(read_columns([write(tmp_path, CODES)], Columns(units="c"), ""))
