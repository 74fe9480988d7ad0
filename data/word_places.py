"""The units at which words begin."""

from collections.abc import Sequence


def spread_words(places: Sequence[int], num_units: int) -> list[int]:
    """Move the units at which the words of a sentence begin, so that every word has one or more.

    places: a unit for each word, not falling. The first word gets all units before the second one.
    ValueError for more words than units.
    """
    if len(places) > num_units:
        raise ValueError(f"a sentence of {len(places)} words has {num_units} units")
    spread = [0, *places[1:]]
    for i in range(1, len(spread)):
        spread[i] = max(spread[i], spread[i - 1] + 1)
    for i in range(len(spread) - 1, 0, -1):
        spread[i] = min(spread[i], num_units - (len(spread) - i))
    return spread
