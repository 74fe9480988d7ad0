"""Units of textless (https://github.com/facebookresearch/textlesslib), one line per audio file.

    1272-128104-0000<tab>71 12 56 57   OUT.units with --preserve_name, else the units alone
    1272-128104-0000<tab>2 1 1 4       OUT.durations, in the same order

Names have neither folder nor ending. An utterance without a name is called by its place,
FOLDER/FILE/LINE. The folder is part of it, or lines of two languages would pass for translations
where their files have the same name.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tresse.data.formats.durations import expand
from tresse.data.formats.utterances import Utterance
from tresse.data.lines import check_files, read_lines

NUMBER = "[0-9]{1,18}"


def read_textless(
    paths: Sequence[str | Path], *, separator: str, expand_durations: bool
) -> Iterator[Utterance]:
    """Yield the utterances of `*.units` files.

    `expand_durations` repeats each unit as the `.durations` file beside it says. ValueError names
    file and line.
    """
    if not separator or "\t" in separator or any(map(str.isdigit, separator)):
        raise ValueError(f"--separator is {separator!r}, expected text without tabs and digits")
    for path in check_files(paths, "units"):
        durations = _read_file(path.with_suffix(".durations"), separator)
        for number, (where, name, units) in enumerate(_read_file(path, separator), 1):
            if expand_durations:
                units = _expand(units, next(durations, None), name, where)
            place = f"{path.absolute().parent.name}/{path.stem}/{number}"
            yield Utterance(name or place, name or place, units, where)
        if expand_durations and (left := next(durations, None)) is not None:
            raise ValueError(
                f"{left[0]}: {path.name} has fewer lines; the two do not belong together"
            )


def _expand(
    units: list[int], beside: tuple[str, str, list[int]] | None, name: str, where: str
) -> np.ndarray:
    if beside is None:
        raise ValueError(f"{where}: the .durations file beside it has fewer lines")
    if beside[1] != name:
        raise ValueError(f"{where}: has the name {name!r}, {beside[0]} has {beside[1]!r}")
    try:
        return expand(units, beside[2])
    except ValueError as error:
        raise ValueError(f"{where}: {error} ({beside[0]})") from error


def _read_file(path: Path, separator: str) -> Iterator[tuple[str, str, list[int]]]:
    """Yield the place, the name (empty if the file has none) and the numbers of each line."""
    between = re.escape(separator)
    numbers = re.compile(f"(?:{NUMBER}(?:{between}{NUMBER})*)?")
    named = None
    for where, line in read_lines(check_files([path], "units")):
        try:
            name, tab, text = line.decode().rpartition("\t")
            if named is None:
                named = bool(tab)
            if named and not tab:
                name, text = text, ""  # textless strips the tab after a name without units
            if tab and not named:
                raise ValueError(f"has the name {name!r}, earlier lines have none")
            found = numbers.match(text)
            assert found is not None  # it matches an empty text
            if found.end() < len(text.rstrip()):
                raise ValueError(
                    f"{text[found.end() :][:20]!r} is not a number after {separator!r}"
                )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        units = [int(number) for number in found[0].split(separator)] if found[0] else []
        yield where, name, units
