"""The forecast of memory and of collectives, against tensors and bytes that are counted."""

import dataclasses
import json
from collections import Counter
from typing import Any

import pytest

from tests.support.warm import torchrun
from tests.support.workers.counted import CASES, LIVE, MODEL, NUM_MICRO
from tresse.engine.forecast import communication
from tresse.engine.forecast.communication import collectives
from tresse.engine.forecast.memory import state_memory
from tresse.engine.run.config import RunConfig, ShardingConfig
from tresse.engine.run.recipes import RECIPES

pytestmark = pytest.mark.slow

PERSISTENT = 0.1
"""Share of small tensors, which level 3 does not divide, in a model of so few parameters."""


@pytest.fixture(scope="module", params=[2, 4])
def counted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The number of ranks, and what was counted in each case."""
    out = tmp_path_factory.mktemp("counted") / "counted.json"
    torchrun(request.param, "tests/support/workers/counted.py", str(out))
    return request.param, json.loads(out.read_text())


def configured(sharding: ShardingConfig) -> RunConfig:
    """A configuration with the model of the worker."""
    return dataclasses.replace(RECIPES["tiny"](), model=MODEL, sharding=sharding)


def test_the_state_holds_as_many_bytes_as_are_counted(counted: Any) -> None:
    world_size, found = counted
    for sharding, case in zip(CASES, found, strict=False):
        memory = state_memory(configured(sharding), case["sizes"], world_size)
        number = sum(case["sizes"])
        # Buckets, gathered weights and gradients that are not yet divided come and go in a step.
        passing = memory.buffers + (2 * number if sharding.zero_stage == 3 else 0)
        predicted = memory.device + memory.host
        assert 0.99 * (predicted - passing) <= case["held"] <= 1.06 * predicted, sharding


def test_the_collectives_carry_as_many_bytes_as_are_counted(counted: Any) -> None:
    world_size, found = counted
    for sharding, case in zip(CASES, found, strict=False):
        predicted = forecast(sharding, case, world_size)
        assert case["exchanged"].keys() == predicted.keys(), sharding
        for kind, num_bytes in predicted.items():
            slack = PERSISTENT if sharding.zero_stage == 3 else 0.01
            assert (1 - slack) * num_bytes <= case["exchanged"][kind] <= 1.01 * num_bytes, kind


def test_level_3_gathers_again_what_does_not_stay(
    counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world_size, found = counted
    monkeypatch.setattr(communication, "LIVE", LIVE)
    gathered = [case["exchanged"]["all_gather"] for case in found[-2:]]
    for case, bytes_counted, recomputed in zip(
        found[-2:], gathered, (0, MODEL.num_layers // 2), strict=True
    ):
        predicted = forecast(CASES[4], case, world_size, recomputed)["all_gather"]
        assert bytes_counted == pytest.approx(predicted, rel=PERSISTENT)
    assert gathered[1] == gathered[0] > 1.2 * found[4]["exchanged"]["all_gather"]


def forecast(
    sharding: ShardingConfig, case: dict[str, Any], world_size: int, recomputed: int = 0
) -> Counter[str]:
    """The bytes of each kind of collective that are predicted."""
    total: Counter[str] = Counter()
    config = dataclasses.replace(configured(sharding), recompute_layers=recomputed)
    for each in collectives(config, sum(case["sizes"]), world_size, NUM_MICRO):
        total[each.kind] += int(each.num_bytes)
    return total
