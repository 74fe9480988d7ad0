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
from tresse.data.tables import find_tables, read_batches


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
    lines = _read_lines(find_tables(paths, split), columns, left_out)
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


def _read_lines(files: list[Path], columns: Columns, left_out: LeftOut) -> Lines:
    """Yield the place of each line and its cells by column."""
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as bar:
        for path in files:
            first, before = 0, bar.n
            for batch, share in read_batches(path, columns.names):
                yield from _good_lines(batch, columns, path, first, left_out)
                first += batch.num_rows
                bar.update(before + int(share * path.stat().st_size) - bar.n)


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
