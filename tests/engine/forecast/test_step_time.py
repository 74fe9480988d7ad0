"""The predicted time of a step, against measured steps and other counts."""

import dataclasses
import json

import pytest

from tests.support.processes import ROOT
from tresse.engine.forecast.communication import Collective, bus_rate, collectives
from tresse.engine.forecast.flops import flops_per_token
from tresse.engine.forecast.gpus import GPUS, H100
from tresse.engine.forecast.step_time import (
    PARTS,
    StepShape,
    exposed_seconds,
    step_seconds,
    step_work,
)
from tresse.engine.model import parameter_shapes
from tresse.engine.run.config import RunConfig, ShardingConfig
from tresse.engine.run.recipes import RECIPES

WIDTH = 2176
RECORDS = json.loads((ROOT / "bench/results/step.json").read_text())
MEASURED = [
    record
    for record in RECORDS
    if record["ranks"] == 1 and not record["compile"] and record["way"] != "ddp"
]
"""Steps of the engine on one GPU, by DeepSpeed's own step or the lean one."""


def shape_of(config: RunConfig, rows: int, keep_h: bool = False, world_size: int = 1) -> StepShape:
    """A step of so many rows on a rank."""
    number = sum(shape.numel() for shape in parameter_shapes(config.model, WIDTH).values())
    return StepShape(rows * 2048, -(-rows // 25), world_size, number, WIDTH, keep_h)


@pytest.mark.parametrize("record", MEASURED, ids=lambda r: f"{r['recipe']} {r['way']}")
def test_a_predicted_step_is_within_four_percent_of_the_measured_one(record: dict) -> None:
    config = RECIPES[record["recipe"]]()
    gpu = next(gpu for gpu in GPUS.values() if gpu.name == record["machine"]["gpu"])
    shape = shape_of(config, record["rows_per_step"], record["keep_swiglu"])
    seconds = step_seconds(config, shape, gpu, step_work(config, shape))
    assert set(seconds) == set(PARTS)
    assert 1000 * sum(seconds.values()) == pytest.approx(record["step_ms"], rel=0.04)


@pytest.mark.parametrize("recipe", ["1b-interleave", "360m-interleave", "8b-interleave"])
def test_the_flops_are_those_of_a_token_and_of_what_is_computed_again(recipe: str) -> None:
    config = dataclasses.replace(RECIPES[recipe](), recompute_layers=0)
    shape = shape_of(config, 3)
    work = step_work(config, shape)
    causal = flops_per_token(config.model, 2048, WIDTH).causal * shape.tokens
    # Attention's backward pass computes the scores again, which the count for MFU leaves out.
    attention = work["attention"].flops * 3 / 3.5
    assert work["matmul"].flops + attention == pytest.approx(causal, rel=1e-9)
    again = dataclasses.replace(config, recompute_layers=config.model.num_layers)
    recomputed = step_work(again, shape)
    assert recomputed["attention"].flops == pytest.approx(4.5 / 3.5 * work["attention"].flops)
    head = 6 * config.model.hidden_size * WIDTH * shape.tokens
    layers = work["matmul"].flops - head
    assert recomputed["matmul"].flops == pytest.approx(head + 4 / 3 * layers)


def test_links_carry_the_bytes_of_rings() -> None:
    """As nccl-tests has it: 2 (n - 1) / n of an all-reduce, (n - 1) / n of others."""
    assert Collective("all_reduce", 8.0, 1).bus_bytes(4) == 12
    assert Collective("all_gather", 8.0, 1).bus_bytes(4) == 6
    assert Collective("reduce_scatter", 8.0, 1).bus_bytes(2) == 4
    assert bus_rate(H100, 8) == H100.bus_bytes
    slow = dataclasses.replace(H100, network_bytes=10e9)
    assert bus_rate(slow, 16) == 80e9, "every GPU of a node has a network link"


def test_the_lean_step_hides_its_reductions_and_other_levels_do_not() -> None:
    config = RECIPES["1b-interleave"]()
    shape = shape_of(config, 75, world_size=4)
    level_2 = dataclasses.replace(config, sharding=ShardingConfig(zero_stage=2))
    lean, plain = (exposed_seconds(c, shape, H100, backward_s=0.3) for c in (config, level_2))
    assert lean < plain / 5
    reduced, gathered = collectives(config, shape.num_parameters, 4, 3)
    last_slice = reduced.seconds(H100, 4) / 4
    assert lean == pytest.approx(last_slice + gathered.seconds(H100, 4))
    assert not collectives(config, shape.num_parameters, 1, 3), "one rank sends nothing"
