"""Scores of many pairs of languages: a table per task, prompts by line, endings by column."""

from typing import Any

from tresse.engine.scoring.report import format_scores, matrix_cells, score_cells


def line(setup: str, languages: str, value: float) -> dict[str, Any]:
    pairs = [a if a == b else f"{a}->{b}" for a in languages for b in languages]
    return {
        "setup": setup,
        "tokens": {"a": 2_000_000},
        "scores": {"sTC": dict.fromkeys(pairs, value)},
        "stderr": {"sTC": dict.fromkeys(pairs, 0.01)},
        "truncated": 0,
    }


def test_few_pairs_are_columns_of_one_table() -> None:
    lines = [line("one", "abc", 0.5)]
    assert len(score_cells(lines)[0]) == 2 + 9
    assert "sTC a->b" in format_scores(lines)


def test_many_pairs_are_a_table_of_prompts_and_endings() -> None:
    lines = [line("one", "abcd", 0.5), line("two", "abcd", 0.75)]
    lines[1]["scores"]["sTC"]["c->a"] = 0.9
    (matrix,) = matrix_cells(lines)
    assert matrix[0] == ["sTC", "prompt", "-> a", "-> b", "-> c", "-> d"]
    assert matrix[7] == ["two", "c", "90.0 ±1.0", *["75.0 ±1.0"] * 3]
    text = format_scores(lines)
    assert "sTC a->b" not in text
    assert "M a" in text
    del lines[1]["scores"]["sTC"]["c->a"]
    assert matrix_cells(lines)[0][7][2] == "", "a pair that was not asked is empty"
