"""Which differences between scored stages are real: a paired bootstrap over items and seeds.

Two setups answer the same items. A resample draws items with replacement, the same ones for both,
and the seeds of each setup; the spread of the difference over many resamples gives its confidence
interval and its p-value (Efron and Tibshirani 1993; Koehn 2004). A table has many cells, so
p-values are corrected by Holm's method before a difference counts as real.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tresse.data.text_table import format_table
from tresse.engine.scoring.accuracy import item_scores
from tresse.engine.scoring.questions import MEASURES, Answer
from tresse.engine.scoring.score import read_answers

NUM_RESAMPLES = 10_000
CHUNK = 500  # resamples at once
LEVEL = 0.05

Cell = tuple[str, str]
"""A task and a pair of languages."""
Tables = tuple[np.ndarray, np.ndarray]
"""Scores of both setups in a cell, each [seeds, items]."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A setup's accuracy less another's, in one cell of the table."""

    cell: Cell
    num_items: int
    accuracies: tuple[float, float]
    """Of both setups, as means over their seeds."""
    low: float
    """Lower end of the 95 % confidence interval of the difference."""
    high: float
    p: float
    """Two-sided p-value, not corrected."""

    @property
    def difference(self) -> float:
        """The first accuracy less the second."""
        return self.accuracies[0] - self.accuracies[1]


def folders_of(pattern: str) -> list[Path]:
    """Return the folders that a name or a pattern with `*` stands for; ValueError for none."""
    path = Path(pattern)
    start = Path(path.anchor or ".")
    found = sorted(start.glob(str(path.relative_to(path.anchor))))
    if not found:
        raise ValueError(f"{pattern}: no such folder")
    return found


def compare(
    first: Sequence[Path], second: Sequence[Path], measure: str, seed: int = 0
) -> list[Difference]:
    """Compare two setups in every cell that both have.

    first, second: folders of scored stages, one per training seed. ValueError if a folder has no
    answers, or if two have answered other items.
    """
    scores = {folder: read_item_scores(folder, measure) for folder in (*first, *second)}
    reference = scores[first[0]]
    cells = [cell for cell in reference if all(cell in found for found in scores.values())]
    if not cells:
        raise ValueError(f"{first[0]} and {second[0]} have no task and pair of languages in common")
    for folder, found in scores.items():
        for cell in cells:
            if found[cell].keys() != reference[cell].keys():
                raise ValueError(
                    f"{folder}: other items of {' '.join(cell)} than {first[0]} has; compare "
                    "setups that were scored on one cloze set"
                )
    tables = {cell: (_table(first, cell, scores), _table(second, cell, scores)) for cell in cells}
    resampled = _resample(tables, np.random.default_rng(seed))
    return [_difference(cell, *tables[cell], resampled[cell]) for cell in cells]


def read_item_scores(folder: Path, measure: str) -> dict[Cell, dict[str, float]]:
    """Read the mean score of every item, or group of items, of a scored stage, by cell."""
    if measure not in MEASURES:
        raise ValueError(f"no measure {measure!r}; expected one of {', '.join(MEASURES)}")
    by_cell: dict[Cell, list[Answer]] = {}
    for answer in read_answers(folder):
        by_cell.setdefault((answer.task, answer.pair), []).append(answer)
    return {cell: item_scores(answers, measure) for cell, answers in by_cell.items()}


def _table(
    folders: Sequence[Path], cell: Cell, scores: dict[Path, dict[Cell, dict[str, float]]]
) -> np.ndarray:
    """Return the scores of a setup in a cell, [seeds, items]; items in the order of their names."""
    return np.array(
        [[score for _, score in sorted(scores[folder][cell].items())] for folder in folders]
    )


def _difference(
    cell: Cell, first: np.ndarray, second: np.ndarray, resampled: np.ndarray
) -> Difference:
    low, high = np.quantile(resampled, [LEVEL / 2, 1 - LEVEL / 2])
    # The share of resamples on the other side of zero; ties count to both sides.
    share = min((resampled <= 0).mean(), (resampled >= 0).mean())
    p = min(1.0, 2 * max(float(share), 1 / len(resampled)))
    means = float(first.mean()), float(second.mean())
    return Difference(cell, first.shape[1], means, float(low), float(high), p)


def _resample(tables: dict[Cell, Tables], rng: np.random.Generator) -> dict[Cell, np.ndarray]:
    """Return differences of mean scores, by cell; cells with as many items share their draws."""
    found: dict[Cell, list[np.ndarray]] = {cell: [] for cell in tables}
    for num_items in dict.fromkeys(first.shape[1] for first, _ in tables.values()):
        same = [cell for cell in tables if tables[cell][0].shape[1] == num_items]
        firsts, seconds = (np.stack([tables[cell][i] for cell in same]) for i in (0, 1))
        for _ in range(0, NUM_RESAMPLES, CHUNK):
            counts = _item_counts(num_items, rng)
            sums = [_resampled_sums(counts, scores, rng) for scores in (firsts, seconds)]
            for cell, difference in zip(same, (sums[0] - sums[1]) / num_items, strict=True):
                found[cell].append(difference)
    return {cell: np.concatenate(chunks) for cell, chunks in found.items()}


def _resampled_sums(counts: np.ndarray, scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return sums of scores over drawn items, averaged over drawn seeds, [cells, CHUNK].

    counts: [CHUNK, items]. scores: [cells, seeds, items].
    """
    num_cells, num_seeds, num_items = scores.shape
    sums = counts @ scores.reshape(-1, num_items).T
    by_seed = sums.reshape(CHUNK, num_cells, num_seeds)
    return np.einsum("ncs,ns->cn", by_seed, _seed_weights(num_seeds, rng))


def _item_counts(num_items: int, rng: np.random.Generator) -> np.ndarray:
    """Draw how often each item is in every resample of a chunk, fp64 [CHUNK, items]."""
    drawn = rng.integers(num_items, size=(CHUNK, num_items))
    drawn += num_items * np.arange(CHUNK)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=CHUNK * num_items)
    return counts.reshape(CHUNK, num_items).astype(np.float64)


def _seed_weights(num_seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the share of each seed in every resample of a chunk."""
    return rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=CHUNK) / num_seeds


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that hold for all tests together (Holm 1979)."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected.tolist()


def format_differences(names: tuple[str, str], found: Sequence[Difference]) -> str:
    """Return a line per cell; a star marks the differences that are real."""
    lines = [["", "items", *names, "difference", "95 % interval", "p", "corrected", ""]]
    for each, corrected in zip(found, holm([each.p for each in found]), strict=True):
        first, second = (f"{100 * value:.1f}" for value in each.accuracies)
        lines.append(
            [
                " ".join(each.cell),
                f"{each.num_items}",
                first,
                second,
                f"{100 * each.difference:+.1f}",
                f"{100 * each.low:+.1f} to {100 * each.high:+.1f}",
                f"{each.p:.4f}",
                f"{corrected:.4f}",
                "*" if corrected < LEVEL else "",
            ]
        )
    note = f"* real at the level {LEVEL} over all {len(found)} lines (Holm); paired bootstrap"
    return f"{format_table(lines)}\n{note}, {NUM_RESAMPLES:,} resamples of items and seeds"
