"""Tables of pairs: each line has a sound that should be more likely than the other.

    id: int64, positive: struct<bytes, path>, negative: struct<bytes, path>, voice: string, ...

is how mirrors of sBLIMP and sWUGGY are stored as Hugging Face datasets. As in ZeroSpeech, voices of
one id are averaged first; an id counts within its type and subtype, where there are such columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tresse.data.audio.readers.audio_table import read_cells, read_label
from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import Span
from tresse.data.audio.table_sounds import TableSound
from tresse.data.evaluation.listing import key
from tresse.data.naming import normal_key
from tresse.data.store.cloze import Item
from tresse.data.tables import class_names, find_tables, open_table

LABELS = ("type", "subtype", "voice", "frequency", "length")
ID = "id"


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """Names of the columns of a table of pairs: flags of the kind `table`."""

    positive: str = "positive"
    """Column of the sounds that should be more likely."""
    negative: str = "negative"
    """Column of the sounds that should be less likely."""
    id: str = ""
    """Column of the ids, texts or integers.
    Empty: `id` if there is such a column, else the number of the line."""


class PairTable(NamedTuple):
    """Questions of a table, and the sounds that they are about."""

    items: list[Item]
    recordings: list[Recording]


class _Line(NamedTuple):
    """A line of a table."""

    where: str
    number: int
    cells: dict[str, Any]
    sounds: dict[str, TableSound]


def read_pair_tables(
    task: str, language: str, path: Path, columns: PairColumns, split: str
) -> PairTable:
    """Read a file, or the files of a folder; ValueError names the file and the line at fault.

    split: split to read of a folder that has several.
    """
    items: dict[str, Item] = {}
    recordings, places = [], {}
    first = 0
    for file in find_tables([path], split):
        number = first
        for line in _read(file, columns):
            number = first + line.number
            item = _item(task, language, line, columns.id, number)
            if item.id in items:
                raise ValueError(
                    f"{line.where}: the pair {item.id} is there already ({places[item.id]}); "
                    "choose a column of other ids by --columns.id"
                )
            items[item.id], places[item.id] = item, line.where
            for own, column in (
                (item.correct, columns.positive),
                (item.incorrect, columns.negative),
            ):
                spans = (Span(line.sounds[column]),)
                recordings.append(Recording(own, language, spans, line.where))
            number += 1
        first = number
    if not items:
        raise ValueError(f"{path}: no lines in it")
    return PairTable(list(items.values()), recordings)


def _read(path: Path, columns: PairColumns) -> Iterator[_Line]:
    """Yield the lines of a file with its ids and labels."""
    with open_table(path) as table:
        found = set(table.schema.names)
        named = [columns.id] if columns.id else [ID] if ID in found else []
        names = [*named, *(label for label in LABELS if label in found and label not in named)]
        classes = {name: class_names(table.schema, name) for name in names}
        sounds, folder = [columns.positive, columns.negative], path.absolute().parent
        for number, cells, own in read_cells(path, table, sounds, names, folder):
            where = f"{path}: line {number}"
            try:
                parsed = {name: _parse(name, cells[name], classes[name]) for name in names}
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            yield _Line(where, number, parsed, own)


def _parse(name: str, value: Any, classes: list[str]) -> str | int:
    """Return a cell as a label; pandas writes 12.0 for 12, and null for no label."""
    value = read_label(value, classes)
    if isinstance(value, float) and value % 1 == 0:
        value = int(value)
    if value is None and name in LABELS:
        return ""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise ValueError(f"column {name!r} is {value!r}, expected text or an integer")
    return value


def _item(task: str, language: str, line: _Line, id_column: str, number: int) -> Item:
    """Return the item of a line; `number` counts the lines of all files."""
    cells = line.cells
    own = cells.get(id_column or ID, number)
    kinds = [cells[name] for name in ("type", "subtype") if cells.get(name, "") != ""]
    group = normal_key("/".join(map(str, [*kinds, own])))
    voice = cells.get("voice", "")
    id_ = group if voice == "" else f"{group}/{voice}"
    return Item(
        task=task,
        id=id_,
        prompt=None,
        correct=key(task, f"{id_}/positive"),
        incorrect=key(task, f"{id_}/negative"),
        languages=(language,),
        group=group if id_ != group else "",
        labels={name: cells[name] for name in LABELS if cells.get(name, "") != ""},
    )
