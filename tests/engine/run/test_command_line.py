"""The command line and the recipes behind it."""

from pathlib import Path

import pytest
import torch

from tresse.engine.forecast.flops import flops_per_token
from tresse.engine.model import Transformer
from tresse.engine.run.command_line import parse_config, usage
from tresse.engine.run.config import RunConfig
from tresse.engine.run.recipes import LLAMA_1B, QWEN_360M, RECIPES, TOKENS_PER_STEP
from tresse.engine.run.run_folder import write_config
from tresse.engine.run.typed_json import from_json, to_json


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_a_recipe_it_is_the_demo(tmp_path: Path) -> None:
    config = parse_config([])
    assert config.recipe == "demo"
    assert config.run_dir == str(tmp_path / "runs" / "demo")


def test_the_help_lists_every_recipe_with_its_meaning() -> None:
    lines = usage().splitlines()
    for name, recipe in RECIPES.items():
        assert recipe.__doc__
        assert any(line.split()[:1] == [name] and len(line.split()) > 3 for line in lines)


def test_the_help_of_a_recipe_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(["1b-interleave", "--help"])
    printed = capsys.readouterr().out
    for flag in (
        "--optim.lr",
        "--sharding.zero-stage",
        "--stages.2.streams.1.weight",
        "--micro-rows",
    ):
        assert flag in printed
    assert "Peak learning rate" in printed


def test_a_flag_sets_its_field() -> None:
    config = parse_config(
        ["tiny", "--stages.1.tokens", "77", "--data.packing.separators", "bos_eos"]
    )
    assert config.stages[1].tokens == 77
    assert config.data.packing.separators == "bos_eos"


def test_an_unknown_recipe_is_named_beside_those_there_are() -> None:
    with pytest.raises(SystemExit, match="no recipe 'tyni'; expected demo, tiny"):
        parse_config(["tyni"])


def test_a_run_folder_without_a_run_needs_a_recipe() -> None:
    with pytest.raises(SystemExit, match="no run to resume"):
        parse_config(["--run-dir", "runs/typo"])


def test_a_run_folder_alone_brings_its_own_settings(tmp_path: Path) -> None:
    started = parse_config(["tiny", "--run-dir", "somewhere", "--optim.lr", "0.25"])
    write_config(started)
    assert parse_config(["--run-dir", "somewhere"]) == started
    assert parse_config(["tiny", "--run-dir=somewhere"]) == started
    with pytest.raises(SystemExit, match="a run of the recipe tiny, not of demo"):
        parse_config(["demo", "--run-dir", str(tmp_path / "somewhere")])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_file(name: str) -> None:
    config = RECIPES[name]()
    assert config.recipe == name
    assert from_json(RunConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("recipe", "billions"),
    [
        ("360m-interleave", [46.08, 12.288, 18.432]),
        ("1b-interleave-text", [30.72, 12.288, 9.216]),
        ("1b-baselines", [15.36, 76.8]),
    ],
)
def test_the_paper_s_recipes_have_its_budgets(recipe: str, billions: list[float]) -> None:
    config = RECIPES[recipe]()
    assert [stage.tokens / 1e9 for stage in config.stages] == billions
    assert config.rows_per_step * config.data.packing.row_length == TOKENS_PER_STEP == 614_400


def test_the_paper_s_models_have_their_sizes() -> None:
    with torch.device("meta"):
        sizes = [Transformer(c, 2048, 2048).num_parameters() for c in (QWEN_360M, LLAMA_1B)]
    assert [round(size / 1e6, 1) for size in sizes] == [359.7, 977.3]
    assert flops_per_token(LLAMA_1B, 2048, 2048).full == pytest.approx(6.669e9, rel=1e-3)
