"""A table of text in aligned columns, two spaces apart."""

from collections.abc import Sequence


def format_table(lines: Sequence[Sequence[str]], num_left: int = 1) -> str:
    """Pad the cells of each column to its widest one; the first line is usually the header.

    num_left: number of columns, from the first, that are aligned to the left; all others are
    aligned to the right. ValueError when lines differ in their number of cells.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < num_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
