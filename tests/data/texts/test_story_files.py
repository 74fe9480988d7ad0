"""Stories of every format become the same texts."""

import gzip
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tresse.data.left_out import LeftOut
from tresse.data.texts.story_files import read_stories, split_sentences
from tresse.data.texts.texts import Text

CAT = 'A cat sat. "Hi!" said Mr. Tom.\n\nThe end.'
DOG = "A dog ran.  It was fun!"
SENTENCES = {
    CAT: ("A cat sat.", '"Hi!" said Mr. Tom.', "The end."),
    DOG: ("A dog ran.", "It was fun!"),
}


def read(*paths: Path, language: str = "en", left_out: LeftOut | None = None) -> list[Text]:
    """Read files that have no faults, unless `left_out` gets them."""
    return list(read_stories(paths, language, left_out or LeftOut()))


def write_lines(path: Path, *records: object) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("story", "sentences"),
    [
        *SENTENCES.items(),
        ("He had 3.5 apples. Dr. Jones (who was there) left at 5 p.m. today.", 2),
        ('"It is red. It is big," he said.', ('"It is red. It is big," he said.',)),
        ('He ran.\n\n"\n\nShe hid.', ('He ran. "', "She hid.")),
        ("... Yes.", ("Yes.",)),
        ("", ()),
    ],
)
def test_sentences_end_where_a_reader_ends_them(story: str, sentences: int | tuple) -> None:
    found = split_sentences(story, "en")
    assert len(found) == sentences if isinstance(sentences, int) else found == sentences


def test_every_format_gives_the_same_texts_and_keys(tmp_path: Path) -> None:
    end = "<|endoftext|>"
    (tmp_path / "a.txt").write_text(f"\n{CAT}\n{end}\n\n{end}\n{DOG}{end}\n")
    (tmp_path / "open.txt.gz").write_bytes(gzip.compress(f"{CAT}\n{end}\n{DOG}".encode()))
    write_lines(tmp_path / "b.jsonl", {"text": CAT, "source": "GPT-4"}, {"story": DOG})
    table = pa.table({"id": [1, 2], "text": [CAT, DOG]})
    (tmp_path / "hub").mkdir()
    pq.write_table(table, tmp_path / "hub" / "train-00000-of-00001.parquet")
    expected = [(SENTENCES[CAT], "en"), (SENTENCES[DOG], "en")]
    keys = set()
    for name in ("a.txt", "open.txt.gz", "b.jsonl", "hub"):
        found = read(tmp_path / name)
        assert [(text.sentences, text.language) for text in found] == expected, name
        keys.add(tuple(text.key for text in found))
    assert len(keys) == 1
    assert read(tmp_path / "a.txt")[1].where == f"{tmp_path / 'a.txt'}:8"


def test_a_manifest_keeps_its_keys_languages_and_sentences(tmp_path: Path) -> None:
    record = {"key": "7", "lang": "fr", "sentences": ["Un. Deux."]}
    path = write_lines(tmp_path / "t.jsonl", record, {"key": "8", "text": DOG, "lang": "en-GB"})
    assert read(path, language="") == [
        Text("7", "fr", ("Un. Deux.",), f"{path}:1"),
        Text("8", "en-GB", SENTENCES[DOG], f"{path}:2"),
    ]


def test_a_story_that_is_there_twice_is_left_out_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{CAT}\n<|endoftext|>\n{DOG}\n<|endoftext|>\n")
    other = write_lines(tmp_path / "b.jsonl", {"text": DOG.replace("  ", "\n")})
    left_out = LeftOut("skip")
    assert len(read(tmp_path / "a.txt", other, left_out=left_out)) == 2
    (fault,) = left_out.faults
    assert (fault.where, fault.reason) == (f"{other}:1", "the same story is there already")


def test_a_key_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", {"key": "7", "text": CAT}, {"key": "7", "text": DOG})
    with pytest.raises(ValueError, match=r"t\.jsonl:2: key '7' is in en already"):
        read(path, left_out=LeftOut("skip"))


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"text": "..."}, "the story is '...', expected words"),
        ({"text": 5}, "the story is 5, expected text"),
        ({"text": "A\0b."}, "control character"),
        ({"text": "A.", "key": 5}, "key is 5, expected text"),
        ({"words": "A."}, "field 'key' is missing"),
    ],
)
def test_a_story_that_cannot_be_used_is_named_with_its_line(
    record: dict, fault: str, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "t.jsonl", {"text": DOG}, record)
    with pytest.raises(ValueError, match=rf"t\.jsonl:2: .*{fault}"):
        read(path)
    left_out = LeftOut("skip")
    assert len(read(path, left_out=left_out)) == 1
    assert len(left_out.faults) == 1


def test_without_the_package_no_story_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(tmp_path / "t.jsonl", {"text": DOG})
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(ValueError, match=r"pip install 'tresse\[translate\]'"):
        read(path, left_out=LeftOut("skip"))


def test_missing_languages_columns_and_files_are_errors(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", {"text": DOG})
    with pytest.raises(ValueError, match=r"t\.jsonl:1: the language of the story is missing"):
        read(path, language="", left_out=LeftOut("skip"))
    pq.write_table(pa.table({"words": ["A."]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: no column text or story; it has words"):
        read(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"none\.txt: no such file"):
        read(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="no files"):
        read()
