"""The parts of a report, which both of its pages are made of: sections of tables, charts, notes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["best", "faint"]
"""Cells that stand out: the best of a column, and values that say little."""


@dataclass(frozen=True, slots=True)
class Style:
    """Look of a setup, the same in all charts of a report."""

    colour: int
    """Number of its colour."""
    mark: int
    """Number of its marker and of its dashes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Points of a setup that belong together."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: Style
    errors: Sequence[float] = ()
    """Standard errors of the values; empty: none are known."""
    is_control: bool = False
    """Drawn thin and without markers, and not in the legend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A value that lines are held against, such as chance."""

    value: float
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart of lines, or of points by category."""

    name: str
    """Name of its file, of letters, digits, "-" and "_", unique in a report."""
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    categories: Sequence[str] = ()
    """Names of categories, from the top: then points are drawn, whose ys are their numbers."""
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False
    """Begin the y-axis at zero."""
    caption: str = ""

    def __post_init__(self) -> None:
        assert re.fullmatch(r"[\w-]+", self.name), self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table, its header first."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    caption: str = ""
    kinds: dict[tuple[int, int], Kind] = field(default_factory=dict)
    """Cells that stand out, by line and column."""
    num_left: int = 1
    """Number of columns, from the first, that are aligned to the left."""

    def kind(self, line: int, column: int) -> str:
        """Return the kind of a cell, or nothing."""
        return self.kinds.get((line, column), "")


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Fold:
    """A table that opens at a click."""

    summary: str
    table: Table


Block = Table | Chart | Note | Fold


@dataclass(frozen=True, slots=True)
class Section:
    """A chapter of a report."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Name to link to."""
        return self.title.lower().replace(" ", "-")
