"""Columns of Arrow as Python values: texts, and nested lists of units as views of their values.

A type is read for what it holds, however it lays that out: as large_list, list_view, dictionary and
so on. ValueError names any other type, and a value that is null.
"""

from typing import Any

import numpy as np


class NullError(ValueError):
    """A value that is null: a fault of its line, not of the column."""


def read_texts(column: Any) -> list[str]:
    """Return a column of texts, of bytes in UTF-8 or of integers as texts."""
    import pyarrow as pa
    from pyarrow import types

    _refuse_nulls(column)
    if types.is_dictionary(column.type):
        texts = read_texts(column.dictionary)
        return [texts[index] for index in column.indices.to_pylist()]
    kinds = (
        types.is_string, types.is_large_string, types.is_string_view, types.is_binary,
        types.is_large_binary, types.is_binary_view, types.is_integer,
    )  # fmt: skip
    if not any(is_kind(column.type) for is_kind in kinds):
        raise ValueError(f"is {column.type}, expected text or integers")
    return column.cast(pa.large_string()).to_pylist()


def read_lists(column: Any, depth: int) -> Any:
    """Return nested lists: no Python object per unit, but a view of the column's values.

    depth: 0 for a column of units, 1 for one of lists of units, 2 for lists of lists.
    """
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    _refuse_nulls(column)
    if depth == 0:
        if not types.is_integer(column.type):
            hint = " (lists of lists are --columns.sentences, or need --columns.codebook)"
            raise ValueError(
                f"units are {column.type}, expected integers{hint * types.is_nested(column.type)}"
            )
        return column.to_numpy(zero_copy_only=False)
    values, starts, ends = _layout(column, depth)
    low, high = (int(starts.min()), int(ends.max())) if len(column) else (0, 0)
    inner = read_lists(values[low:high], depth - 1)
    cuts = zip((starts - low).tolist(), (ends - low).tolist(), strict=True)
    return [inner[start:end] for start, end in cuts]


def _layout(column: Any, depth: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the values of a column of lists, and where in them each list starts and ends."""
    from pyarrow import types

    kind = column.type
    if types.is_list(kind) or types.is_large_list(kind):
        offsets = column.offsets.to_numpy()
        return column.values, offsets[:-1], offsets[1:]
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        offsets = column.offsets.to_numpy()
        return column.values, offsets, offsets + column.sizes.to_numpy()
    if types.is_fixed_size_list(kind):
        starts = np.arange(len(column)) * kind.list_size
        return column.flatten(), starts, starts + kind.list_size
    raise ValueError(f"is {kind}, expected a list" + (" of lists" if depth == 2 else ""))


def _refuse_nulls(column: Any) -> None:
    if column.null_count:
        raise NullError(f"value {column.is_null().to_pylist().index(True)} is null")
