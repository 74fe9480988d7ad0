"""Units of textless (https://github.com/facebookresearch/textlesslib): a line per audio file.

    1272-128104-0000<tab>71 12 56 57   OUT.units with --preserve_name, else the units alone
    1272-128104-0000<tab>2 1 1 4       OUT.durations, in the same order

The names have neither folder nor ending. Without them an utterance is called by its place, FOLDER/
FILE/LINE: two languages with equal names of files would else pass for translations line by line.
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
    """Utterances of `*.units` files.

    `expand_durations` repeats each unit as the `.durations` file beside says. ValueError names file
    and line.
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
            raise ValueError(f"{left[0]}: {path.name} ends before; they do not belong together")


def _expand(
    units: list[int], beside: tuple[str, str, list[int]] | None, name: str, where: str
) -> np.ndarray:
    if beside is None:
        raise ValueError(f"{where}: the .durations file beside ends before")
    if beside[1] != name:
        raise ValueError(f"{where}: is of {name!r}, {beside[0]} of {beside[1]!r}")
    try:
        return expand(units, beside[2])
    except ValueError as error:
        raise ValueError(f"{where}: {error} ({beside[0]})") from error


def _read_file(path: Path, separator: str) -> Iterator[tuple[str, str, list[int]]]:
    """Place, name (empty where the file has none) and numbers of each line."""
    between = re.escape(separator)
    numbers = re.compile(f"(?:{NUMBER}(?:{between}{NUMBER})*)?")
    named = None
    for where, line in read_lines(check_files([path], "units")):
        try:
            name, tab, text = line.decode().rpartition("\t")
            if named is None:
                named = bool(tab)
            if named and not tab:
                name, text = text, ""  # textless strips lines: a name without units
            if tab and not named:
                raise ValueError(f"has the name {name!r}, earlier lines have none")
            found = numbers.match(text)
            assert found is not None  # it matches the empty text
            if found.end() < len(text.rstrip()):
                raise ValueError(
                    f"{text[found.end() :][:20]!r} is not a number after {separator!r}"
                )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        units = [int(number) for number in found[0].split(separator)] if found[0] else []
        yield where, name, units
