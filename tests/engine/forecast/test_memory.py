"""The memory of a step, computed, against what an H200 has measured."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tresse.engine.forecast.memory import activation_bytes, keeps_h, state_bytes, step_bytes
from tresse.engine.model import parameter_shapes
from tresse.engine.run.config import RunConfig, ShardingConfig
from tresse.engine.run.recipes import LLAMA_1B, RECIPES

CONFIG = dataclasses.replace(RECIPES["1b-interleave"](), rows_per_step=75)
WIDTH = 2176
NUM_PARAMETERS = sum(shape.numel() for shape in parameter_shapes(LLAMA_1B, WIDTH).values())
# Peaks of bench/results/step.json, FlashAttention 4, lean step, one GPU.
MEASURED = {False: 64.45 * 2**30, True: 76.14 * 2**30}


@pytest.mark.parametrize("keep_h", [False, True])
def test_the_peak_is_the_one_that_was_measured(keep_h: bool) -> None:
    computed = step_bytes(CONFIG, NUM_PARAMETERS, 1, keep_h=keep_h)
    assert computed == pytest.approx(MEASURED[keep_h], rel=0.015)


def test_the_product_of_swiglu_is_one_width_per_token_and_layer() -> None:
    kept, again = (activation_bytes(LLAMA_1B, 1000, 2, keep_h=keep) for keep in (True, False))
    assert kept - again == LLAMA_1B.num_layers * 1000 * LLAMA_1B.intermediate_size * 2


@pytest.mark.parametrize(
    ("sharding", "world_size", "per_parameter"),
    [
        (ShardingConfig(), 1, 18),
        (ShardingConfig(), 4, 2 + 4 + 3),
        (ShardingConfig(zero_stage=2), 4, 2 + 1 + 3),
        (ShardingConfig(zero_stage=3), 2, 1 + 2 + 6),
        (ShardingConfig(zero_stage=0, precision="fp32"), 4, 20),
        (ShardingConfig(offload_optimizer=True), 4, 6),
    ],
)
def test_the_state_is_divided_as_the_level_says(
    sharding: ShardingConfig, world_size: int, per_parameter: int
) -> None:
    config = dataclasses.replace(CONFIG, sharding=sharding)
    assert state_bytes(config, 1000, world_size) == 1000 * per_parameter


@pytest.mark.parametrize(
    ("choice", "gigabytes", "world_size", "kept"),
    [
        ("auto", 85, 1, False),
        ("auto", 85, 4, True),
        ("auto", 150, 1, True),
        ("yes", 10, 1, True),
        ("no", 150, 1, False),
    ],
)
def test_the_product_is_kept_where_it_fits_or_as_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    choice: Any,
    gigabytes: int,
    world_size: int,
    kept: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, gigabytes * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    ranks: Any = SimpleNamespace(
        device=torch.device("cuda"), world_size=world_size, is_first=True, any=bool
    )
    assert keeps_h(with_choice(choice), NUM_PARAMETERS, ranks) == kept
    printed = capsys.readouterr().out
    assert (f"of {gigabytes}.0 GB" in printed) == (choice == "auto")


def with_choice(choice: Any) -> RunConfig:
    """The configuration with a choice of kernels.keep_swiglu."""
    kernels = dataclasses.replace(CONFIG.kernels, keep_swiglu=choice)
    return dataclasses.replace(CONFIG, kernels=kernels)
