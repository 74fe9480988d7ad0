"""DeepSpeed around the model: its full state, read and set, and its configuration."""

import pytest

from tests.support.warm import torchrun
from tresse.engine.run.config import ShardingConfig
from tresse.engine.sharding import deepspeed_config


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_an_engine_with_the_state_of_another_trains_on_bit_for_bit(processes: int) -> None:
    torchrun(processes, "tests/support/workers/sharding.py")


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_gradients_are_accumulated_and_reduced_in_fp32(zero_stage: int) -> None:
    sharding = ShardingConfig(zero_stage=zero_stage, precision="bf16")  # type: ignore[arg-type]
    config = deepspeed_config(sharding, clip=1.0, micro_rows=1, num_micro_batches=3)
    assert config["data_types"]["grad_accum_dtype"] == "fp32"
    assert config["communication_data_type"] == "fp32"
    assert config["gradient_accumulation_steps"] == 3
