"""Tables of audio: Parquet, Arrow and Hugging Face datasets with a sound in each line.

    audio: struct<bytes: binary, path: string>, transcription: string, language: int64, ...

is what `datasets` writes, and most public speech is stored so. A line is a document, or with a
number, an order or a pattern one sentence of it. Only the other columns are read here; the sound is
read from its place when it is encoded.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tresse.data.audio.readers.pieces import Piece
from tresse.data.audio.sources import Source, Span, time_spans
from tresse.data.audio.table_sounds import TableSound, sound_field
from tresse.data.left_out import LeftOut
from tresse.data.naming import stem
from tresse.data.tables import ArrowTable, ParquetTable, check_columns, class_names, open_table

logger = logging.getLogger(__name__)

LARGE_BYTES = 4 << 30
Table = ParquetTable | ArrowTable


@dataclass(frozen=True, kw_only=True)
class AudioColumns:
    """Names of the columns of a table of audio: flags of `--format table`."""

    audio: str = "audio"
    """Column of the sounds, as `datasets` writes its Audio: bytes and path."""
    key: str = ""
    """Column of the keys, texts or integers; --key-pattern is searched in it.
    Empty: the path beside the sound names the key, by the rules for file names.
    A sound without a path is called FOLDER/FILE/LINE."""
    lang: str = ""
    """Column of the languages: texts, or a ClassLabel.
    Empty: the language comes from --lang or --key-pattern."""
    sentence: str = ""
    """Column of the numbers of sentences.
    Lines that share a key and a language are then one document; a missing number is an error."""
    order: str = ""
    """Column of numbers that put the lines of a document in order, such as start times.
    Unlike numbers of sentences they may have gaps."""
    times: str = ""
    """Column of the times of the sentences in each sound, in seconds:
    a list of [start, end], or of structs of start and end."""
    text: str = ""
    """Column of the texts: of each sound, or with times a list with a text for each sentence.
    They are written to OUT/texts.jsonl, which `speak` reads."""
    number_repeats: bool = False
    """Call the second line of a key KEY/2, the third KEY/3 and so on, for each language.
    Use it where several speakers read the same text, as in FLEURS."""

    def check(self, *, has_languages: bool, has_pattern: bool) -> None:
        """Raise ValueError for flags that contradict each other.

        has_languages, has_pattern: the flags of names give languages, or a pattern.
        """
        names = list(self.names().values())
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"column {twice[0]!r} has two flags --columns; give it one meaning")
        if self.lang and has_languages:
            raise ValueError("--columns.lang is given, and --lang or a group `lang` too; give one")
        if self.number_repeats and (self.sentence or self.order or has_pattern):
            raise ValueError(
                "--columns.number-repeats is for documents of one line; leave it out, or "
                "--columns.sentence, --columns.order and --key-pattern"
            )
        if (self.sentence or self.order) and not (self.key or has_pattern):
            raise ValueError(
                "--columns.sentence and --columns.order need the column of the documents' keys, "
                "--columns.key, or --key-pattern"
            )
        if len([name for name in (self.sentence, self.order, self.times) if name]) > 1:
            raise ValueError("give one of --columns.sentence, --columns.order and --columns.times")

    def names(self) -> dict[str, str]:
        """Return the name of each column that is given, by its role."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {role: name for role, name in values.items() if name and isinstance(name, str)}


def read_audio_tables(
    files: Sequence[Path], columns: AudioColumns, root: Path | None, left_out: LeftOut
) -> Iterator[Piece]:
    """Yield a piece for each line; ValueError or `left_out` names the file and the line.

    root: folder in which relative paths of sounds start; the folder of the table when None.
    """
    repeats: Counter[tuple[str, str]] = Counter()
    for path in tqdm(files, desc="list", unit="file", disable=None):
        with open_table(path) as table:
            lines = _Lines(path, table, columns, root)
            for where, piece in left_out.parsed(lines.read(), lines.parse):
                if columns.number_repeats:
                    piece = _number(piece, repeats)
                yield piece._replace(where=where)


def read_cells(
    path: Path, table: Table, sounds: Sequence[str], names: Sequence[str], folder: Path
) -> Iterator[tuple[int, dict[str, Any], dict[str, TableSound]]]:
    """Yield the number of each line, its cells of `names` and its sounds of the columns `sounds`.

    folder: where relative paths of sounds start. ValueError names a column that is missing or holds
    no sound. A sound whose path is null has an empty `file`; whether it has bytes is found only
    when it is read.
    """
    check_columns(path, table.schema.names, [*sounds, *names])
    held = {column: _sound_field(path, table, column) for column in sounds}
    paths = {c: f"{c}.path" for c in sounds if _has_path(table.schema.field(c).type)}
    line = 0
    for group in table.groups():
        sizes = {c: _mean_bytes(path, table, group, held[c]) for c in sounds}
        first = line
        for batch in table.read(group, [*names, *paths.values()]):
            cells = {name: batch.column(name).to_pylist() for name in names}
            stored = {column: _paths(batch.column(column)) for column in paths}
            for i in range(batch.num_rows):
                own = {
                    c: TableSound(
                        table=str(path),
                        column=c,
                        group=group,
                        line=line,
                        offset=line - first,
                        size=sizes[c],
                        file=_join(folder, stored[c][i]) if c in paths else "",
                    )
                    for c in sounds
                }
                yield line, {name: values[i] for name, values in cells.items()}, own
                line += 1


def read_label(value: Any, names: Sequence[str]) -> Any:
    """Return the name of a ClassLabel's number, and any other value as it is."""
    if not names or type(value) is not int:
        return value
    if not 0 <= value < len(names):
        raise ValueError(f"class {value} has no name; there are {len(names)}")
    return names[value]


class _Lines:
    """The lines of a table, and what they mean."""

    def __init__(self, path: Path, table: Table, columns: AudioColumns, root: Path | None) -> None:
        self._path, self._table, self._folder = path, table, root or path.absolute().parent
        self._audio = columns.audio
        self._names = {r: name for r, name in columns.names().items() if r != "audio"}
        self._classes = {
            role: class_names(table.schema, self._names[role])
            for role in ("key", "lang")
            if role in self._names
        }

    def read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the place of each line and its cells by role, the sound as `source`."""
        names = list(self._names.values())
        for line, cells, sounds in read_cells(
            self._path, self._table, [self._audio], names, self._folder
        ):
            own: dict[str, Any] = {role: cells[name] for role, name in self._names.items()}
            if type(own.get("key")) is int:
                own["key"] = str(own["key"])
            yield f"{self._path}: line {line}", own | {"source": sounds[self._audio]}

    def parse(self, cells: dict[str, Any]) -> Piece:
        """Return the piece of a line; ValueError names the column at fault."""
        source: TableSound = cells["source"]
        for role, name in self._names.items():
            if cells[role] is None:
                raise ValueError(f"column {name!r} is null")
        if "\0" in source.file:
            raise ValueError(f"column {self._audio!r}: the path has a NUL character")
        name, key = self._name(cells, source)
        times = [_pair(own) for own in cells["times"]] if "times" in cells else None
        spans = (Span(source),) if times is None else self._spans(source, times)
        language = self._text(cells, "lang") if "lang" in cells else ""
        texts = self._texts(cells, len(spans)) if "text" in cells else ()
        return Piece(name, key, spans, "", language, self._number(cells), texts)

    def _name(self, cells: dict[str, Any], source: TableSound) -> tuple[str, str]:
        """Return the name of a line, in which a key pattern searches, and its key without one."""
        if "key" in cells:
            return (key := self._text(cells, "key")), key
        if source.file:
            name = source.file.removeprefix(f"{self._folder}/")
            return name, stem(name)
        # Two languages with tables of equal names must not pass for translations of each other.
        place = f"{self._path.absolute().parent.name}/{self._path.stem}/{source.line}"
        return place, place

    def _spans(self, source: Source, times: list[Any]) -> tuple[Span, ...]:
        try:
            return time_spans(source, times)
        except ValueError as error:
            raise ValueError(f"column {self._names['times']!r}: {error}") from None

    def _text(self, cells: dict[str, Any], role: str) -> str:
        value = read_label(cells[role], self._classes[role])
        if not isinstance(value, (str, int)) or value == "":
            raise ValueError(
                f"column {self._names[role]!r} is {value!r}, expected text or an integer"
            )
        return str(value)

    def _number(self, cells: dict[str, Any]) -> int | float | None:
        """Return the number of the sentence; a float may have gaps before it."""
        role = "sentence" if "sentence" in cells else "order"
        if role not in cells:
            return None
        value, name = cells[role], self._names[role]
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"column {name!r} is {value!r}, expected a number") from None
        if role == "order" and number - number == 0:
            return number
        if role == "sentence" and number >= 0 and number % 1 == 0:
            return int(number)
        kind = "an integer of at least 0" if role == "sentence" else "a finite number"
        raise ValueError(f"column {name!r} is {value!r}, expected {kind}")

    def _texts(self, cells: dict[str, Any], num_sentences: int) -> tuple[str, ...]:
        value, name = cells["text"], self._names["text"]
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"column {name!r} is {value!r}, expected text or a list of texts")
        if len(texts) != num_sentences:
            raise ValueError(
                f"column {name!r} has {len(texts)} texts for {num_sentences} sentences"
            )
        return tuple(texts)


def _number(piece: Piece, repeats: Counter[tuple[str, str]]) -> Piece:
    """Give a line that repeats a key a key of its own."""
    identity = piece.language, piece.key
    repeats[identity] += 1
    if repeats[identity] == 1:
        return piece
    return piece._replace(key=f"{piece.key}/{repeats[identity]}")


def _pair(times: Any) -> Any:
    """Return [start, end] of a struct, and any other value as it is."""
    if isinstance(times, dict) and {"start", "end"} <= set(times):
        return [times["start"], times["end"]]
    return times


def _sound_field(path: Path, table: Table, column: str) -> str:
    """Return the name of what holds the sound: "audio.bytes"."""
    try:
        field = sound_field(table.schema.field(column).type)
    except ValueError as error:
        raise ValueError(f"{path}: column {column!r} {error}") from None
    return f"{column}.{field}" if field else column


def _mean_bytes(path: Path, table: Table, group: int, field: str) -> int:
    """Return the mean size of the sounds of a group; warn of a group that is very large."""
    size = table.num_bytes(group, field)
    if size > LARGE_BYTES and isinstance(table, ParquetTable):
        logger.warning(
            "%s: row group %d has %.0f GiB, so reading from its middle is slow; write the table "
            "again with fewer lines in a row group",
            path, group, size / 2**30,
        )  # fmt: skip
    return size // max(table.num_lines(group), 1)


def _has_path(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and kind.get_field_index("path") >= 0


def _paths(column: Any) -> list[str | None]:
    """Return the paths beside the sounds; None for a null."""
    return column.flatten()[column.type.get_field_index("path")].to_pylist()


def _join(folder: Path, stored: Any) -> str:
    return str(folder / stored) if isinstance(stored, str) and stored else ""
