"""Columns of Parquet, Arrow and dataset folders become documents, for every integer type."""

import json
import sys
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.corpora.tiny import contents
from tests.support.foreign.units import (
    COLUMNS,
    LINES,
    NUMBERED,
    save_splits,
    save_to_disk,
    table,
    write_arrow_file,
    write_parquet,
)
from tresse.data.formats.parquet import Columns, read_columns
from tresse.data.left_out import LeftOut
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus

SENTENCES = {("en", "a"): [[1, 2], [3]], ("fr", "a"): [[4], [5, 6, 7]], ("en", "b"): [[2047]]}


WRITERS = [write_parquet, write_arrow_file, save_to_disk]


def read(path: Path, columns: Columns = COLUMNS, split: str = "") -> list[tuple]:
    return [
        (u.name, u.language, list(map(int, u.units)), u.lengths)
        for u in read_columns([path], columns, split)
    ]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("units", [pa.int64(), pa.uint16(), pa.int16(), pa.uint64()])
@pytest.mark.parametrize("lists", [pa.list_, pa.large_list])
def test_sentences_of_any_integer_type_become_documents(write, units, lists, tmp_path):
    path = write(tmp_path / "t", table(units=units, lists=lists))
    out = tmp_path / "c"
    flags = ["--columns.lang", "lang", "--columns.sentences", "sentences"]
    assert main(["table", str(path), "--out", str(out), *flags]) == 0
    corpus = Corpus.open(out)
    assert contents(corpus) == SENTENCES
    assert corpus.aligned(("en", "fr")).tolist() == [[0, 0]]


@pytest.mark.parametrize("write", WRITERS)
def test_units_are_named_and_gathered_like_those_of_other_tools(write, tmp_path):
    lines = [
        {"key": f"{language}/{key}_{i}.flac", "score": 0.5, "units": sentence}
        for (language, key), sentences in SENTENCES.items()
        for i, sentence in enumerate(sentences)
    ]
    path = write(tmp_path / "t", table(lines[::-1]))
    flags = ["--columns.units", "units", "--key-pattern", NUMBERED]
    assert main(["table", str(path), "--out", str(tmp_path / "c"), *flags]) == 0
    assert contents(Corpus.open(tmp_path / "c")) == SENTENCES


def test_keys_may_be_integers_and_categories(tmp_path):
    units = pa.array([[1], [2]])
    langs = pa.array(["en", "fr"]).dictionary_encode()
    content = pa.table({"key": pa.array([7, -8], pa.int32()), "lang": langs, "units": units})
    for write in (write_parquet, write_arrow_file):
        path = write(tmp_path / write.__name__, content)
        found = read(path, Columns(lang="lang", units="units"))
        assert [line[:2] for line in found] == [("7", "en"), ("-8", "fr")]


def test_a_split_is_chosen_by_name_and_a_single_one_by_itself(tmp_path):
    both = save_splits(tmp_path / "both", train=table(LINES[:2]), test=table(LINES[2:]))
    assert [line[0] for line in read(both, split="test")] == ["b"]
    for split in ("", "valid", "..", "../one/train"):
        with pytest.raises(ValueError, match="has the splits train, test; choose one by --split"):
            read(both, split=split)
    one = save_splits(tmp_path / "one", train=table())
    assert len(read(one)) == 3


def test_lines_are_read_in_order_across_batches_and_files(tmp_path):
    lines = [
        {"key": str(i), "lang": "en", "sentences": [[i % 2048]] * (1 + i % 3)} for i in range(5000)
    ]
    for write in WRITERS:
        found = read(write(tmp_path / write.__name__, table(lines)))
        assert [line[0] for line in found] == [str(i) for i in range(5000)]
        assert all(line[2] == list(chain(*lines[i]["sentences"])) for i, line in enumerate(found))


def with_null(column: str, value: object) -> pa.Table:
    return table([LINES[0], LINES[1] | {column: value}])


def test_a_line_with_a_null_is_left_out_on_demand_and_the_others_read(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(with_null("key", None), path)
    left_out = LeftOut("skip")
    found = list(read_columns([path], COLUMNS, "", left_out))
    (fault,) = left_out.faults
    assert fault.where == f"{path}: line 1"
    assert "column 'key': value 0 is null" in fault.reason
    kept = [number for number in range(left_out.num_read) if number != 1]
    assert [utterance.where for utterance in found] == [f"{path}: line {n}" for n in kept]
    assert left_out.num_read == len(found) + 1


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (table(), Columns(sentences="sentences", key="name"), "no column 'name'; it has key, lang"),
        (table(), Columns(units="lang"), "column 'lang': is string, expected a list"),
        (table(), Columns(units="sentences"), "units are list<.*, expected integers"),
        (table(units=pa.float32()), COLUMNS, "units are float, expected integers"),
        (table(), Columns(key="sentences", units="lang"), "expected text"),
        (with_null("key", None), COLUMNS, "batch at line 0, column 'key': value 1 is null"),
        (with_null("sentences", None), COLUMNS, "column 'sentences': value 1 is null"),
        (with_null("sentences", [[1], None]), COLUMNS, "value 3 is null"),
        (with_null("sentences", [[1, None]]), COLUMNS, "value 4 is null"),
    ],
)
def test_columns_that_are_not_units_are_refused_by_name(content, columns, message, tmp_path):
    for write in (write_parquet, write_arrow_file):
        path = write(tmp_path / write.__name__, content)
        with pytest.raises(ValueError, match=message) as caught:
            read(path, columns)
        assert str(caught.value).startswith(str(path))


def test_a_line_that_cannot_be_packed_is_named(tmp_path, capsys):
    path = write_parquet(
        tmp_path / "t", table([*LINES, LINES[2] | {"key": "c", "sentences": [[]]}])
    )
    flags = ["--columns.lang", "lang", "--columns.sentences", "sentences"]
    assert main(["table", str(path), "--out", str(tmp_path / "c"), *flags]) == 1
    assert f"{path}: line 3 (c): document 'c' (en): sentence 0 has 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give one of --columns.units and --columns.sentences"),
        (["--columns.units", "a", "--columns.sentences", "b"], "give one of --columns.units"),
        (["--columns.units", "a", "--columns.key", "a"], "columns a, a are not all different"),
        (
            ["--columns.lang", "lang", "--lang", "fr"],
            "--columns.lang is given, and --lang",
        ),
        (["--columns.sentences", "sentences"], "line 0 (a): no language; give --lang"),
        (
            [
                "--columns.sentences",
                "sentences",
                "--lang",
                "fr",
                "--key-pattern",
                "(?P<key>)(?P<sentence>)",
            ],
            "line 0 (a): name 'a': sentence is ''",
        ),
        (
            [
                "--columns.sentences",
                "sentences",
                "--columns.lang",
                "lang",
                "--columns.key",
                "number",
                "--key-pattern",
                "(?P<key>)(?P<sentence>.)",
            ],
            "line 0 (0): has sentences; --key-pattern must not number them",
        ),
    ],
)
def test_flags_that_contradict_are_refused(flags, message, tmp_path, capsys):
    content = table().append_column("number", pa.array([0, 1, 2]))
    path = write_parquet(tmp_path / "t", content)
    assert main(["table", str(path), "--out", str(tmp_path / "c"), *flags]) == 1
    assert message in capsys.readouterr().err


def change_state(folder: Path, **changes: object) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "state.json").unlink(), "no state.json, so save_to_disk did not write it"),
        (lambda p: (p / "state.json").write_text("{"), r"state\.json: has no list '_data_files'"),
        (lambda p: change_state(p, _data_files=3), "has no list '_data_files'"),
        (
            lambda p: change_state(p, _data_files=[{"filename": "../x"}]),
            r"lists '\.\./x', expected",
        ),
        (lambda p: change_state(p, _data_files=[{"filename": "/etc/x"}]), "expected a plain file"),
        (lambda p: change_state(p, _data_files=["none.arrow"]), r"none\.arrow: no such file"),
        (lambda p: change_state(p, _data_files=[]), r"state\.json: lists no files"),
        (lambda p: change_state(p, _indices_files=["i"]), "lines are selected by .* flattened"),
        (lambda p: next(p.glob("*.arrow")).write_bytes(b"x" * 99), "cannot be read"),
    ],
)
def test_folders_that_save_to_disk_did_not_write_are_refused(damage, message, tmp_path):
    path = save_to_disk(tmp_path / "d", table())
    damage(path)
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize("write", [write_parquet, write_arrow_file])
def test_a_damaged_file_is_refused_or_read_but_never_crashes(write, tmp_path):
    good = write(tmp_path / "t", table()).read_bytes()
    for size in range(0, len(good), 7):
        (tmp_path / "t").write_bytes(good[:size])
        with suppress(ValueError):
            assert len(read(tmp_path / "t")) <= 3
    for place in range(0, len(good)):
        bad = bytearray(good)
        bad[place] ^= 0xFF
        (tmp_path / "t").write_bytes(bad)
        with suppress(ValueError):
            assert len(read(tmp_path / "t")) <= 3


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "t", table())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ValueError, match=r"Parquet and Arrow files need pyarrow: pip install 'tresse\[arrow\]'"
    ):
        read(path)
