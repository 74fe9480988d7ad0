"""Texts to be spoken: each fault is named with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tresse.data.texts.texts import Text, check_sentences, read_texts, write_texts

GOOD = {"key": "1", "lang": "fr", "sentences": ["Où ça ?", "L'été."]}


def write(path: Path, *records: dict[str, Any]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_texts_of_several_files_come_in_order(tmp_path: Path) -> None:
    fr = write(tmp_path / "fr.jsonl", GOOD, GOOD | {"key": "2", "sentences": ["Trois."]})
    en = write(tmp_path / "en.jsonl", GOOD | {"lang": "en", "sentences": ["Where?", "Summer."]})
    assert read_texts([fr, en]) == [
        Text("1", "fr", ("Où ça ?", "L'été."), f"{fr}:1"),
        Text("2", "fr", ("Trois.",), f"{fr}:2"),
        Text("1", "en", ("Where?", "Summer."), f"{en}:1"),
    ]


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (GOOD | {"voice": "x"}, "unknown field 'voice'"),
        ({"key": "2", "lang": "fr"}, "field 'sentences' is missing"),
        (GOOD | {"key": "2", "continues": 1}, "continues is 1, expected true or false"),
        (GOOD | {"key": 2}, "key is 2"),
        (GOOD | {"key": ""}, "key is ''"),
        (GOOD | {"key": "2", "lang": "f/r"}, "f/r"),
        (GOOD | {"key": "2", "lang": 5}, "language 5"),
        (GOOD | {"key": "2", "sentences": []}, "sentences is []"),
        (GOOD | {"key": "2", "sentences": "Un."}, "sentences is 'Un.'"),
        (GOOD | {"key": "2", "sentences": ["Un.", "..."]}, "sentence 1 is '...', expected words"),
        (GOOD | {"key": "2", "sentences": ["Un\0."]}, "control character"),
        (GOOD, "key '1' is in fr already"),
        (GOOD | {"lang": "en", "sentences": ["One."]}, "en/1 has 1 sentences, its translation"),
    ],
)
def test_a_bad_text_is_an_error_with_its_line(
    record: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "t.jsonl", GOOD, record)
    with pytest.raises(ValueError, match=r"t\.jsonl:2: ") as error:
        read_texts([path])
    assert fault in str(error.value)


def test_what_continues_another_text_is_read_back(tmp_path: Path) -> None:
    texts = [Text("1", "en", ("One.",)), Text("2", "en", ("Two.",), continues=True)]
    write_texts(tmp_path / "t.jsonl", texts)
    assert [text.continues for text in read_texts([tmp_path / "t.jsonl"])] == [False, True]
    assert (tmp_path / "t.jsonl").read_text().count("continues") == 1


def test_a_file_without_texts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no texts"):
        read_texts([write(tmp_path / "t.jsonl")])


def test_spaces_that_no_line_breaks_at_belong_to_french():
    check_sentences(["Il dit\u00a0: \u00ab\u202foui\u202f\u00bb."])
