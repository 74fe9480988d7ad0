"""The training state in full: masters and moments, whatever the division among the ranks."""

from collections.abc import Callable, Iterator
from typing import cast

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn

from tresse.engine.checkpoint.state import MOMENTS
from tresse.engine.sharding.shard import Engine, inner_optimizer


def full_state(engine: Engine) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Assemble each parameter's training state, one parameter at a time, on every rank.

    Yields (name, {"weight", "exp_avg", "exp_avg_sq"}) in fp32, on the device. A collective: every
    rank must iterate to the end. Call `set_full_state` before.
    """
    for name, parameter in engine.module.named_parameters():
        if engine.zero_optimization_stage() == 0:
            moments = {key: engine.optimizer.state[parameter][key] for key in MOMENTS}
            yield name, {"weight": parameter.detach()} | moments
        else:
            moments = {
                key: cast(Tensor, safe_get_full_optimizer_state(parameter, key)) for key in MOMENTS
            }
            yield name, {"weight": cast(Tensor, safe_get_full_fp32_param(parameter))} | moments


def set_full_state(
    engine: Engine,
    read: Callable[[str], dict[str, Tensor]],
    num_updates: int,
) -> None:
    """Set masters, moments and the optimizer's counter of updates.

    read: returns a parameter's state as `full_state` yields it, on any device; a missing moment is
    zero. The compute weights must hold the same values already: setting a master does not change
    them.
    """
    _create_moments(engine, num_updates)
    for name, parameter in engine.module.named_parameters():
        state = {key: value.to(engine.device) for key, value in read(name).items()}
        if engine.zero_optimization_stage() == 0:
            _set_plain(engine, parameter, state)
            continue
        safe_set_full_fp32_param(parameter, state["weight"])
        for key in state.keys() & set(MOMENTS):
            safe_set_full_optimizer_state(parameter, state[key], key)


def _set_plain(engine: Engine, parameter: nn.Parameter, state: dict[str, Tensor]) -> None:
    parameter.data.copy_(state["weight"])
    for key in state.keys() & set(MOMENTS):
        engine.optimizer.state[parameter][key].copy_(state[key])


def _create_moments(engine: Engine, num_updates: int) -> None:
    """Create the state that AdamW creates in its first step, with the counter at `num_updates`.

    DeepSpeed 0.19.8 links moments to parameters after the first step of the first group, when those
    of the second group do not exist yet. Creating and linking them here links both groups.
    """
    zero_stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    inner = inner_optimizer(engine)
    if zero_stage == 3:
        partitions = optimizer.fp32_partitioned_groups_flat
    else:
        partitions = [p for group in inner.param_groups for p in group["params"]]
    for partition in partitions:
        inner.state[partition] = {
            "step": torch.tensor(float(num_updates)),  # both optimizers expect it in host memory
            "exp_avg": torch.zeros_like(partition),
            "exp_avg_sq": torch.zeros_like(partition),
        }
    if zero_stage in (1, 2):
        optimizer._lazy_init_hp_params_optimizer_state()  # links moments to parameters
