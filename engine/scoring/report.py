"""The tables of scores: a line per stage, like the paper's Table 3, and tables by labels."""

import json
from collections.abc import Mapping
from pathlib import Path

from tresse.data.durable import write_text
from tresse.data.text_table import format_table
from tresse.engine.run.config import RunConfig
from tresse.engine.run.typed_json import Record
from tresse.engine.scoring.score import SCORES

TABLE = "table.json"
MAX_LINES = 20  # longer tables by labels are not printed
MAX_PAIRS = 9  # of languages, in one table


def print_table(config: RunConfig) -> None:
    """Print the scores of all stages and write them to table.json; then name the run's files."""
    folder = Path(config.run_dir)
    scored = [stage.name for stage in config.stages if (folder / stage.name / SCORES).exists()]
    lines = [read_scores(name, folder / name, config.score_by) for name in scored]
    if lines:
        write_text(folder / TABLE, json.dumps(lines, indent=2) + "\n")
        print(f"\n{format_scores(lines)}\n")
    if text := format_translations({name: _read(folder / name) for name in scored}):
        print(f"{text}\n")
    print(f"wrote {folder}: config.json, metrics.jsonl, tensorboard/, a folder per stage", end="")
    print(f", {TABLE}" if lines else "")


def read_scores(setup: str, folder: Path, measure: str) -> Record:
    """Read a stage's line of the table: setup, tokens, scores and standard errors in [0, 1]."""
    found = _read(folder)
    scores, stderr = {}, {}
    for cell in found["cloze"]:
        scores.setdefault(cell["task"], {})[cell["pair"]] = cell["accuracy"][measure]
        stderr.setdefault(cell["task"], {})[cell["pair"]] = cell["stderr"][measure]
    return {
        "setup": setup,
        "tokens": found["tokens"],
        "scores": scores,
        "stderr": stderr,
        "truncated": found["truncated"],
    }


def format_scores(lines: list[Record]) -> str:
    """Return a table: millions of tokens per language, accuracies in percent ± standard error.

    With more than MAX_PAIRS pairs of languages each task has a table of its own, with a line per
    setup and language of the prompt.
    """
    if has_many_pairs(lines):
        matrices = [format_table(matrix, num_left=2) for matrix in matrix_cells(lines)]
        text = "\n\n".join([format_table(token_cells(lines)), *matrices])
    else:
        text = format_table(score_cells(lines), num_left=0)
    if truncated := max(line["truncated"] for line in lines):
        text += f"\n{truncated} sequences lost the start of their prompts (--truncate-prompt left)"
    return text


def score_cells(lines: list[Record]) -> list[list[str]]:
    """Return the cells of the table, its header first, with every column that any line has."""
    columns = dict.fromkeys(
        (task, pair) for line in lines for task, pairs in line["scores"].items() for pair in pairs
    )
    header, *table = token_cells(lines)
    return [[*header, *map(" ".join, columns)]] + [
        [*cells, *(_format_cell(line, *column) for column in columns)]
        for cells, line in zip(table, lines, strict=True)
    ]


def token_cells(lines: list[Record]) -> list[list[str]]:
    """Return the setups and their millions of tokens per language."""
    languages = list(dict.fromkeys(name for line in lines for name in line["tokens"]))
    table = [["setup", *(f"M {name}" for name in languages)]]
    for line in lines:
        counts = (line["tokens"].get(name, 0) for name in languages)
        table.append([line["setup"], *(f"{count / 1e6:.2f}" for count in counts)])
    return table


def has_many_pairs(lines: list[Record]) -> bool:
    """Return whether the pairs of languages are too many to be columns."""
    return len({p for line in lines for own in line["scores"].values() for p in own}) > MAX_PAIRS


def matrix_cells(lines: list[Record]) -> list[list[list[str]]]:
    """Return a table per task, its header first: setup and language of the prompt by line.

    The columns are the languages of the endings.
    """
    tables = []
    for task in dict.fromkeys(task for line in lines for task in line["scores"]):
        pairs = dict.fromkeys(pair for line in lines for pair in line["scores"].get(task, {}))
        split = [pair.split("->") for pair in pairs]
        prompts, endings = (list(dict.fromkeys(each[i] for each in split)) for i in (0, -1))
        table = [[task, "prompt", *(f"-> {name}" for name in endings)]]
        for line in lines:
            for prompt in prompts:
                asked = (name if name == prompt else f"{prompt}->{name}" for name in endings)
                cells = (_format_cell(line, task, pair) for pair in asked)
                table.append([line["setup"], prompt, *cells])
        tables.append(table)
    return tables


def _format_cell(line: Record, task: str, pair: str) -> str:
    """Return an accuracy and its standard error, or nothing for a cell that a line lacks."""
    value = line["scores"].get(task, {}).get(pair)
    if value is None:
        return ""
    error = _format_error(line["stderr"][task][pair])
    return " ".join(filter(None, (f"{100 * value:.1f}", error)))


def format_translations(scores: Mapping[str, Record]) -> str:
    """Return the losses of translations in three contexts; nothing without a held-out corpus.

    scores: content of scores.json by setup.
    """
    table = [["nats per unit", "", "alone", "after its original", "after another"]]
    for setup, found in scores.items():
        for pair, given in found.get("perplexity", {}).get("translations", {}).items():
            values = [given[name] for name in ("alone", "original", "unrelated")]
            table.append([setup, pair, *(f"{value:.3f}" for value in values)])
    if len(table) > MAX_LINES + 1:
        return f"losses of translations in three contexts: {len(table) - 1} lines, in {SCORES}"
    return format_table(table, num_left=2) if len(table) > 1 else ""


def format_by_labels(folder: Path, measure: str) -> str:
    """Return the tables by labels in scores.json; long ones are only named."""
    blocks = []
    for cell in _read(folder)["cloze"]:
        for label, lines in cell["by"].items():
            title = f"{cell['task']} {cell['pair']} by {label}"
            if len(lines) <= MAX_LINES:
                blocks.append(_format_lines(title, lines, measure))
            else:
                blocks.append(f"{title}: {len(lines)} lines, in {SCORES}")
    return "\n\n".join(blocks)


def _format_lines(title: str, lines: Record, measure: str) -> str:
    """Return a line per value of a label, and the unweighted mean of the lines."""
    table = [[title, "items", "", ""]]
    for name, line in lines.items():
        value, error = line["accuracy"][measure], line["stderr"][measure]
        table.append([name, f"{line['num_items']}", f"{100 * value:.1f}", _format_error(error)])
    mean = sum(line["accuracy"][measure] for line in lines.values()) / len(lines)
    return format_table([*table, ["mean of the lines", "", f"{100 * mean:.1f}", ""]])


def _format_error(stderr: float | None) -> str:
    """Return a standard error in percent, or nothing for one that is unknown or zero."""
    return f"±{100 * stderr:.1f}" if stderr else ""


def _read(folder: Path) -> Record:
    return json.loads((folder / SCORES).read_text(encoding="utf-8"))
