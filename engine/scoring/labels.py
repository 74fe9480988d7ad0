"""In which rows of which tables an item counts, by its labels.

Every label is a table with a row for each of its values, but for the frequency of a word, which is
put into ZeroSpeech's bands, and into a table of what is in the vocabulary (heard at least once) and
what is out of it.
"""

from collections.abc import Mapping

# The challenge's program cuts to the left of 1, 5, 20 and 100: a word heard 5 times is in "6-20".
BANDS = {"oov": 1, "1-5": 5, "6-20": 20, "21-100": 100}
LAST_BAND = ">100"


def rows(labels: Mapping[str, str | int]) -> dict[str, str]:
    """The row of an item in each table that has it."""
    found = {}
    for label, value in labels.items():
        if label == "frequency" and isinstance(value, int):
            found["vocabulary"] = "in-vocab" if value else "oov"
            found["frequency"] = band(value)
        else:
            found[label] = str(value)
    return found


def band(frequency: int) -> str:
    """The band of ZeroSpeech's table by frequency."""
    return next((name for name, end in BANDS.items() if frequency < end), LAST_BAND)


def row_order(row: str) -> tuple[int, int, str]:
    """Sorts the rows of a table: bands as they rise, numbers by value, then names."""
    bands = [*BANDS, LAST_BAND]
    if row in bands:
        return 0, bands.index(row), ""
    return (1, int(row), "") if row.isdecimal() else (2, 0, row)
