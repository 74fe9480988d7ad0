"""Columns of unit lists: Parquet, Arrow, and folders of Hugging Face datasets' `save_to_disk`.

A row has units, a list, or sentences, a list of lists. Needs pyarrow; read batch by batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tresse.data.formats.utterances import Utterance
from tresse.data.lines import decode_json

BATCH_ROWS = 1024
ARROW_MAGIC, PARQUET_MAGIC = b"ARROW1", b"PAR1"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns of a table: flags of its import."""

    key: str = "key"
    """Column of the name: the key, or what --key-pattern reads."""
    lang: str = ""
    """Column of the language, for tables of several."""
    units: str = ""
    """Column of the units, a list of integers per row; or give --columns.sentences."""
    sentences: str = ""
    """Column of the sentences, a list of lists of units per row."""

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [name for name in (self.key, self.lang, self.units, self.sentences) if name]


def read_table(paths: Sequence[str | Path], columns: Columns, split: str) -> Iterator[Utterance]:
    """Rows of Parquet files, Arrow files and folders; ValueError names file and row.

    `split` names the part to read of a folder that has several.
    """
    if bool(columns.units) == bool(columns.sentences):
        raise ValueError("give one of --columns.units and --columns.sentences")
    if len(set(columns.names)) < len(columns.names):
        raise ValueError(f"the columns {', '.join(columns.names)} are not different ones")
    for where, row in _read_rows(_find_files(paths, split), columns):
        name, language = row[columns.key], row[columns.lang] if columns.lang else ""
        if columns.units:
            yield Utterance(name, name, row[columns.units], where, None, language)
        else:
            sentences = row[columns.sentences]
            units = np.concatenate(sentences) if sentences else np.empty(0, np.int64)
            lengths = [len(sentence) for sentence in sentences]
            yield Utterance(name, name, units, where, lengths, language)


def _find_files(paths: Sequence[str | Path], split: str) -> list[Path]:
    files = [file for path in paths for file in _expand_folder(Path(path), split)]
    if not files:
        raise ValueError("no Parquet files, Arrow files or folders of datasets")
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: no such file")
    return files


def _expand_folder(path: Path, split: str) -> list[Path]:
    """The files of a folder that `save_to_disk` wrote, in the order of its rows."""
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = _load(path / "dataset_dict.json", "splits")
        if not split and len(splits) == 1:
            split = splits[0]
        if split not in splits:
            raise ValueError(f"{path}: has the splits {', '.join(splits)}; choose one by --split")
        path = path / _plain(split, path)
    if not (path / "state.json").is_file():
        raise ValueError(
            f"{path}: no state.json, so not of save_to_disk; give the Parquet files themselves"
        )
    entries = _load(path / "state.json", "_data_files")
    if indices := _load(path / "state.json", "_indices_files", []):
        raise ValueError(f"{path}: rows were selected by {indices}; save it again, flattened")
    if not entries:
        raise ValueError(f"{path}/state.json: lists no files")
    return [path / _plain(entry, path) for entry in entries]


def _load(path: Path, field: str, default: list[str] | None = None) -> list[str]:
    """Names that a file of `save_to_disk` lists."""
    try:
        content = decode_json(path.read_bytes())
        values = content[field] if default is None else content.get(field, default)
        return [value if isinstance(value, str) else value["filename"] for value in values]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: has no list {field!r}, is it of save_to_disk?") from error


def _plain(name: str, folder: Path) -> str:
    """A name that stays in its folder."""
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise ValueError(f"{folder}: lists {name!r}, expected a plain file name")
    return name


def _read_rows(files: list[Path], columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow as pa
    except ImportError:
        raise ValueError("tables need pyarrow: pip install 'tresse[arrow]'") from None
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as bar:
        for path in files:
            first, before = 0, bar.n
            try:
                for batch, share in _read_batches(path, columns.names):
                    yield from _batch_rows(batch, columns, path, first)
                    first += batch.num_rows
                    bar.update(before + int(share * path.stat().st_size) - bar.n)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}: cannot be read: {error}") from error


def _read_batches(path: Path, names: list[str]) -> Iterator[tuple[Any, float]]:
    """Record batches with the columns `names`, and the share of the file that is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(PARQUET_MAGIC):
        with pq.ParquetFile(path) as table:
            _check_columns(path, table.schema_arrow.names, names)
            rows, read = max(table.metadata.num_rows, 1), 0
            for batch in table.iter_batches(BATCH_ROWS, columns=names):
                read += batch.num_rows
                yield batch, read / rows
        return
    with pa.memory_map(str(path)) as source:
        reader: Any
        if magic == ARROW_MAGIC:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:  # what save_to_disk writes
            batches = reader = pa.ipc.open_stream(source)
        _check_columns(path, reader.schema.names, names)
        for batch in batches:
            batch.validate(full=True)  # a damaged file has offsets that lead out of it
            yield batch.select(names), source.tell() / source.size()


def _check_columns(path: Path, found: list[str], names: list[str]) -> None:
    for name in names:
        if found.count(name) != 1:
            raise ValueError(
                f"{path}: {found.count(name) or 'no'} column {name!r}; it has {', '.join(found)}"
            )


def _batch_rows(
    batch: Any, columns: Columns, path: Path, first: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a batch: texts as str, lists of units as views."""
    rows = {}
    for name in columns.names:
        column, depth = batch.column(name), {columns.units: 1, columns.sentences: 2}.get(name, 0)
        try:
            rows[name] = _lists(column, depth) if depth else _texts(column)
        except ValueError as error:
            raise ValueError(f"{path}: rows {first} on, column {name!r}: {error}") from error
    for row in range(batch.num_rows):
        yield f"{path}: row {first + row}", {name: values[row] for name, values in rows.items()}


def _texts(column: Any) -> list[str]:
    """Texts, categories of texts, and integers as texts."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind)):
        raise ValueError(f"is {column.type}, expected text or integers")
    _refuse_nulls(column)
    return column.cast(pa.large_string()).to_pylist()


def _lists(column: Any, depth: int) -> list[Any]:
    """Nested lists of a list array: views of its values, without a Python object per unit."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type
    if depth == 0:
        if not types.is_integer(kind):
            raise ValueError(f"units are {kind}, expected integers")
        _refuse_nulls(column)
        return column.to_numpy(zero_copy_only=False)
    if types.is_fixed_size_list(kind):
        column = column.cast(pa.list_(kind.value_type))
    elif not (types.is_list(kind) or types.is_large_list(kind)):
        raise ValueError(f"is {kind}, expected a list" + (" of lists" if depth == 2 else ""))
    _refuse_nulls(column)
    offsets = column.offsets.to_numpy()
    inner = _lists(column.values[offsets[0] : offsets[-1]], depth - 1)
    cuts = (offsets - offsets[0]).tolist()
    return [inner[begin:end] for begin, end in pairwise(cuts)]


def _refuse_nulls(column: Any) -> None:
    if column.null_count:
        raise ValueError(f"row {column.is_null().to_pylist().index(True)} of these is null")
