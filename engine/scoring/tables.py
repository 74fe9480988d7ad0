"""Table 3 over several runs, as text, Markdown, CSV or LaTeX."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tresse.engine.run.typed_json import Record
from tresse.engine.scoring.report import TABLE, format_scores, score_cells

Format = Literal["text", "markdown", "csv", "latex"]


def read_tables(runs: Sequence[Path]) -> list[Record]:
    """Read the lines of the tables of runs; a line's setup is RUN/STAGE if there are several runs.

    ValueError names a run that has not been scored.
    """
    lines = []
    for run in runs:
        path = run / TABLE
        if not path.exists():
            raise ValueError(f"{path}: no such file; a run writes it when a stage is scored")
        for line in json.loads(path.read_text(encoding="utf-8")):
            name = f"{run.name}/{line['setup']}" if len(runs) > 1 else line["setup"]
            lines.append(line | {"setup": name})
    return lines


def format_tables(lines: Sequence[Record], format: Format) -> str:
    """Return the lines as one table, with all cells that any of them has."""
    if format == "text":
        return format_scores(list(lines))
    return FORMATS[format](score_cells(list(lines)))


def _markdown(table: list[list[str]]) -> str:
    header, *lines = table
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *lines])


def _csv(table: list[list[str]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(table)
    return file.getvalue().rstrip("\n")


def _latex(table: list[list[str]]) -> str:
    header, *lines = [[_escaped(cell) for cell in line] for line in table]
    rows = [f"{' & '.join(line)} \\\\" for line in lines]
    columns = "l" + "r" * (len(header) - 1)
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            f"{' & '.join(header)} \\\\",
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )


def _escaped(cell: str) -> str:
    for plain, escaped in (("_", r"\_"), ("%", r"\%"), ("->", r"$\to$"), ("±", r"$\pm$")):
        cell = cell.replace(plain, escaped)
    return cell


FORMATS: dict[str, Callable[[list[list[str]]], str]] = {
    "markdown": _markdown,
    "csv": _csv,
    "latex": _latex,
}
"""Formats beside text, and what writes each."""
