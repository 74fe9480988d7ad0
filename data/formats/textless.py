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
from tresse.data.left_out import ContradictionError, LeftOut
from tresse.data.lines import check_files, read_lines

NUMBER = "[0-9]{1,18}"


def read_textless(
    paths: Sequence[str | Path],
    left_out: LeftOut | None = None,
    *,
    separator: str,
    expand_durations: bool,
) -> Iterator[Utterance]:
    """Yield the utterances of `*.units` files.

    `expand_durations` repeats each unit as the `.durations` file beside it says. ValueError names
    file and line; `left_out` gets a line that is wrong by itself.
    """
    left_out = left_out or LeftOut()
    if not separator or "\t" in separator or any(map(str.isdigit, separator)):
        raise ValueError(f"--separator is {separator!r}, expected text without tabs and digits")
    for path in check_files(paths, "units"):
        parser = _Parser(path, separator)
        if expand_durations:
            beside = check_files([path.with_suffix(".durations")], "durations")
            parser.durations = read_lines(beside)
        for where, utterance in left_out.parsed(read_lines([path]), parser.parse):
            yield utterance._replace(where=where)
        if parser.durations and (left := next(parser.durations, None)) is not None:
            raise ValueError(
                f"{left[0]}: {path.name} has fewer lines; the two do not belong together"
            )


class _Parser:
    """The lines of a `.units` file, each with that of the `.durations` file beside it."""

    def __init__(self, path: Path, separator: str) -> None:
        self._place = f"{path.absolute().parent.name}/{path.stem}"
        self._separator = separator
        self._numbers = re.compile(f"(?:{NUMBER}(?:{re.escape(separator)}{NUMBER})*)?")
        self._named: bool | None = None
        self._count = 0
        self.durations: Iterator[tuple[str, bytes]] | None = None

    def parse(self, line: bytes) -> Utterance:
        """Return the utterance of the next line."""
        self._count += 1
        beside = None if self.durations is None else next(self.durations, ("", b""))
        name, units = self._line(line)
        if beside is not None:
            units = self._expand(units, name, *beside)
        own = name or f"{self._place}/{self._count}"
        return Utterance(own, own, units, "")

    def _expand(self, units: list[int], name: str, where: str, line: bytes) -> np.ndarray:
        if not where:
            raise ContradictionError("the .durations file beside it has fewer lines")
        other, durations = self._line(line)
        if other != name:
            raise ContradictionError(f"has the name {name!r}, {where} has {other!r}")
        try:
            return expand(units, durations)
        except ValueError as error:
            raise ValueError(f"{error} ({where})") from error

    def _line(self, line: bytes) -> tuple[str, list[int]]:
        """Return the name (empty if the file has none) and the numbers of a line."""
        name, tab, text = line.decode().rpartition("\t")
        if self._named is None:
            self._named = bool(tab)
        if self._named and not tab:
            name, text = text, ""  # textless strips the tab after a name without units
        if tab and not self._named:
            raise ValueError(f"has the name {name!r}, earlier lines have none")
        found = self._numbers.match(text)
        assert found is not None  # it matches an empty text
        if found.end() < len(text.rstrip()):
            raise ValueError(
                f"{text[found.end() :][:20]!r} is not a number after {self._separator!r}"
            )
        return name, [int(number) for number in found[0].split(self._separator)] if found[0] else []
