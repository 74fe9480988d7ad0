"""Deduplicated units and the number of times that each was repeated."""

from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_UNITS = 1 << 24
"""Most units of a file: 186 hours at 25 Hz. More is a mistake."""


def expand(units: Sequence[int] | np.ndarray, durations: Any) -> np.ndarray:
    """Repeat each unit for its duration: [3, 49], [2, 1] -> [3, 3, 49]."""
    if not isinstance(durations, (list, np.ndarray)):
        raise ValueError("durations are missing; --expand needs them")
    if len(durations) != len(units):
        raise ValueError(f"{len(durations)} durations for {len(units)} units")
    for values, name in ((units, "unit"), (durations, "duration")):
        for value in values if isinstance(values, list) else ():
            if type(value) is not int:
                raise ValueError(f"{name} is {value!r}, expected an integer")
    try:
        counts, numbers = np.asarray(durations, np.int64), np.asarray(units, np.int64)
    except OverflowError:
        raise ValueError("a unit or duration does not fit in 64 bits") from None
    if counts.size and (counts.min() < 1 or counts.max() > MAX_UNITS or counts.sum() > MAX_UNITS):
        raise ValueError(
            f"durations from {counts.min()} to {counts.max()}, {counts.sum()} in all; expected "
            f"1 or more each, and at most {MAX_UNITS} in all"
        )
    return np.repeat(numbers, counts)
