"""Matrices of codebooks: told from sentences, and read a codebook at a time.

A tokenizer of several codebooks gives a matrix for an audio file: a list of units per codebook, all
equally long. Sentences are lists of units too, but seldom equally long.
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

NUM_LOOKED_AT = 100
NUM_SHOWN = 3

Lines = Iterator[tuple[str, dict[str, Any]]]
"""The place of each line of a table, and its cells by column."""


def refuse_codebooks(lines: Lines, column: str) -> Lines:
    """Yield the lines; ValueError if the first hundred all have matrices in the column."""
    head = list(islice(lines, NUM_LOOKED_AT))
    full = [(where, cells[column]) for where, cells in head if cells[column]]
    if len(full) > 1 and all(len(lists) > 1 and _is_matrix(lists) for _, lists in full):
        where, lists = full[0]
        raise ValueError(
            f"{where}: column {column!r} has {len(lists)} lists of {len(lists[0])} units; in each "
            f"of the first {len(full)} lines all lists are equally long, like the codebooks of a "
            f"tokenizer; to read one codebook, give --columns.units {column} --columns.codebook 0; "
            "if they are sentences, add --columns.equal-sentences"
        )
    yield from chain(head, lines)


def choose_codebook(lines: Lines, column: str, codebook: int) -> Lines:
    """Yield the lines with the units of one codebook in the place of a column's matrices.

    ValueError for lists that are not equally long, for another number of codebooks than in the
    first line, and where the matrices have a list per frame instead of one per codebook.
    """
    head = list(islice(lines, NUM_LOOKED_AT))
    num_codebooks = len(head[0][1][column]) if head else 0
    if len(head) > 1 and _have_list_per_frame([cells[column] for _, cells in head]):
        raise ValueError(
            f"{head[0][0]}: column {column!r} has {num_codebooks} lists of "
            f"{len(head[0][1][column][0])} units, and so have the lines after it: a list per "
            "frame; transpose them, to have a list per codebook"
        )
    for where, cells in chain(head, lines):
        lists = cells[column]
        if len(lists) != num_codebooks or not _is_matrix(lists):
            sizes = ", ".join(str(len(units)) for units in lists[:NUM_SHOWN])
            raise ValueError(
                f"{where}: column {column!r} has {len(lists)} lists ({sizes}, ... units); expected "
                f"a list per codebook, all equally long, {num_codebooks} as in the first line"
            )
        if codebook >= num_codebooks:
            raise ValueError(
                f"{where}: no codebook {codebook} in column {column!r}, it has 0 to "
                f"{num_codebooks - 1}"
            )
        yield where, cells | {column: lists[codebook]}


def _is_matrix(lists: list[Any]) -> bool:
    return len({len(units) for units in lists}) == 1


def _have_list_per_frame(matrices: list[list[Any]]) -> bool:
    """Return whether matrices of one shape have more lists than units in a list.

    Matrices of different lengths need no such guess: the number of lists is that of the codebooks.
    """
    shapes = {(len(lists), len(lists[0]) if lists else 0) for lists in matrices}
    return len(shapes) == 1 and all(height > width for height, width in shapes)
