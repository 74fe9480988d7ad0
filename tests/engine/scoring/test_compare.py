"""Differences between setups: against a plain bootstrap, with a known answer, and in the table."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tresse.engine.scoring.compare import (
    compare,
    folders_of,
    format_differences,
    holm,
    read_item_scores,
)
from tresse.engine.scoring.questions import MEASURES, Answer
from tresse.engine.scoring.report import TABLE
from tresse.engine.scoring.score import ANSWERS
from tresse.engine.scoring.tables import format_tables, read_tables


def write_answers(folder: Path, right: np.ndarray, task: str = "sSC", groups: int = 0) -> Path:
    """A scored stage that answers these items right, wrong (0) or with a tie (0.5)."""
    folder.mkdir(parents=True)
    answers = []
    for index, value in enumerate(right.tolist()):
        correct, incorrect = (dict.fromkeys(MEASURES, x) for x in (value, 0.5))
        group = f"g{index % groups}" if groups else ""
        answers.append(Answer(task, str(index), "en", correct, incorrect, group))
    (folder / ANSWERS).write_text("".join(json.dumps(asdict(a)) + "\n" for a in answers))
    return folder


def test_items_score_one_half_or_nothing_and_groups_have_their_mean(tmp_path: Path) -> None:
    folder = write_answers(tmp_path / "a", np.array([1.0, 0.5, 0.0, 1.0]))
    assert list(read_item_scores(folder, "mean_full")["sSC", "en"].values()) == [1, 0.5, 0, 1]
    grouped = write_answers(tmp_path / "b", np.array([1.0, 1.0, 0.0, 1.0]), groups=2)
    scores = read_item_scores(grouped, "mean_full")["sSC", "en"]
    assert scores == {"group g0": 0.5, "group g1": 1.0}


def test_the_interval_is_that_of_the_paired_differences(tmp_path: Path) -> None:
    """Of paired items the mean difference has the standard error of the differences."""
    rng = np.random.default_rng(0)
    first = (rng.random(1871) < 0.7).astype(float)
    second = np.where(rng.random(1871) < 0.9, first, 1 - first)
    a, b = write_answers(tmp_path / "a", first), write_answers(tmp_path / "b", second)
    (found,) = compare([a], [b], "mean_full")
    error = (first - second).std(ddof=1) / np.sqrt(len(first))
    assert found.difference == pytest.approx((first - second).mean())
    assert found.low == pytest.approx(found.difference - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.difference + 1.96 * error, abs=0.1 * error)
    z = abs(found.difference) / error
    assert (found.p < 0.05) == (z > 1.96)


def test_seeds_that_differ_widen_the_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    groups = {
        name: [
            write_answers(tmp_path / name / str(seed), (rng.random(500) < chance).astype(float))
            for seed, chance in enumerate(chances)
        ]
        for name, chances in {"even": (0.7, 0.7, 0.7), "odd": (0.5, 0.7, 0.9)}.items()
    }
    base = [write_answers(tmp_path / "base", (rng.random(500) < 0.6).astype(float))]
    widths = []
    for name in ("even", "odd"):
        (found,) = compare(groups[name], base, "mean_full")
        widths.append(found.high - found.low)
    assert widths[1] > 1.5 * widths[0]


def test_equal_setups_do_not_differ_and_clear_ones_do(tmp_path: Path) -> None:
    values = np.array([1.0, 0.0] * 100)
    same = [write_answers(tmp_path / name, values) for name in ("a", "b")]
    (found,) = compare(same[:1], same[1:], "mean_full")
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    better = write_answers(tmp_path / "c", np.ones(200))
    (found,) = compare([better], same[:1], "mean_full")
    assert found.p <= 2e-4
    text = format_differences(("c", "a"), [found])
    assert "+50.0" in text
    assert "*" in text.splitlines()[1]


def test_holm_corrects_as_published() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_setups_with_other_items_cannot_be_compared(tmp_path: Path) -> None:
    a = write_answers(tmp_path / "a", np.ones(3))
    with pytest.raises(ValueError, match=r"b: other items of sSC en than .*a has"):
        compare([a], [write_answers(tmp_path / "b", np.ones(4))], "mean_full")
    with pytest.raises(ValueError, match="no task and pair of languages in common"):
        compare([a], [write_answers(tmp_path / "c", np.ones(3), task="sTC")], "mean_full")
    with pytest.raises(ValueError, match=r"answers\.jsonl: no such file"):
        compare([a], [tmp_path / "d"], "mean_full")


def write_table(run: Path, **scores: float) -> Path:
    """A run with one line in its table."""
    run.mkdir()
    line = {
        "setup": "en",
        "tokens": {"en": 2_000_000},
        "scores": {task: {"en->fr": value} for task, value in scores.items()},
        "stderr": {task: {"en->fr": 0.01} for task in scores},
        "truncated": 0,
    }
    (run / TABLE).write_text(json.dumps([line]))
    return run


def test_runs_with_other_tasks_share_one_table_in_every_format(tmp_path: Path) -> None:
    runs = [write_table(tmp_path / "a", sSC=0.75), write_table(tmp_path / "b_1", sTC=0.5)]
    lines = read_tables(runs)
    text = format_tables(lines, "text").splitlines()
    assert text[0].split() == ["setup", "M", "en", "sSC", "en->fr", "sTC", "en->fr"]
    assert text[1].split() == ["a/en", "2.00", "75.0", "±1.0"]
    markdown = format_tables(lines, "markdown").splitlines()
    assert markdown[1] == "| --- | ---: | ---: | ---: |"
    assert markdown[3] == "| b_1/en | 2.00 |  | 50.0 ±1.0 |"
    assert format_tables(lines, "csv").splitlines()[1] == "a/en,2.00,75.0 ±1.0,"
    latex = format_tables(lines, "latex")
    assert r"b\_1/en & 2.00 &  & 50.0 $\pm$1.0 \\" in latex
    assert r"sSC en$\to$fr" in latex
    assert [line["setup"] for line in read_tables(runs[:1])] == ["en"]
    with pytest.raises(ValueError, match=r"table\.json: no such file"):
        read_tables([tmp_path])


def test_a_pattern_stands_for_the_stages_of_several_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [tmp_path / "runs" / f"seed-{seed}" / "en" for seed in range(2)]
    for stage in stages:
        stage.mkdir(parents=True)
    assert folders_of(str(tmp_path / "runs/seed-*/en")) == stages
    monkeypatch.chdir(tmp_path)
    assert folders_of("runs/seed-1/en") == [Path("runs/seed-1/en")]
    with pytest.raises(ValueError, match="runs/other: no such folder"):
        folders_of("runs/other")
