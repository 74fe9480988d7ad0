"""Cloze items: which of two endings follows a prompt?

An items file is JSON lines, one item per line:

    {"task": "sSC", "id": "1", "prompt": "a/prompt", "correct": "a/ending", "incorrect": "b/ending"}

`prompt`, `correct` and `incorrect` are keys of documents of the corpus beside the file; `prompt` is
null where the choice is between two whole recordings (sWUGGY, sBLIMP). Every document is there in
every language of the item, so that it can be scored for each pair of prompt and ending language.
"""

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ITEMS = "items.jsonl"
"""Name of the items file of a corpus."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One choice between two documents."""

    task: str
    """Name of the set, such as sSC; accuracies are per task."""
    id: str
    """Name of the item, different from all others of its task."""
    prompt: str | None
    """Key of the document that comes first, or None."""
    correct: str
    """Key of the document that should be more likely."""
    incorrect: str
    """Key of the document that should be less likely."""
    languages: tuple[str, ...] = ()
    """Languages in which it is asked; none: all of the corpus."""
    group: str = ""
    """Items of a task with the same group, say one word in several voices, count as one between
    them; none: the item counts by itself."""
    labels: Mapping[str, str | int] = field(default_factory=dict)
    """What its accuracy is also listed by: a voice, a type, a frequency."""


REQUIRED = ("task", "id", "prompt", "correct", "incorrect")
OPTIONAL = ("languages", "group", "labels")


def read_items(path: Path) -> Iterator[Item]:
    """The items of a file in order, line by line.

    Raises ValueError naming file and line: bad UTF-8 or JSON, a wrong field, an item seen before.
    """
    seen: dict[tuple[str, str], int] = {}
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                item = parse(line)
                check_new(item, number, seen)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            yield item


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write an items file; it appears under its name only when it is whole and on disk."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    seen: dict[tuple[str, str], int] = {}
    try:
        with part.open("x", encoding="utf-8", newline="\n") as file:
            for number, item in enumerate(items, start=1):
                check_new(item, number, seen)
                file.write(json.dumps(_record(item), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def merge_items(corpora: Mapping[Path, Sequence[str]], out: Path) -> None:
    """Write the items of several corpora, folders with their languages, into the folder `out`."""
    items = [
        replace(item, languages=item.languages or tuple(languages))
        for folder, languages in corpora.items()
        if (folder / ITEMS).exists()
        for item in read_items(folder / ITEMS)
    ]
    if items:
        write_items(out / ITEMS, items)


def parse(line: bytes) -> Item:
    """One item from one line."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"found a {type(record).__name__}, expected an object")
    if set(REQUIRED) - set(record) or set(record) - set(REQUIRED + OPTIONAL):
        raise ValueError(
            f"found the fields {sorted(record)}, expected {sorted(REQUIRED)} and perhaps "
            f"{sorted(OPTIONAL)}"
        )
    for name in REQUIRED:
        value = record[name]
        if not (isinstance(value, str) and value) and not (name == "prompt" and value is None):
            raise ValueError(f"{name} is {value!r}, expected a string that is not empty")
    if record["correct"] == record["incorrect"]:
        raise ValueError(f"correct and incorrect are both {record['correct']!r}")
    _check_optional(record)
    languages = tuple(record.pop("languages", ()))
    return Item(**record, languages=languages)


def check_new(item: Item, number: int, seen: dict[tuple[str, str], int]) -> None:
    """Note an item's name, or say where it was before."""
    before = seen.setdefault((item.task, item.id), number)
    if before != number:
        raise ValueError(f"item {item.id!r} of {item.task} is there already, as number {before}")


def _record(item: Item) -> dict[str, Any]:
    """Return an item as JSON has it: fields that say nothing are left out."""
    record = asdict(item)
    return {name: value for name, value in record.items() if name in REQUIRED or value}


def _check_optional(record: dict[str, Any]) -> None:
    languages, labels = record.get("languages", []), record.get("labels", {})
    if not isinstance(languages, list) or not all(isinstance(each, str) for each in languages):
        raise ValueError(f"languages is {languages!r}, expected a list of strings")
    if not isinstance(record.get("group", ""), str):
        raise ValueError(f"group is {record['group']!r}, expected a string")
    if not isinstance(labels, dict) or not all(type(v) in (str, int) for v in labels.values()):
        raise ValueError(f"labels is {labels!r}, expected an object of strings and integers")
