"""Sounds in a column of a table: the audio of Hugging Face datasets, read again by their place.

    struct<bytes, path>             an audio file, or its path where the bytes are null
    struct<array, sampling_rate>    samples of one channel, full scale 1
    binary                          an audio file

A process holds one group of one table open at a time, and of that a few batches of lines. Lines
that follow each other are decoded once.
"""

import errno
import io
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path, PurePath
from threading import Lock
from typing import Any, BinaryIO

from tresse.data.audio.sources import File
from tresse.data.tables import open_table

BATCH_LINES = 32
MIN_BYTES = 44
"""Size of the header of a WAV file. A smaller mean is that of a column with paths alone."""
EXPECTED = "a struct of bytes and path, or of array and sampling_rate, or the bytes of audio files"


@dataclass(frozen=True, slots=True)
class TableSound:
    """A cell of a table that holds a sound."""

    table: str
    column: str
    group: int
    line: int
    """Number of the line in the file."""
    offset: int
    """Number of the line in its group."""
    size: int
    """Mean size of the sounds of the group: a single size would need the bytes to be read."""
    file: str = ""
    """Audio file to read where the bytes are null; empty if none is named."""

    def __str__(self) -> str:
        name = PurePath(self.file).name
        return f"{self.table}: line {self.line}, {self.column}{' ' * bool(name)}{name}"

    def num_bytes(self) -> int:
        """Return the size of the sound, as far as it is known without reading it."""
        if self.size < MIN_BYTES and self.file:
            return File(self.file).num_bytes()
        return self.size

    def open(self) -> str | BinaryIO:
        """Return the bytes of the sound, or the path of its file."""
        try:
            cell = LINES.read(self)
        except ValueError as error:
            reason = str(error).removeprefix(f"{self.table}: cannot be read: ")
            raise OSError(errno.EIO, " ".join(reason.split())) from None
        content = _content(cell)
        if content is not None:
            return io.BytesIO(content)
        if not self.file:
            raise OSError(errno.ENODATA, f"column {self.column!r} has neither bytes nor a path")
        return File(self.file).open()


class LineReader:
    """Cells of tables, read by any number of threads; holds one group open at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._place: tuple[str, int] | None = None
        self._columns: dict[str, _Column] = {}
        self.num_opened = 0
        """Number of columns of groups that were opened so far."""

    def read(self, sound: TableSound) -> Any:
        """Return a cell as a scalar of Arrow; ValueError when the table cannot be read."""
        with self._lock:
            place = sound.table, sound.group
            column = self._columns.get(sound.column) if self._place == place else None
            if column is None or sound.offset < column.first:
                self.close(sound.column if self._place == place else "")
                self._place = place
                column = self._columns[sound.column] = _Column(sound)
                self.num_opened += 1
            try:
                return column.cell(sound.offset)
            except ValueError:
                self.close()
                raise

    def close(self, name: str = "") -> None:
        """Close a column of the open group, or all of them."""
        for own in [name] if name else list(self._columns):
            if column := self._columns.pop(own, None):
                column.close()


class _Column:
    """A column of a group, read forward in batches, of which the last two are held."""

    def __init__(self, sound: TableSound) -> None:
        self._batches = _read(sound)
        self._held: deque[tuple[int, Any]] = deque(maxlen=2)
        self._next = 0

    @property
    def first(self) -> int:
        """Number of the first line in the group that is held, or 0."""
        return self._held[0][0] if self._held else 0

    def close(self) -> None:
        self._batches.close()

    def cell(self, offset: int) -> Any:
        while offset >= self._next:
            batch = next(self._batches, None)
            if batch is None:
                raise ValueError(f"the group ends at line {self._next}; restore the table")
            self._held.append((self._next, batch))
            self._next += len(batch)
        start, batch = next(held for held in reversed(self._held) if held[0] <= offset)
        return batch[offset - start]


def _read(sound: TableSound) -> Generator[Any, None, None]:
    with open_table(Path(sound.table)) as table:
        for batch in table.read(sound.group, [sound.column], BATCH_LINES):
            yield batch.column(0)


def sound_field(kind: Any) -> str:
    """Return the field of a column's type that holds the sound: "" for binary itself.

    ValueError for a type that holds no sound.
    """
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)

    if is_bytes(kind):
        return ""
    fields = {field.name: field.type for field in kind} if types.is_struct(kind) else {}
    if "bytes" in fields and is_bytes(fields["bytes"]):
        return "bytes"
    array = fields.get("array")
    if (
        array is not None
        and "sampling_rate" in fields
        and (types.is_list(array) or types.is_large_list(array))
        and types.is_floating(array.value_type)
    ):
        return "array"
    raise ValueError(f"is {kind}, expected {EXPECTED}")


def _content(cell: Any) -> bytes | None:
    """Return the bytes of an audio file; None for a null."""
    if not cell.is_valid:
        return None
    field = sound_field(cell.type)
    if not field:
        return cell.as_py()
    if field == "bytes" or not cell[field].is_valid:
        return cell[field].as_py()
    return _as_wav(cell["array"].values.to_numpy(zero_copy_only=False), cell["sampling_rate"])


def _as_wav(samples: Any, sampling_rate: Any) -> bytes:
    """Return samples as a WAV file of float32, which holds them as they are."""
    import soundfile

    content = io.BytesIO()
    try:
        rate = sampling_rate.as_py()
        soundfile.write(content, samples.astype("float32"), rate, format="WAV", subtype="FLOAT")
    except (TypeError, soundfile.LibsndfileError):
        raise OSError(errno.EINVAL, f"sampling_rate is {sampling_rate.as_py()}") from None
    return content.getvalue()


LINES = LineReader()
"""The open group of this process."""
