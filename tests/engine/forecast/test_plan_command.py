"""`tresse plan`: what a user reads before renting GPUs."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.support.corpora.tiny import small
from tests.support.corpora.vocabularies import vocabulary_of
from tresse.engine.forecast.command import plan, recipe_first
from tresse.engine.forecast.forecast import forecast_run
from tresse.engine.forecast.gpus import GPUS, H100, read_rates
from tresse.engine.model import parameter_shapes
from tresse.engine.run.recipes import RECIPES


def table(printed: str, title: str) -> list[list[str]]:
    """The cells of the table under a title, its header first."""
    lines = printed[printed.index(title) :].split("\n\n")[0].splitlines()[1:]
    return [line.split() for line in lines]


def test_the_plan_of_the_paper_has_its_steps_and_tokens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan(["1b-interleave", "--gpus", "4", "8", "--price", "2"])
    printed = capsys.readouterr().out
    assert "977,340,416 parameters, 6.27 GFLOP per token" in printed
    stages = table(printed, "Stages")
    assert [line[:4] for line in stages[1:]] == [
        ["en", "75,000", "46,080.0", "0.0"],
        ["interleave", "20,000", "6,144.0", "6,144.0"],
        ["en-fr", "30,000", "9,216.0", "9,216.0"],
    ]
    rates = table(printed, "Predicted rates")
    assert [line[0] for line in rates[1:]] == ["4"] * 3 + ["8"] * 3
    hours, price = (float(cell.replace(",", "")) for cell in rates[1][-2:])
    assert price == pytest.approx(2 * hours, abs=1.01)
    assert "no multiple of" not in printed
    assert "Disk: 11.7 GB a checkpoint" in printed


def test_a_measured_rate_gives_the_days(capsys: pytest.CaptureFixture[str]) -> None:
    plan(["1b-interleave", "--tokens-per-s", "100000"])
    days = table(capsys.readouterr().out, "Predicted rates")[1][-2]
    assert float(days) == pytest.approx(125_000 * 614_400 / 400_000 / 86400, abs=0.01)


def test_rows_that_the_gpus_cannot_share_become_the_next_multiple(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan(["1b-interleave", "--gpus", "8"])
    assert (
        "steps of 304 rows (the recipe has 300, no multiple of 8 GPUs)" in capsys.readouterr().out
    )


def test_with_a_corpus_the_plan_knows_epochs_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(tmp_path / "corpus")
    out = tmp_path / "plan.json"
    plan(["tiny", "--data.corpus", str(tmp_path / "corpus"), "--gpus", "1", "--json", str(out)])
    assert "without --data.corpus" not in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["recipe"] == "tiny"
    assert all(stage["epochs"] for stage in record["stages"])
    assert sum(record["stages"][0]["tokens"].values()) == pytest.approx(800_000)


@pytest.mark.parametrize("recipe", ["3b-interleave", "8b-interleave"])
def test_the_larger_recipes_fit_four_and_eight_gpus(recipe: str) -> None:
    config = RECIPES[recipe]()
    level = config.sharding.zero_stage
    for layout in forecast_run(config, H100, (4, 8), (level,), {}).layouts:
        assert layout.fits
        assert layout.micro_rows >= 8
        assert layout.tokens_per_s > 0


def test_rows_that_do_not_fit_are_said_with_those_that_would(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan(["--gpus", "4", "3b-interleave", "--micro-rows", "40"])  # the recipe in any place
    lines = table(capsys.readouterr().out, "Memory of a GPU")
    assert lines[1][2] == "40"
    assert lines[1][-4:] == ["no,", "12", "rows", "would"]


def test_a_recipe_after_a_number_comes_first_and_a_value_stays_with_its_flag() -> None:
    assert recipe_first(["--gpus", "4", "8", "demo"]) == ["demo", "--gpus", "4", "8"]
    words = ["--run-dir", "demo", "--gpus", "4"]
    assert recipe_first(words) == words


def test_a_story_world_has_its_own_vocabulary_and_fp32_its_own_rate(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan(["demo", "--gpus", "1"])
    demo = RECIPES["demo"]()
    assert demo.data.story_world is not None
    width = vocabulary_of(demo.data.story_world.vocab_size, has_specials=True).width
    number = sum(shape.numel() for shape in parameter_shapes(demo.model, width).values())
    assert f"demo: {number:,} parameters" in capsys.readouterr().out
    rates = []
    for precision in ("bf16", "fp32"):
        out = tmp_path / f"{precision}.json"
        flags = ["--micro-rows", "5", "--sharding.precision", precision, "--json", str(out)]
        plan(["1b-interleave", *flags])
        rates.append(json.loads(out.read_text())["layouts"][0]["tokens_per_s"])
    assert rates[1] < rates[0] / 8


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    plan(["8b-interleave", "--gpus", "1"])
    printed = capsys.readouterr().out
    assert "nothing of this fits" in printed
    assert "Predicted rates" not in printed


def test_rates_of_a_file_take_the_place_of_ours_and_mistakes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rates.json"
    file.write_text('{"matmul_flops": 1e14}')
    assert read_rates(file, H100) == dataclasses.replace(H100, matmul_flops=1e14)
    file.write_text('{"matmul": 1e14}')
    with pytest.raises(ValueError, match=r"rates\.json: no file of rates .*matmul"):
        read_rates(file, H100)
    for text, message in (
        ("[1]", "not an object"),
        ('{"copy_bytes": -1}', "expected a number above"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_rates(file, H100)
    for flags, message in (
        (["--gpus", "0"], "expected one or more numbers above 0"),
        (["--tokens-per-s", "-5"], "tokens_per_s=-5.0; expected a number above 0"),
        (["--price", "0"], "price=0.0; expected a number above 0"),
        (["--json", str(tmp_path / "missing" / "x.json")], "there is no folder"),
    ):
        with pytest.raises(SystemExit):
            plan(["demo", *flags])
        assert message in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert GPUS["h200"].memory_bytes > H100.memory_bytes
