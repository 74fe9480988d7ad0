"""Items files: they read back as written, and each fault is named with its line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tresse.data.store.cloze import Item, merge_items, read_items, write_items

ITEMS = [
    Item(task="sSC", id="1", prompt="a/prompt", correct="a/ending", incorrect="b/ending"),
    Item(task="sTC", id="1", prompt="a/prompt", correct="a/ending", incorrect="c/ending"),
    Item(task="sWUGGY", id="mot-é", prompt=None, correct="mot", incorrect="tom"),
    Item(
        task="sWUGGY",
        id="7/A",
        prompt=None,
        correct="wA",
        incorrect="nA",
        languages=("en", "fr"),
        group="7",
        labels={"voice": "A", "frequency": 12},
    ),
]
GOOD = {"task": "sSC", "id": "1", "prompt": None, "correct": "a", "incorrect": "b"}


def test_items_come_back_as_they_were_written(tmp_path: Path):
    write_items(tmp_path / "items.jsonl", ITEMS)
    assert list(read_items(tmp_path / "items.jsonl")) == ITEMS


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "Expecting property name"),
        (b'{"task": "\xff"}', "'utf-8' codec"),
        (b"[1]", "not a JSON object"),
        (b'{"task": "sSC", "task": "sSC"}', "field 'task' occurs twice"),
        (json.dumps({**GOOD, "extra": "x"}).encode(), "unknown field 'extra'"),
        (json.dumps({k: GOOD[k] for k in GOOD if k != "prompt"}).encode(), "field 'prompt' is mis"),
        (json.dumps({**GOOD, "id": 1}).encode(), "id is 1, expected a string"),
        (json.dumps({**GOOD, "correct": None}).encode(), "correct is None"),
        (json.dumps({**GOOD, "prompt": ""}).encode(), "prompt is ''"),
        (json.dumps({**GOOD, "incorrect": "a"}).encode(), "correct and incorrect are both 'a'"),
        (json.dumps({**GOOD, "languages": "en"}).encode(), "languages is 'en', expected a list"),
        (json.dumps({**GOOD, "languages": [1]}).encode(), "languages is [1], expected a list"),
        (json.dumps({**GOOD, "group": 7}).encode(), "group is 7, expected a string"),
        (json.dumps({**GOOD, "labels": ["a"]}).encode(), "labels is ['a'], expected an object"),
        (json.dumps({**GOOD, "labels": {"a": 0.5}}).encode(), "labels is {'a': 0.5}, expected"),
        (json.dumps({**GOOD, "labels": {"a": True}}).encode(), "labels is {'a': True}, expected"),
        (json.dumps({**GOOD, "id": "0"}).encode(), "item '0' of sSC is there already, as number 1"),
    ],
)
def test_a_bad_line_is_an_error_with_file_and_line_number(tmp_path: Path, line: bytes, fault: str):
    path = tmp_path / "items.jsonl"
    path.write_bytes(json.dumps({**GOOD, "id": "0"}).encode() + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=r"items\.jsonl:2: ") as error:
        list(read_items(path))
    assert fault in str(error.value)


def test_empty_lines_are_skipped_as_in_manifests(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    path.write_bytes(b"\n" + json.dumps(GOOD).encode() + b"\n\n{")
    items = read_items(path)
    assert next(items).id == "1"
    with pytest.raises(ValueError, match=r"items\.jsonl:4: "):
        next(items)


def test_empty_fields_of_an_item_are_not_written(tmp_path: Path):
    write_items(tmp_path / "items.jsonl", ITEMS[:1])
    assert set(json.loads((tmp_path / "items.jsonl").read_text())) == set(GOOD)


def test_the_same_id_in_two_tasks_is_two_items(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps({**GOOD, "task": task}) + "\n" for task in ("sSC", "sTC")))
    assert [item.task for item in read_items(path)] == ["sSC", "sTC"]


def test_items_are_read_one_at_a_time(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(GOOD) + "\nnot an item\n")
    assert next(iter(read_items(path))).id == "1"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    write_items(path, ITEMS[:1])
    with pytest.raises(ValueError, match="item '1' of sSC is there already"):
        write_items(path, [*ITEMS, ITEMS[0]])
    assert list(read_items(path)) == ITEMS[:1]
    assert [file.name for file in tmp_path.iterdir()] == ["items.jsonl"]


def test_an_item_of_several_corpora_is_asked_in_the_languages_of_all(tmp_path: Path):
    for name in ("spoken", "written", "other"):
        (tmp_path / name).mkdir()
    write_items(tmp_path / "spoken" / "items.jsonl", ITEMS[:2])
    write_items(tmp_path / "written" / "items.jsonl", ITEMS[1:3])
    corpora = {tmp_path / "spoken": ("en", "fr"), tmp_path / "written": ("en-text",)}
    merge_items(corpora, tmp_path)
    expected = [("en", "fr"), ("en", "fr", "en-text"), ("en-text",)]
    assert list(read_items(tmp_path / "items.jsonl")) == [
        replace(item, languages=own) for item, own in zip(ITEMS[:3], expected, strict=True)
    ]
    write_items(tmp_path / "other" / "items.jsonl", [replace(ITEMS[1], incorrect="d/ending")])
    with pytest.raises(ValueError, match=r"other.items\.jsonl: item '1' of sTC differs from that"):
        merge_items(corpora | {tmp_path / "other": ("fr-text",)}, tmp_path)
