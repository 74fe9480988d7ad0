"""DeepSpeed around the model: its full state, read and set, and its configuration."""

import pytest

from tests.support import processes
from tests.support.warm import torchrun
from tests.support.workers.step import make_model
from tresse.engine.run.config import ShardingConfig
from tresse.engine.sharding.parameter_groups import parameter_groups
from tresse.engine.sharding.shard import deepspeed_config


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.long), 2])
def test_an_engine_with_the_state_of_another_trains_on_bit_for_bit(ranks: int) -> None:
    torchrun(ranks, "tests/support/workers/sharding.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranks", [pytest.param(1, marks=pytest.mark.long), 2, pytest.param(4, marks=pytest.mark.long)]
)
def test_the_lean_step_has_the_masters_of_deepspeeds_own(ranks: int) -> None:
    torchrun(ranks, "tests/support/workers/lean.py")


@pytest.mark.slow
def test_layers_that_are_computed_again_change_no_bit() -> None:
    torchrun(2, "tests/support/workers/recompute.py")


@pytest.mark.slow
def test_the_lean_step_moves_few_bytes_and_waits_for_nothing() -> None:
    processes.torchrun(2, "tests/support/workers/ledger.py")


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_gradients_are_accumulated_and_reduced_in_fp32(zero_stage: int) -> None:
    sharding = ShardingConfig(zero_stage=zero_stage, precision="bf16")  # type: ignore[arg-type]
    config = deepspeed_config(sharding, clip=1.0, micro_rows=1, num_micro_batches=3, bucket=7)
    assert config["data_types"]["grad_accum_dtype"] == "fp32"
    assert config["communication_data_type"] == "fp32"
    assert config["gradient_accumulation_steps"] == 3
    assert config["zero_optimization"]["reduce_bucket_size"] == 7


def test_matrices_decay_and_norms_and_biases_do_not() -> None:
    model = make_model()
    groups = parameter_groups(model, weight_decay=0.1)
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_vector = name.endswith(("norm.weight", ".bias"))
        assert decay.pop(parameter) == (0.0 if is_vector else 0.1), name
    assert not decay
