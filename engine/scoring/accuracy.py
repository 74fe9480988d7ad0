"""Accuracies with standard errors, of all answers of a task and by the labels of its items.

An answer scores 1 if the correct sequence measures higher, 1/2 at a tie, else 0. An accuracy is the
mean score. Items of a group (one word in several voices) first get a mean of their own, as in
ZeroSpeech. Every label has a table with a line for each of its values. The label `frequency` of a
word is different: it gives a table by ZeroSpeech's bands and one by in or out of the vocabulary.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from tresse.engine.run.typed_json import Record
from tresse.engine.scoring.questions import MEASURES, Answer

# The challenge's program cuts to the left of 1, 5, 20 and 100: a word heard 5 times is in "6-20".
BANDS = {"oov": 1, "1-5": 5, "6-20": 20, "21-100": 100}
LAST_BAND = ">100"


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean score of some items."""

    num_items: int
    """Number of items; those of a group count as one."""
    accuracy: dict[str, float]
    """Mean score in [0, 1], by the four MEASURES."""
    stderr: dict[str, float]
    """Standard error of the mean, by the four MEASURES; NaN for a single item."""


@dataclass(frozen=True, slots=True)
class Accuracy(Mean):
    """Mean score of all items of a task in one pair of languages."""

    task: str
    pair: str
    by: dict[str, dict[str, Mean]]
    """Tables by the items' labels, such as voice or type, and their lines."""

    def to_json(self) -> Record:
        """Return JSON values; an unknown standard error is None."""
        record: Record = {"task": self.task, "pair": self.pair} | asdict(self)
        for mean in [record, *(line for table in record["by"].values() for line in table.values())]:
            mean["stderr"] = {k: None if math.isnan(v) else v for k, v in mean["stderr"].items()}
        return record


def accuracies(answers: Iterable[Answer]) -> list[Accuracy]:
    """Return the accuracy of each task and pair, in the order of their first answers."""
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.task, answer.pair), []).append(answer)
    return [_accuracy(task, pair, group) for (task, pair), group in groups.items()]


def item_scores(answers: Iterable[Answer], measure: str) -> dict[str, float]:
    """Return the score of each item by its name, 0 to 1; those of a group have their mean."""
    scores: dict[str, list[float]] = {}
    for answer in answers:
        name = f"group {answer.group}" if answer.group else f"item {answer.id}"
        scores.setdefault(name, []).append(_score(answer, measure))
    return {name: sum(values) / len(values) for name, values in scores.items()}


def lines_of(labels: Mapping[str, str | int]) -> dict[str, str]:
    """Return the tables in which an item with these labels counts, and its line in each."""
    found = {}
    for label, value in labels.items():
        if label == "frequency" and isinstance(value, int):
            found["vocabulary"] = "in-vocab" if value else "oov"
            found["frequency"] = band(value)
        else:
            found[label] = str(value)
    return found


def band(frequency: int) -> str:
    """Return the band of a word in ZeroSpeech's table by frequency."""
    return next((name for name, end in BANDS.items() if frequency < end), LAST_BAND)


def line_order(line: str) -> tuple[int, int, str]:
    """Return the sort key of a table's line: bands in their order, numbers by value, then names."""
    bands = [*BANDS, LAST_BAND]
    if line in bands:
        return 0, bands.index(line), ""
    return (1, int(line), "") if line.isdecimal() else (2, 0, line)


def _accuracy(task: str, pair: str, answers: list[Answer]) -> Accuracy:
    scores = np.array([[_score(answer, measure) for measure in MEASURES] for answer in answers])
    names = [f"group {a.group}" if a.group else f"item {i}" for i, a in enumerate(answers)]
    groups = np.unique(names, return_inverse=True)[1]
    tables: dict[str, dict[str, list[int]]] = {}
    for index, answer in enumerate(answers):
        for table, line in lines_of(answer.labels).items():
            tables.setdefault(table, {}).setdefault(line, []).append(index)
    by = {
        table: {
            line: _mean(scores[lines[line]], groups[lines[line]])
            for line in sorted(lines, key=line_order)
        }
        for table, lines in tables.items()
    }
    whole = _mean(scores, groups)
    return Accuracy(whole.num_items, whole.accuracy, whole.stderr, task, pair, by)


def _score(answer: Answer, measure: str) -> float:
    correct, incorrect = answer.correct[measure], answer.incorrect[measure]
    return 0.5 if correct == incorrect else float(correct > incorrect)


def _mean(scores: np.ndarray, groups: np.ndarray) -> Mean:
    """Average the means of the groups; scores: [items, measures], groups: int64 [items]."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.zeros((sizes.size, scores.shape[1]))
    np.add.at(means, group, scores)
    means /= sizes[:, None]
    deviation = means.std(axis=0, ddof=1) if len(means) > 1 else np.full(means.shape[1], math.nan)
    accuracy = dict(zip(MEASURES, means.mean(axis=0).tolist(), strict=True))
    stderr = dict(zip(MEASURES, (deviation / math.sqrt(len(means))).tolist(), strict=True))
    return Mean(len(means), accuracy, stderr)
