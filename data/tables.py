"""Tables on disk, group by group: Parquet, Arrow, and Hugging Face datasets (`save_to_disk`).

A group is a part that can be read by itself: a row group of Parquet, a record batch of Arrow. Lines
and groups count from 0, as pyarrow counts them.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tresse.data.lines import decode_json

BATCH_LINES = 1024
ARROW_MAGIC, PARQUET_MAGIC = b"ARROW1", b"PAR1"
BUFFER_BYTES = 1 << 20
"""Bytes of a column that are read at once, however long its row group is."""
SHARD = re.compile(r"(.+)-\d{5,}-of-\d{5,}\.parquet")


def find_tables(paths: Sequence[str | Path], split: str) -> list[Path]:
    """Return the files of tables, of which folders hold several, in their order.

    split: split to read of a folder that has several. ValueError for a file that does not exist.
    """
    files = [file for path in paths for file in _expand_folder(Path(path), split)]
    if not files:
        raise ValueError("no Parquet files, Arrow files or folders of datasets")
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: no such file")
    return files


def read_batches(path: Path, names: Sequence[str]) -> Iterator[tuple[Any, float]]:
    """Yield batches of the columns `names`, each with the share of the file read so far."""
    with open_table(path) as table:
        check_columns(path, table.schema.names, names)
        for group in table.groups():
            for batch in table.read(group, names):
                yield batch, table.share(group)


def check_columns(path: Path, found: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError unless each column is in the file once."""
    for name in names:
        if found.count(name) != 1:
            raise ValueError(
                f"{path}: {found.count(name) or 'no'} column {name!r}; it has {', '.join(found)}"
            )


def class_names(schema: Any, column: str) -> list[str]:
    """Return the names that the numbers of a column stand for; none unless it is a ClassLabel."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(features[column]["names"]) if "names" in features[column] else []
    except (KeyError, TypeError, ValueError):
        return []


class ParquetTable:
    """An open Parquet file, whose groups are its row groups."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        self.schema = self._file.schema_arrow

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def groups(self) -> Iterator[int]:
        """Yield the numbers of the groups."""
        yield from range(self._file.num_row_groups)

    def read(
        self, group: int, names: Sequence[str], batch_lines: int = BATCH_LINES
    ) -> Iterator[Any]:
        """Yield batches of a group; "audio.path" names a field of a column of structs."""
        yield from self._file.iter_batches(batch_lines, [group], columns=list(names))

    def num_bytes(self, group: int, column: str) -> int:
        """Return the size of a column, or of a field of one, in a group, without reading it."""
        metadata = self._file.metadata.row_group(group)
        chunks = [metadata.column(i) for i in range(metadata.num_columns)]
        own = [c for c in chunks if f"{c.path_in_schema}.".startswith(f"{column}.")]
        return sum(chunk.total_uncompressed_size for chunk in own)

    def num_lines(self, group: int) -> int:
        """Return the number of lines of a group."""
        return self._file.metadata.row_group(group).num_rows

    def share(self, group: int) -> float:
        """Return the share of the file up to the end of a group."""
        return (group + 1) / self._file.num_row_groups


class ArrowTable:
    """An open Arrow file or stream, mapped, whose groups are its record batches."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        with path.open("rb") as file:
            self._is_file = file.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        self._source = pa.memory_map(str(path))
        self._reader = self._open()
        self._batch: Any = None
        self._next = 0
        """Number of the group after `_batch`; 0 for none."""
        self.schema = self._reader.schema

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def groups(self) -> Iterator[int]:
        """Yield the numbers of the groups."""
        group = 0
        while self._go_to(group) is not None:
            yield group
            group += 1

    def read(
        self, group: int, names: Sequence[str], batch_lines: int = BATCH_LINES
    ) -> Iterator[Any]:
        """Yield batches of a group, with whole columns where a field is named."""
        batch = self._go_to(group)
        if batch is None:
            raise IndexError(f"no record batch {group}")
        whole = [name if name in batch.schema.names else name.partition(".")[0] for name in names]
        for start in range(0, batch.num_rows, batch_lines):
            yield batch.select(whole).slice(start, batch_lines)

    def num_bytes(self, group: int, column: str) -> int:
        """Return the size of a column, or of a field of one, in a group."""
        batch = self._go_to(group)
        assert batch is not None
        column, _, field = column.partition(".")
        found = batch.column(column)
        return (found.field(field) if field else found).nbytes

    def num_lines(self, group: int) -> int:
        """Return the number of lines of a group."""
        batch = self._go_to(group)
        assert batch is not None
        return batch.num_rows

    def share(self, group: int) -> float:
        """Return the share of the file up to the end of a group."""
        if self._is_file:
            return (group + 1) / self._reader.num_record_batches
        return self._source.tell() / self._source.size()

    def _open(self) -> Any:
        import pyarrow as pa

        self._source.seek(0)
        # save_to_disk writes streams.
        return (pa.ipc.open_file if self._is_file else pa.ipc.open_stream)(self._source)

    def _go_to(self, group: int) -> Any:
        """Return a record batch, or None beyond the last one; a stream is read from its start."""
        if group == self._next - 1:
            return self._batch
        if self._is_file:
            if group >= self._reader.num_record_batches:
                return None
            self._batch = self._reader.get_batch(group)
        else:
            if group < self._next:
                self._reader, self._next = self._open(), 0
            for _ in range(group - self._next + 1):
                self._batch = next(self._reader, None)
            if self._batch is None:
                self._reader, self._next = self._open(), 0
                return None
        self._batch.validate(full=True)  # offsets in a damaged file may lead out of it
        self._next = group + 1
        return self._batch


@contextmanager
def open_table(path: Path) -> Iterator[ParquetTable | ArrowTable]:
    """Open a file by its first bytes; ValueError without pyarrow, or when it cannot be read."""
    try:
        import pyarrow as pa
    except ImportError:
        raise ValueError(
            "Parquet and Arrow files need pyarrow: pip install 'tresse[arrow]'"
        ) from None
    # Looked up now: a table that is open when Python ends is closed when pyarrow is gone already.
    faults = (pa.ArrowException, OSError, UnicodeDecodeError)
    try:
        with path.open("rb") as file:
            is_parquet = file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
        table = ParquetTable(path) if is_parquet else ArrowTable(path)
        try:
            yield table
        finally:
            table.close()
    except faults as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def _expand_folder(path: Path, split: str) -> list[Path]:
    """Return the files of a folder that `save_to_disk` wrote, or its Parquet files, in order."""
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = _load(path / "dataset_dict.json", "splits")
        path = path / _plain(_choose(path, splits, split), path)
    if not (path / "state.json").is_file():
        return _find_shards(path, split)
    entries = _load(path / "state.json", "_data_files")
    if indices := _load(path / "state.json", "_indices_files", []):
        raise ValueError(f"{path}: lines are selected by {indices}; save it again, flattened")
    if not entries:
        raise ValueError(f"{path}/state.json: lists no files")
    return [path / _plain(entry, path) for entry in entries]


def _find_shards(path: Path, split: str) -> list[Path]:
    """Return the Parquet files in a folder; names like train-00000-of-00002.parquet have splits."""
    files = [file for file in sorted(path.glob("*.parquet")) if not file.name.startswith(".")]
    if not files:
        raise ValueError(
            f"{path}: no state.json, so save_to_disk did not write it, and no Parquet files in it; "
            "give the folder that has the files, or the files themselves"
        )
    if not any(SHARD.fullmatch(file.name) for file in files):
        return files
    of_split: dict[str, list[Path]] = {}
    for file in files:
        found = SHARD.fullmatch(file.name)
        of_split.setdefault(found[1] if found else file.stem, []).append(file)
    return of_split[_choose(path, list(of_split), split)]


def _choose(path: Path, splits: list[str], split: str) -> str:
    """Return the split to read; ValueError names those that there are."""
    if not split and len(splits) == 1:
        return splits[0]
    if split not in splits:
        raise ValueError(f"{path}: has the splits {', '.join(splits)}; choose one by --split")
    return split


def _load(path: Path, field: str, default: list[str] | None = None) -> list[str]:
    """Return the names in a list field of a file that `save_to_disk` wrote."""
    try:
        content = decode_json(path.read_bytes())
        values = content[field] if default is None else content.get(field, default)
        return [value if isinstance(value, str) else value["filename"] for value in values]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: has no list {field!r}; did save_to_disk write it?") from error


def _plain(name: str, folder: Path) -> str:
    """Return the name of a file in the folder; ValueError for one that leads out of it."""
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise ValueError(f"{folder}: lists {name!r}, expected a plain file name")
    return name
