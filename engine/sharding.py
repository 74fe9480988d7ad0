"""DeepSpeed ZeRO around the model: its configuration, and the training state in full.

DeepSpeed averages gradients over the ranks and divides by the number of micro-batches; the step
(engine/step.py) undoes both, so that the gradient is that of one loss over the whole batch.
"""

import gc
import io
import math
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from typing import Any, NamedTuple, cast

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn

from tresse.engine.run.config import OptimConfig, ShardingConfig
from tresse.engine.run.ranks import Ranks
from tresse.kernels.adamw import AdamW

# deepspeed.DeepSpeedEngine, whose own annotations are too loose to be checked against.
Engine = Any

MOMENTS = ("exp_avg", "exp_avg_sq")

# DeepSpeed warns of an unknown optimizer even where `zero_allow_untested_optimizer` allows it.
deepspeed.utils.logger.addFilter(lambda record: "untested optimizer" not in record.getMessage())


def deepspeed_config(
    sharding: ShardingConfig, clip: float, micro_rows: int, num_micro_batches: int
) -> dict[str, Any]:
    """Return DeepSpeed's configuration, with every key whose default has changed in a release."""
    offload = {"device": "cpu", "pin_memory": True} if sharding.offload_optimizer else None
    return {
        "train_micro_batch_size_per_gpu": micro_rows,
        "gradient_accumulation_steps": num_micro_batches,
        "gradient_clipping": clip,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "bf16": {
            "enabled": sharding.precision == "bf16",
            "check_grad_overflow": False,  # Guard leaves such a step out
            "immediate_grad_update": True,
        },
        "zero_optimization": {
            "stage": sharding.zero_stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "round_robin_gradients": False,
            "offload_optimizer": offload,
            # True would replace torch.nn.functional.linear in the whole process.
            "memory_efficient_linear": False,
        },
        "zero_allow_untested_optimizer": True,  # ours is tested by tests/kernels/test_adamw.py
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it synchronises the device
        "steps_per_print": 10**9,
    }


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups of the optimizer: matrices decay, norms and biases do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    model: nn.Module, sharding: ShardingConfig, optim: OptimConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Return AdamW: our kernel for masters on a GPU, torch's for masters in host memory."""
    groups = parameter_groups(model, optim.weight_decay)
    if device.type == "cuda" and not sharding.offload_optimizer:
        return AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def shard(
    model: nn.Module,
    sharding: ShardingConfig,
    optim: OptimConfig,
    ranks: Ranks,
    *,
    micro_rows: int,
    num_micro_batches: int,
) -> Engine:
    """Give the model, with fp32 weights, to DeepSpeed; AdamW is the optimizer.

    The engine's masters start as the weights rounded to the compute dtype; `set_full_state` sets
    their fp32 values.
    """
    optimizer = make_optimizer(model, sharding, optim, ranks.device)
    config = deepspeed_config(sharding, optim.clip, micro_rows, num_micro_batches)
    with redirect_stdout(io.StringIO()):  # BF16_Optimizer prints memory tables at any log level
        engine: Engine
        engine, *_ = deepspeed.initialize(
            model=model.to(ranks.device),
            optimizer=optimizer,
            config=config,
            dist_init_required=False,
        )
    engine.guard = Guard(engine)
    return engine


def release(engine: Engine) -> None:
    """Free an engine's tensors; DeepSpeed's hooks keep the engine itself alive.

    Otherwise a run of three stages would hold three sets of weights, gradients and moments.
    """
    optimizer = engine.optimizer
    inner = inner_optimizer(engine)
    flat = [p for group in inner.param_groups for p in group["params"]]
    flat += getattr(optimizer, "fp32_partitioned_groups_flat", [])
    parameters = list(engine.module.parameters())
    parameters += [p.ds_tensor for p in parameters if hasattr(p, "ds_tensor")]
    engine.destroy()
    inner.state.clear()
    for tensor in flat + parameters:
        tensor.grad = None
        tensor.data = tensor.data.new_empty(0)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Update(NamedTuple):
    """What became of the accumulated gradient."""

    grad_norm: float
    """Global norm before the clip; not finite if a gradient is not."""
    updated: bool
    """True if the weights were updated."""


class Guard:
    """Stands before an optimizer's step, and leaves it out if the gradient norm is too high.

    DeepSpeed's own step takes the norm, clips, and then calls the optimizer, at some levels once
    for each group of parameters.
    """

    def __init__(self, engine: Engine) -> None:
        self._optimizer = engine.optimizer
        inner = inner_optimizer(engine)
        self._step = inner.step
        inner.step = self  # type: ignore[method-assign, assignment]
        self.begin(math.inf)

    def begin(self, limit: float, norm: float | None = None) -> None:
        """Begin a step; norm: what it is, if DeepSpeed will not say."""
        self.limit, self.norm, self.updated = limit, norm, False

    def __call__(self) -> None:
        """Take the optimizer's step, or leave it out."""
        if self.norm is None:
            self.norm = float(self._optimizer._global_grad_norm)
        if math.isfinite(self.norm) and self.norm <= self.limit:
            self._step()
            self.updated = True


def inner_optimizer(engine: Engine) -> torch.optim.Optimizer:
    """Return the optimizer within DeepSpeed's; at level 0 there is none around it."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def apply_gradient(engine: Engine, norm_limit: float = math.inf) -> Update:
    """Clip the accumulated gradient and update the weights, unless its norm is above the limit."""
    norm = None
    if engine.zero_optimization_stage() == 0:
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in engine.module.parameters()]))
    engine.guard.begin(norm_limit, norm)
    engine.step()
    if norm is None:
        norm = float(engine.get_global_grad_norm())
    return Update(norm, engine.guard.updated)


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
