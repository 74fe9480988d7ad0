"""Units in columns of Parquet files, Arrow files and Hugging Face datasets (`save_to_disk`).

A line holds the units of an utterance, a list, or a list of lists: its sentences or codebooks.
Files are read batch by batch with pyarrow. Messages count lines from 0, as pyarrow does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tresse.data.formats.arrow_values import NullError, read_lists, read_texts
from tresse.data.formats.codebooks import Lines, choose_codebook, refuse_codebooks
from tresse.data.formats.utterances import Utterance
from tresse.data.left_out import LeftOut
from tresse.data.lines import decode_json

BATCH_LINES = 1024
ARROW_MAGIC, PARQUET_MAGIC = b"ARROW1", b"PAR1"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns to read: flags of the import."""

    key: str = "key"
    """Column of the names, texts or integers: the key, or what --key-pattern is searched in."""
    lang: str = ""
    """Column of the languages. Empty: the language comes from --lang or --key-pattern."""
    units: str = ""
    """Column of the units, a list of integers in each line. Empty if there are sentences."""
    sentences: str = ""
    """Column of the sentences, a list of lists of integers in each line.
    Empty if there are units."""
    codebook: int | None = None
    """Number of the codebook to read, from 0, if the column of the units has a list per codebook in
    each line."""
    equal_sentences: bool = False
    """Allow lists of sentences that are equally long in every line, like a matrix of codebooks.
    Without it such a column is an error."""

    @property
    def names(self) -> list[str]:
        """Names of the columns that are given."""
        return [name for name in (self.key, self.lang, self.units, self.sentences) if name]

    def depth(self, name: str) -> int:
        """Return 1 for a column of lists of units, 2 for lists of lists, 0 for texts."""
        if name == self.units:
            return 1 if self.codebook is None else 2
        return 2 if name == self.sentences else 0

    def check(self) -> None:
        """Raise ValueError for flags that contradict each other."""
        if bool(self.units) == bool(self.sentences):
            raise ValueError("give one of --columns.units and --columns.sentences")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"the columns {', '.join(self.names)} are not all different")
        if self.codebook is not None and (self.codebook < 0 or not self.units):
            raise ValueError("--columns.codebook counts from 0, in the column of --columns.units")
        if self.equal_sentences and not self.sentences:
            raise ValueError("--columns.equal-sentences is for the column of --columns.sentences")


def read_columns(
    paths: Sequence[str | Path], columns: Columns, split: str, left_out: LeftOut | None = None
) -> Iterator[Utterance]:
    """Yield an utterance for each line of the files and folders; ValueError names file and line.

    `split` names the split to read of a folder that has several. `left_out` gets a line with a
    null.
    """
    columns.check()
    left_out = left_out or LeftOut()
    lines = _read_lines(_find_files(paths, split), columns, left_out)
    if columns.codebook is not None:
        lines = choose_codebook(lines, columns.units, columns.codebook)
    elif columns.sentences and not columns.equal_sentences:
        lines = refuse_codebooks(lines, columns.sentences)
    for where, cells in lines:
        left_out.num_read += 1
        name, language = cells[columns.key], cells[columns.lang] if columns.lang else ""
        if columns.units:
            yield Utterance(name, name, cells[columns.units], where, None, language)
        else:
            sentences = cells[columns.sentences]
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
    """Return the files of a folder that `save_to_disk` wrote, in their order."""
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
            f"{path}: no state.json, so save_to_disk did not write it; give the Parquet files "
            "themselves"
        )
    entries = _load(path / "state.json", "_data_files")
    if indices := _load(path / "state.json", "_indices_files", []):
        raise ValueError(f"{path}: lines are selected by {indices}; save it again, flattened")
    if not entries:
        raise ValueError(f"{path}/state.json: lists no files")
    return [path / _plain(entry, path) for entry in entries]


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


def _read_lines(files: list[Path], columns: Columns, left_out: LeftOut) -> Lines:
    """Yield the place of each line and its cells by column."""
    try:
        import pyarrow as pa
    except ImportError:
        raise ValueError(
            "Parquet and Arrow files need pyarrow: pip install 'tresse[arrow]'"
        ) from None
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as bar:
        for path in files:
            first, before = 0, bar.n
            try:
                for batch, share in _read_batches(path, columns.names):
                    yield from _good_lines(batch, columns, path, first, left_out)
                    first += batch.num_rows
                    bar.update(before + int(share * path.stat().st_size) - bar.n)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}: cannot be read: {error}") from error


def _read_batches(path: Path, names: list[str]) -> Iterator[tuple[Any, float]]:
    """Yield batches of the columns `names`, each with the share of the file read so far."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(PARQUET_MAGIC):
        with pq.ParquetFile(path) as parquet:
            _check_columns(path, parquet.schema_arrow.names, names)
            num_lines, read = max(parquet.metadata.num_rows, 1), 0
            for batch in parquet.iter_batches(BATCH_LINES, columns=names):
                read += batch.num_rows
                yield batch, read / num_lines
        return
    with pa.memory_map(str(path)) as source:
        reader: Any
        if magic == ARROW_MAGIC:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:  # save_to_disk writes streams
            batches = reader = pa.ipc.open_stream(source)
        _check_columns(path, reader.schema.names, names)
        for batch in batches:
            batch.validate(full=True)  # offsets in a damaged file may lead out of it
            yield batch.select(names), source.tell() / source.size()


def _check_columns(path: Path, found: list[str], names: list[str]) -> None:
    for name in names:
        if found.count(name) != 1:
            raise ValueError(
                f"{path}: {found.count(name) or 'no'} column {name!r}; it has {', '.join(found)}"
            )


def _good_lines(batch: Any, columns: Columns, path: Path, first: int, left_out: LeftOut) -> Lines:
    """Yield the lines of a batch, line by line if one has a null and is left out."""
    try:
        yield from _batch_lines(batch, columns, path, first)
    except NullError as error:
        if left_out.on_fault == "stop":
            raise
        if batch.num_rows == 1:
            left_out.num_read += 1
            left_out.add(f"{path}: line {first}", str(error).partition(", ")[2])
            return
        for line in range(batch.num_rows):
            yield from _good_lines(batch.slice(line, 1), columns, path, first + line, left_out)


def _batch_lines(batch: Any, columns: Columns, path: Path, first: int) -> Lines:
    """Yield the lines of a batch: texts as str, lists of units as views."""
    import pyarrow as pa

    cells = {}
    for name in columns.names:
        column, depth = batch.column(name), columns.depth(name)
        try:
            cells[name] = read_lists(column, depth) if depth else read_texts(column)
        except pa.ArrowException as error:
            raise ValueError(
                f"{path}: batch at line {first}, column {name!r} of type {column.type} cannot be "
                f"read: {error}"
            ) from error
        except ValueError as error:
            kind = NullError if isinstance(error, NullError) else ValueError
            raise kind(f"{path}: batch at line {first}, column {name!r}: {error}") from error
    for line in range(batch.num_rows):
        yield f"{path}: line {first + line}", {name: values[line] for name, values in cells.items()}
