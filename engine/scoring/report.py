"""The table of a run: a row per stage, like the paper's Table 3, with standard errors."""

import json
from pathlib import Path

from tresse.data.durable import write_text
from tresse.engine.run.config import RunConfig
from tresse.engine.run.run_folder import Row
from tresse.engine.scoring.score import SCORES

TABLE = "table.json"
MAX_ROWS = 20


def print_table(run: RunConfig) -> None:
    """Print the scores of the stages and write them to table.json, then name the run's files."""
    folder = Path(run.run_dir)
    scored = [stage.name for stage in run.stages if (folder / stage.name / SCORES).exists()]
    rows = [read_row(name, folder / name, run.score_by) for name in scored]
    if rows:
        write_text(folder / TABLE, json.dumps(rows, indent=2) + "\n")
        print(f"\n{format_table(rows)}\n")
    print(f"wrote {folder}: config.json, metrics.jsonl, tensorboard/, a folder per stage", end="")
    print(f", {TABLE}" if rows else "")


def read_row(setup: str, folder: Path, measure: str) -> Row:
    """Read scores as a row: setup, tokens, scores and standard errors in [0, 1]."""
    found = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    scores, stderr = {}, {}
    for cell in found["cloze"]:
        scores.setdefault(cell["task"], {})[cell["pair"]] = cell["accuracy"][measure]
        stderr.setdefault(cell["task"], {})[cell["pair"]] = cell["stderr"][measure]
    return {
        "setup": setup,
        "tokens": found["tokens"],
        "scores": scores,
        "stderr": stderr,
    }


def format_table(rows: list[Row]) -> str:
    """Lay the rows out in columns: tokens in millions, accuracies in percent ± standard error."""
    tasks = {task: list(pairs) for task, pairs in rows[0]["scores"].items()}
    languages = list(rows[-1]["tokens"])
    header = ["setup", *(f"M {name}" for name in languages)]
    header += [f"{task} {pair}" for task, pairs in tasks.items() for pair in pairs]
    lines = [header]
    for found in rows:
        cells = [found["setup"]]
        cells += [f"{found['tokens'].get(name, 0) / 1e6:.2f}" for name in languages]
        for task, pairs in tasks.items():
            for pair in pairs:
                value, error = found["scores"][task][pair], found["stderr"][task][pair]
                cells.append(f"{100 * value:.1f}" + (f" ±{100 * error:.1f}" if error else ""))
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def format_tables(folder: Path, measure: str) -> str:
    """Lay out what scores.json lists by labels, tables of many rows left to the file."""
    blocks = []
    for cell in json.loads((folder / SCORES).read_text(encoding="utf-8"))["cloze"]:
        for label, rows in cell["by"].items():
            if len(rows) <= MAX_ROWS:
                blocks.append(
                    _format_rows(f"{cell['task']} {cell['pair']} by {label}", rows, measure)
                )
            else:
                blocks.append(
                    f"{cell['task']} {cell['pair']} by {label}: {len(rows)} rows, in {SCORES}"
                )
    return "\n\n".join(blocks)


def _format_rows(title: str, rows: Row, measure: str) -> str:
    """A row for each value of a label, and the mean of the rows, whatever their size."""
    width = max(len(name) for name in [title, *rows])
    lines = [f"{title:{width}}   items"]
    for name, row in rows.items():
        value, error = row["accuracy"][measure], row["stderr"][measure]
        line = f"{name:{width}}  {row['num_items']:>6}  {100 * value:5.1f}"
        lines.append(line + (f" ±{100 * error:.1f}" if error else ""))
    mean = sum(row["accuracy"][measure] for row in rows.values()) / len(rows)
    return "\n".join([*lines, f"{'mean of the rows':{width}}  {'':6}  {100 * mean:5.1f}"])
