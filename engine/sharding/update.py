"""A micro-batch's gradient and the update of the weights: by the lean step, or by DeepSpeed's own.

DeepSpeed averages gradients over the ranks and divides by the number of micro-batches. Both are
undone here, so that the gradient is that of one loss over the whole batch.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tresse.engine.sharding.shard import Engine


class Update(NamedTuple):
    """What became of the accumulated gradient."""

    grad_norm: Tensor
    """Global norm before the clip, () on the device; not finite if a gradient is not."""
    updated: bool
    """True if the optimizer was called."""


def forward(engine: Engine, *inputs: Tensor | None) -> Any:
    """Call the model, such that `backward` may follow."""
    return engine.module(*inputs) if engine.lean else engine(*inputs)


def loss_factor(engine: Engine, world_size: int) -> int:
    """Return the factor of the loss that undoes DeepSpeed's average over the ranks."""
    return 1 if engine.lean else world_size


def backward(engine: Engine, loss: Tensor, *, last: bool) -> None:
    """Add the gradient of a micro-batch to the accumulated one; reduce it after the last."""
    if engine.lean:
        engine.lean.backward(loss, last=last)
        return
    # DeepSpeed 0.19.8 divides the gradient of a tensor that the model returns by the number of
    # micro-batches before it reads scale_wrt_gas; it does not divide that of a clone.
    engine.backward(loss.clone(), scale_wrt_gas=False)
    if not last:
        engine.step()


def apply_gradient(engine: Engine, norm_limit: float = math.inf) -> Update:
    """Clip the accumulated gradient and update the weights, unless its norm is above the limit.

    The host waits for the norm only if there is a limit, or where DeepSpeed's own step waits.
    """
    if engine.lean:
        return Update(*engine.lean.apply(norm_limit))
    norm = None
    if engine.zero_optimization_stage() == 0:
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in engine.module.parameters()]))
    engine.guard.begin(norm_limit, norm)
    engine.step()
    if norm is None:
        norm = float(engine.get_global_grad_norm())
    return Update(torch.tensor(norm, device=engine.device), engine.guard.updated)
