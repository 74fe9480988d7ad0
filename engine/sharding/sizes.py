"""Sizes of buffers and limits of the sharded step; the forecast counts with the same numbers."""

from collections.abc import Sequence

MAX_SLICES = 64
"""Number of ranks up to which the lean step reduces each slice by itself, during the backward pass:
with more of them the latency of so many collectives is longer than that."""
BUCKET = 100_000_000
"""Largest number of gradients that DeepSpeed reduces at once at levels 2 and 3."""
LIVE = 1_000_000_000
"""Largest number of weights that a rank holds in full at ZeRO level 3."""


def bucket_numel(sizes: Sequence[int]) -> int:
    """Return the number of gradients in DeepSpeed's bucket: all of a small model at once.

    sizes: number of elements of each parameter.
    """
    return max(max(sizes), min(sum(sizes), BUCKET))
