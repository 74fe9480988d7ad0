"""The packer against its definition in plain Python, byte for byte."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.corpora.in_memory import (
    packings,
    plan_or_reject,
    sources,
    streams_of,
)
from tests.support.labels import counted_labels
from tresse.data.packing.packer import Batch, Plan
from tresse.data.packing.reference import Row, reference_rows


def expected_batch(rows: Sequence[Row], T: int, dtype: type) -> Batch:
    """Return the batch of some reference rows."""
    tokens, num_valid = np.zeros((len(rows), T + 1), dtype), np.zeros(len(rows), np.int32)
    cuts, spans, languages, counted = [], [], [], []
    for r, row in enumerate(rows):
        num_valid[r] = row.num_valid
        last = None
        for column, token in enumerate(row.tokens):
            tokens[r, column] = token.id
            if column == 0 or (token.starts and column < T):
                cuts.append(r * T + column)
            if (token.language, token.counted) != last:
                last = token.language, token.counted
                spans.append(r * (T + 1) + column)
                languages.append(token.language)
                counted.append(token.counted)
        if not row.tokens:
            cuts.append(r * T)
            spans.append(r * (T + 1))
            languages.append(0)
            counted.append(True)
        elif len(row.tokens) < T:
            cuts.append(r * T + len(row.tokens))
    cuts.append(len(rows) * T)
    spans.append(len(rows) * (T + 1))
    return Batch(
        tokens,
        num_valid,
        np.array(cuts, np.int32),
        np.array(spans, np.int32),
        np.array(languages, np.uint8),
        np.array(counted, np.uint8),
    )


def assert_same(found: Batch, expected: Batch) -> None:
    for name in (
        "tokens",
        "num_valid",
        "cu_seqlens",
        "span_starts",
        "span_languages",
        "span_counted",
    ):
        left, right = getattr(found, name), getattr(expected, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)


def fill_all(plan: Plan, sizes: Sequence[int] = (1 << 20,), threads: int = 1) -> list[Batch]:
    """Return all rows in batches of the given sizes, which take turns."""
    batches, first = [], 0
    while first < plan.num_rows:
        size = min(sizes[len(batches) % len(sizes)], plan.num_rows - first)
        batches.append(plan.fill(first, size, threads=threads))
        first += size
    return batches


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(st.data())
def test_rows_are_those_of_the_reference(data):
    read = data.draw(sources())
    streams = data.draw(st.lists(streams_of(read), min_size=1, max_size=3))
    packing = data.draw(packings)
    kwargs = {
        "tokens": data.draw(st.integers(100, 400)),
        "seed": data.draw(st.integers(0, 2**64 - 1)),
        "stage": data.draw(st.integers(0, 3)),
    }
    plan = plan_or_reject(read, streams, packing, **kwargs)
    rows = reference_rows(read, streams, packing, **kwargs)
    assert plan.num_rows == len(rows)
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    threads = data.draw(st.integers(1, 4))
    first = counted = 0
    for batch in fill_all(plan, sizes, threads):
        chunk = rows[first : first + len(batch.tokens)]
        first += len(chunk)
        counted += int(counted_labels(batch, packing.mask_documents).sum())
        assert_same(batch, expected_batch(chunk, packing.row_length, plan.vocabulary.dtype))
    assert counted == kwargs["tokens"]
