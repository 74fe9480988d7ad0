"""The manifest of recordings, and the faults that it refuses."""

import json
from pathlib import Path

import pytest

from tresse.data.audio.recordings import Recording, read_recordings
from tresse.data.audio.sources import File, Span
from tresse.data.store.translations import check_translations


def write(path: Path, *listed: dict | str) -> Path:
    """Write JSON lines; text is written as it is."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in listed]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def record(**fields: object) -> dict:
    """A record with the required fields."""
    return {"path": "a.wav", "key": "a", "lang": "en"} | fields


def test_a_recording_is_one_sentence_or_several_of_a_file_or_a_file_each(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl",
        record(),
        record(path="sub/b.flac", key="b", sentences=[[0, 1.5], [2, 3]]),
        record(path="c1.mp3", key="c", sentence=1),
        record(path="/else/where.ogg", lang="fr"),
        record(path="c0.mp3", key="c", sentence=0),
    )
    b = File(str(tmp_path / "sub/b.flac"))
    assert read_recordings([path]) == [
        Recording("a", "en", (Span(File(str(tmp_path / "a.wav"))),), f"{path}:1"),
        Recording("b", "en", (Span(b, 0.0, 1.5), Span(b, 2.0, 3.0)), f"{path}:2"),
        Recording(
            "c", "en", tuple(Span(File(str(tmp_path / f"c{i}.mp3"))) for i in (0, 1)), f"{path}:3"
        ),
        Recording("a", "fr", (Span(File("/else/where.ogg")),), f"{path}:4"),
    ]


def test_csv_says_the_same_as_json_lines(tmp_path: Path) -> None:
    lines = write(
        tmp_path / "m.jsonl",
        record(sentences=[[0, 1.5], [2, 3]]),
        record(key="b", sentence=0),
        record(key='c,"d"'),
    )
    table = tmp_path / "m.csv"
    table.write_text(
        "﻿key,path,lang,sentences,sentence\r\n"
        'a,a.wav,en,"[[0, 1.5], [2, 3]]",\r\n'
        "b,a.wav,en,,0\r\n"
        '"c,""d""",a.wav,en,,\r\n'
    )
    found, expected = read_recordings([table]), read_recordings([lines])
    assert [(r.key, r.language, r.sentences) for r in found] == [
        (r.key, r.language, r.sentences) for r in expected
    ]
    assert found[2].where == f"{table}:4"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (["{"], "m.jsonl:1: "),
        (["[1]"], "m.jsonl:1: not a JSON object"),
        ([{"path": "a", "key": "b"}], "m.jsonl:1: field 'lang' is missing"),
        ([record(speaker="x")], "m.jsonl:1: unknown field 'speaker'"),
        ([record(key=7)], "m.jsonl:1: key is 7, expected text"),
        ([record(path="a\0b")], r"m.jsonl:1: path is 'a\\x00b', expected .* without NUL"),
        ([record(path="\ud800")], r"m.jsonl:1: path is '\\ud800', expected the name of a file"),
        ([record(lang="e n")], "m.jsonl:1: language 'e n'"),
        ([record(sentence=0, sentences=[[0, 1]])], "m.jsonl:1: both 'sentence' and 'sentences'"),
        ([record(sentence=-1)], "m.jsonl:1: sentence is -1"),
        ([record(sentence=True)], "m.jsonl:1: sentence is True"),
        ([record(sentences=[])], r"m.jsonl:1: sentences is \[\], expected \[\[start, end\]"),
        ([record(sentences=[[0]])], r"m.jsonl:1: sentence 0 is \[0\]"),
        ([record(sentences=[[0, "1"]])], r"m.jsonl:1: sentence 0 is \[0, '1'\]"),
        ([record(sentences=[[0, 1e999]])], "m.jsonl:1: sentence 0 is"),
        ([record(sentences=[[-1, 1]])], "m.jsonl:1: sentence 0 is .* in seconds, both at least 0"),
        (
            [record(sentences=[[0, 10**400]])],
            "m.jsonl:1: sentence 0 is .* in seconds, both at least 0",
        ),
        (
            [record(sentences=[[0, 2], [1, 3]])],
            "m.jsonl:1: sentence 1 .* expected a start of at least 2 and",
        ),
        ([record(sentences=[[0, 2], [2, 2]])], "m.jsonl:1: sentence 1 is .* a later end"),
        ([record(), record(path="b")], "m.jsonl:2: key 'a' is in en already .*m.jsonl:1"),
        ([record(), record(sentence=0)], "m.jsonl:2: sentence 0 .*listed already .*m.jsonl:1"),
        (
            [record(sentence=1), record(sentence=1)],
            "m.jsonl:2: sentence 1 .*listed already .*m.jsonl:1",
        ),
        (
            [record(sentence=0), record(sentence=2)],
            "m.jsonl:2 has sentence 2 but no sentence 1; .*0 to 1",
        ),
    ],
)
def test_a_wrong_line_is_named(records: list, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", *records)
    with pytest.raises(ValueError, match=message):
        read_recordings([path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,key,lang\na,b\n", "m.csv:2: the number of cells differs"),
        ("path,key,lang\na,b,en,x\n", "m.csv:2: the number of cells differs"),
        ("path,key,lang,sentences\na,b,en,[[0\n", "m.csv:2: sentences is '.*', expected JSON"),
        ("path,key,lang\na,b,\n", "m.csv:2: field 'lang' is missing"),
        ("path,key\na,b\n", "m.csv: columns are 'path', 'key'; expected path, key, lang, and sent"),
        ("path;key;lang\na;b;en\n", "m.csv: columns are 'path;key;lang'; expected .* by commas"),
        ("\npath,key,lang\n", "m.csv: columns are none; expected path, key, lang"),
        ('path,key,lang\n"a"b,c,en\n', "m.csv:2: not CSV"),
    ],
)
def test_a_wrong_line_of_a_csv_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recordings([path])


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.jsonl: no such file"):
        read_recordings([tmp_path / "none.jsonl"])


def test_translations_need_equally_many_sentences(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl",
        record(sentences=[[0, 1], [1, 2]]),
        record(key="b"),
        record(lang="fr"),
    )
    recordings = read_recordings([path])
    with pytest.raises(ValueError, match=r"m.jsonl:3: fr/a has 1 sentences, .*en/a .*:1\) has 2"):
        check_translations(recordings)
    check_translations(recordings[:2])
    with pytest.raises(ValueError, match=r"m.jsonl:2: key 'b' is in en already"):
        check_translations([recordings[1], Recording("b", "en", (), f"{path}:2")])
