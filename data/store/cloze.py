"""Cloze items: each asks which of two endings follows a prompt.

An items file is JSON lines, one item per line:

    {"task": "sSC", "id": "1", "prompt": "a/prompt", "correct": "a/ending", "incorrect": "b/ending"}

`prompt`, `correct` and `incorrect` are keys of documents of the corpus in the same folder; `prompt`
is null where two whole recordings are compared (sWUGGY, sBLIMP). Every language of an item has all
its documents, so that each pair of prompt language and ending language can be scored.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tresse.data.durable import replaced_file
from tresse.data.lines import check_fields, parse_records
from tresse.data.naming import normal_key

ITEMS = "items.jsonl"
"""Name of the items file of a corpus."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One choice between two documents."""

    task: str
    """Name of the set, such as sSC; accuracies are per task."""
    id: str
    """Name of the item, unique in its task."""
    prompt: str | None
    """Key of the document that comes first, or None."""
    correct: str
    """Key of the document that should be more likely."""
    incorrect: str
    """Key of the document that should be less likely."""
    languages: tuple[str, ...] = ()
    """Languages in which the item is asked; empty: all languages of the corpus."""
    group: str = ""
    """Items of a task with the same group, for example one word in several voices, together have
    the weight of one item; empty: the item counts by itself."""
    labels: Mapping[str, str | int] = field(default_factory=dict)
    """Properties by which accuracies are also listed, such as a voice, a type or a frequency."""


KEYS = ("prompt", "correct", "incorrect")
REQUIRED = ("task", "id", *KEYS)
OPTIONAL = ("languages", "group", "labels")


def read_items(path: Path) -> Iterator[Item]:
    """Yield the items of a file in order, a line at a time.

    ValueError names file and line: not JSON, a wrong field, an item that occurs twice.
    """
    seen: dict[tuple[str, str], int] = {}
    with Path(path).open("rb") as file:
        lines = ((f"{path}:{number}", line) for number, line in enumerate(file, start=1))
        for number, (where, record) in enumerate(parse_records(lines), start=1):
            try:
                item = _parse(record)
                _check_new(item, number, seen)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            yield item


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write an items file whole or not at all; it replaces a file of that name.

    ValueError when two items of a task have the same id.
    """
    seen: dict[tuple[str, str], int] = {}
    with replaced_file(Path(path)) as file:
        for number, item in enumerate(items, start=1):
            _check_new(item, number, seen)
            file.write(json.dumps(_record(item), ensure_ascii=False).encode() + b"\n")


def merge_items(corpora: Mapping[Path, Sequence[str]], out: Path) -> None:
    """Write the items of several corpora into the folder `out`.

    corpora: folders and their languages; an item without languages gets those of its corpus. An
    item that several corpora have is asked in the languages of all of them. ValueError for two
    items of a name that differ in more than their languages.
    """
    merged: dict[tuple[str, str], Item] = {}
    for folder, languages in corpora.items():
        if (folder / ITEMS).exists():
            for item in read_items(folder / ITEMS):
                own = replace(item, languages=item.languages or tuple(languages))
                former = merged.get((own.task, own.id))
                merged[own.task, own.id] = _joined(former, own, folder) if former else own
    if merged:
        write_items(out / ITEMS, merged.values())


def verify_items(path: Path, languages: Sequence[str], find: Callable[[str, str], int]) -> None:
    """Check an items file, and that every language of an item has all its documents.

    languages: those of the corpus. find: returns the document of a language and key, and raises
    ValueError when there is none. ValueError names the file and the item.
    """
    for item in read_items(path):
        where = f"{path}: item {item.id!r} of {item.task}"
        for language in item.languages or languages:
            if language not in languages:
                raise ValueError(f"{where}: language {language!r}, expected {', '.join(languages)}")
            for key in (item.prompt, item.correct, item.incorrect):
                try:
                    if key is not None:
                        find(language, key)
                except ValueError:
                    raise ValueError(f"{where}: {language} has no document {key!r}") from None


def _joined(former: Item, item: Item, folder: Path) -> Item:
    """Return an item of two corpora in the languages of both."""
    languages = tuple(dict.fromkeys(former.languages + item.languages))
    if replace(former, languages=languages) != replace(item, languages=languages):
        raise ValueError(
            f"{folder / ITEMS}: item {item.id!r} of {item.task} differs from that of another corpus"
        )
    return replace(former, languages=languages)


def _parse(record: dict[str, Any]) -> Item:
    check_fields(record, REQUIRED, OPTIONAL)
    for name in REQUIRED:
        value = record[name]
        if not (isinstance(value, str) and value) and not (name == "prompt" and value is None):
            raise ValueError(f"{name} is {value!r}, expected a string that is not empty")
    record |= {name: normal_key(record[name]) for name in KEYS if record[name] is not None}
    if record["correct"] == record["incorrect"]:
        raise ValueError(f"correct and incorrect are both {record['correct']!r}")
    _check_optional(record)
    languages = tuple(record.pop("languages", ()))
    return Item(**record, languages=languages)


def _check_new(item: Item, number: int, seen: dict[tuple[str, str], int]) -> None:
    """Note the number of an item in `seen`; ValueError when its task has another with this id."""
    before = seen.setdefault((item.task, item.id), number)
    if before != number:
        raise ValueError(f"item {item.id!r} of {item.task} is there already, as number {before}")


def _record(item: Item) -> dict[str, Any]:
    """Return an item as a JSON object, without optional fields that are empty."""
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
