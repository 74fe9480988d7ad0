"""Scores of runs with several seeds: records with means and standard errors, a table, a figure.

python bench/claim/report.py bench/results/mini_table3.json docs/mini_table3.png
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tresse.data.text_table import format_table
from tresse.engine.run.run_folder import read_config
from tresse.engine.scoring.score import SCORES

PAIRS = ("en", "fr", "en->fr", "fr->en")
CELLS = tuple(f"{task} {pair}" for task in ("sSC", "sTC") for pair in PAIRS)
WORTH, COSINE = "original", "cosine"
"""Nats per unit that an original saves beside another story; cosine of translations less that of
other sentences. Both are means, over the directions and over the layers."""
COLUMNS = (*CELLS, WORTH, COSINE)
ORDER = ("en", "baseline-fr", "baseline-en-fr", "interleave", "en-fr")
"""Stages in the order of Table 3."""
# Okabe and Ito's palette, which colour-blind people can tell apart, with a marker each.
KINDS = {
    "within a language": (("en", "fr"), "#0072B2", "o"),
    "across languages": (("en->fr", "fr->en"), "#D55E00", "s"),
}

Line = dict[str, Any]
Record = dict[str, Any]


def read_lines(run: Path) -> Iterator[Line]:
    """Yield the numbers of each stage of a run, by the names of COLUMNS, without those it lacks."""
    config = read_config(run)
    for stage in config.stages:
        scores = json.loads((run / stage.name / SCORES).read_text(encoding="utf-8"))
        found = {
            f"{cell['task']} {cell['pair']}": cell["accuracy"][config.score_by]
            for cell in scores["cloze"]
        }
        cells = {name: found[name] for name in CELLS if name in found}
        worth = [
            losses["unrelated"] - losses["original"]
            for pair, losses in scores["perplexity"]["translations"].items()
            if pair in PAIRS
        ]
        cosine = [
            fmean(each["aligned"]) - fmean(each["random"])
            for pair, each in scores["alignment"].items()
            if set(pair.split("-")) == {"en", "fr"}
        ]
        yield {
            "stage": stage.name,
            "tokens": scores["tokens"],
            "cells": cells | {WORTH: fmean(worth), COSINE: fmean(cosine)},
        }


def summarise(lines: Iterable[Line]) -> list[Record]:
    """Return a record for each stage of each setup: the mean over seeds and its standard error."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["setup"], line["stage"]), []).append(line)
    return [_summary(group) for _, group in sorted(groups.items(), key=_place)]


def _place(item: tuple[tuple[str, str], list[Line]]) -> tuple[bool, int]:
    """Put the paper's stages first, in the order of Table 3; others stay as they are."""
    (setup, stage), _ = item
    return (False, ORDER.index(stage)) if setup == "paper" else (True, 0)


def _summary(group: Sequence[Line]) -> Record:
    first = group[0]
    values = {name: [line["cells"][name] for line in group] for name in first["cells"]}
    return {
        "setup": first["setup"],
        "question": first["question"],
        "stage": first["stage"],
        "seeds": [line["seed"] for line in group],
        "tokens": {
            name: fmean(line["tokens"].get(name, 0) for line in group) for name in PAIRS[:2]
        },
        "mean": {name: fmean(found) for name, found in values.items()},
        "stderr": {name: _stderr(found) for name, found in values.items()},
    }


def _stderr(values: Sequence[float]) -> float | None:
    """Return the standard error of a mean; None for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def format_lines(records: Sequence[Record]) -> str:
    """Return a table: accuracies in percent, with the standard error over seeds."""
    table = [["setup", "stage", "M en", "M fr", *COLUMNS]]
    table.append(["random", "", "", "", *["50.0"] * len(CELLS), "", ""])
    for record in records:
        millions = [f"{record['tokens'][name] / 1e6:.2f}" for name in ("en", "fr")]
        cells = [_cell(record, name) for name in COLUMNS]
        table.append([record["setup"], record["stage"], *millions, *cells])
    return format_table(table, num_left=2)


def _cell(record: Record, name: str) -> str:
    if name not in record["mean"]:
        return ""
    scale, digits = (1, 2) if name in (WORTH, COSINE) else (100, 1)
    error = record["stderr"][name]
    text = f"{scale * record['mean'][name]:.{digits}f}"
    return text if error is None else f"{text} ±{scale * error:.{digits}f}"


def plot_lines(records: Sequence[Record], path: str | Path) -> None:
    """Draw a panel for each task: a line per setup, a point within and one across languages.

    Bars are standard errors over seeds. Needs matplotlib (the extras `plot` and `bench`).
    """
    from matplotlib.figure import Figure  # an extra: the table does not need it

    shown = [each for each in records if each["setup"] == "paper" or each["stage"] == "en-fr"]
    names = [_label(each) for each in shown]
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(shown)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, task in zip(panels, ("sSC", "sTC"), strict=True):
        for kind, (pairs, colour, marker) in KINDS.items():
            points = [_mean_of(each, [f"{task} {pair}" for pair in pairs]) for each in shown]
            means, errors = zip(*points, strict=True)
            panel.errorbar(
                means,
                range(len(shown)),
                xerr=errors,
                fmt=marker,
                color=colour,
                label=kind,
                capsize=2,
            )
        panel.axvline(50, color="grey", linewidth=0.8)
        panel.set_title(task)
        panel.set_xlabel("accuracy, %")
    panels[0].set_yticks(range(len(shown)), names)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _label(record: Mapping[str, Any]) -> str:
    return record["stage"] if record["setup"] == "paper" else record["question"]


def _mean_of(record: Mapping[str, Any], names: Sequence[str]) -> tuple[float, float]:
    """Return the mean of some cells in percent, and the error of it if they were independent."""
    errors = [record["stderr"][name] or 0.0 for name in names]
    mean = 100 * fmean(record["mean"][name] for name in names)
    return mean, 100 * math.hypot(*errors) / len(errors)


if __name__ == "__main__":
    results, picture = sys.argv[1:]
    plot_lines(json.loads(Path(results).read_text(encoding="utf-8")), picture)
