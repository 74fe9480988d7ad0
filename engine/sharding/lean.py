"""The lean step: ZeRO 1 in bf16 on DeepSpeed's flat buffers, without its passes over them.

DeepSpeed's BF16_Optimizer holds, for each group of parameters, the bf16 weights and the summed fp32
gradient in one flat buffer each, and fp32 masters of the slice that this rank owns. Its own step
moves 115 bytes per parameter outside the model at 3 micro-batches, waits for the device several
times, and reduces the whole gradient on every rank. This one works on the same buffers:

    accumulate   the first micro-batch's gradient is copied, later ones are added, bf16 to fp32, as
                 soon as autograd has one; nothing is zeroed and no bf16 gradient is kept
    reduce       the slice of a rank is summed on that rank alone, as soon as its last gradient has
                 come: during the rest of the backward pass, in an order that all ranks have. Among
                 more than MAX_SLICES ranks all slices are summed at once, at the end
    norm         of the own slice, plus one number over the ranks
    update       AdamW reads the clip as a coefficient on the device and writes the bf16 weights too
    gather       the bf16 slices of all ranks, in place

So DeepSpeed's engine, buffers and checkpoints stay as they are, and either step can take over from
the other.
"""

import logging
import math
from dataclasses import dataclass, field
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tresse.engine.run.ranks import Ranks
from tresse.engine.sharding.sizes import MAX_SLICES
from tresse.kernels.adamw import AdamW, clip_coefficient, sum_of_squares

KNOWN_VERSIONS = ("0.19.5", "0.19.6", "0.19.7", "0.19.8")
"""Releases of DeepSpeed whose BF16_Optimizer has the buffers that this step works on."""

logger = logging.getLogger(__name__)


@dataclass
class _Slice:
    """The part of a group's flat gradient that one rank owns."""

    owner: int
    gradient: Tensor
    missing: int = 0
    """Parameters whose gradient of the last micro-batch has not come yet."""


@dataclass
class _Target:
    """The place of a parameter's summed gradient."""

    view: Tensor
    slices: list[_Slice]
    """Those that it overlaps."""
    has_gradient: bool = False
    """True if a micro-batch of this step has written it."""


@dataclass
class _Group:
    """A group's slices, and the flat buffers of its own one."""

    slices: list[_Slice]
    master: Tensor
    gradient: Tensor
    """Of the own slice, fp32."""
    gradients: Tensor
    """All fp32 gradients of the group."""
    weights: Tensor
    """All bf16 weights of the group."""
    own_weights: Tensor


@dataclass
class LeanStep:
    """Accumulates, reduces and applies the gradient of an engine."""

    optimizer: Any
    """DeepSpeed's BF16_Optimizer, whose hooks this one takes the place of."""
    clip: float
    ranks: Ranks
    _is_last: bool = field(default=False, init=False)
    _works: list[dist.Work] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for hook in self.optimizer._grad_acc_hooks:
            hook.remove()
        self.optimizer._grad_acc_hooks = []
        self._targets: dict[nn.Parameter, _Target] = {}
        self._groups = [self._group(i) for i in range(len(self.optimizer.bf16_groups))]
        # The backward pass completes the last slices first. Autograd's own order may differ between
        # ranks, as where one compiles what another runs eagerly; the order of collectives may not.
        self._order = [part for group in self._groups for part in reversed(group.slices)]
        self._num_reduced = 0
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._take) for parameter in self._targets
        ]

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a micro-batch; after the last one the slices are reduced."""
        self._is_last = last
        if last and self._reduces_slices:
            for target in self._targets.values():
                for part in target.slices:
                    part.missing += 1
        loss.backward()
        if last:
            self._finish()

    @torch.no_grad()
    def apply(self, norm_limit: float) -> tuple[Tensor, bool]:
        """Update the weights unless the gradient norm is above the limit.

        Returns the norm, () fp32 on the device, and whether the optimizer was called. The host
        waits for the norm only if there is a limit. A norm that is not finite changes no weight.
        """
        gradients = [group.gradient for group in self._groups]
        total = self.ranks.all_reduce(sum_of_squares(gradients))
        norm, coefficient = clip_coefficient(total, self.clip)
        is_small = math.isinf(norm_limit) or float(norm) <= norm_limit
        if is_small:
            self._update(coefficient)
            self._gather()
        return norm, is_small

    @property
    def _reduces_slices(self) -> bool:
        return self.ranks.world_size <= MAX_SLICES

    def close(self) -> None:
        """Remove the hooks and drop the buffers."""
        for hook in self._hooks:
            hook.remove()
        self._targets, self._groups, self._order = {}, [], []

    def _group(self, index: int) -> _Group:
        optimizer, rank = self.optimizer, self.ranks.rank
        flat = optimizer.fp32_groups_gradients_flat[index]
        parts = [_Slice(r, part) for r, part in enumerate(flat.chunk(self.ranks.world_size))]
        size, start = parts[0].gradient.numel(), 0
        for parameter, view in zip(
            optimizer.bf16_groups[index], optimizer.fp32_groups_gradients[index], strict=True
        ):
            stop = start + parameter.numel()
            overlapped = parts[start // size : (stop - 1) // size + 1]
            self._targets[parameter] = _Target(view.view(parameter.shape), overlapped)
            start = stop
        return _Group(
            parts,
            optimizer.fp32_groups_flat_partition[index],
            optimizer.fp32_groups_gradient_flat_partition[index],
            flat,
            optimizer.bf16_groups_flat[index],
            optimizer.bf16_partitioned_groups[index][rank],
        )

    @torch.no_grad()
    def _take(self, parameter: nn.Parameter) -> None:
        """Take over a gradient that autograd has just computed."""
        target, gradient = self._targets[parameter], parameter.grad
        assert gradient is not None
        if target.has_gradient:
            target.view.add_(gradient)
        else:
            target.view.copy_(gradient)
        target.has_gradient, parameter.grad = True, None
        if self._is_last and self._reduces_slices:
            self._arrived(target)

    def _arrived(self, target: _Target) -> None:
        for part in target.slices:
            part.missing -= 1
        while self._num_reduced < len(self._order) and not self._order[self._num_reduced].missing:
            self._reduce_next()

    def _reduce_next(self) -> None:
        part = self._order[self._num_reduced]
        self._num_reduced += 1
        if self.ranks.world_size > 1:
            work = dist.reduce(part.gradient, dst=part.owner, async_op=True)
            assert work is not None
            self._works.append(work)

    def _finish(self) -> None:
        """Reduce what is left, and let the device wait for all of it."""
        for target in self._targets.values():
            if not target.has_gradient:  # no micro-batch used this parameter
                target.view.zero_()
            target.has_gradient = False
        if not self._reduces_slices:
            for group in self._groups:
                dist.reduce_scatter_tensor(group.gradient, group.gradients)
            return
        while self._num_reduced < len(self._order):
            self._reduce_next()
        self._num_reduced = 0
        for part in self._order:
            part.missing = 0
        for work in self._works:
            work.wait()
        self._works.clear()

    def _update(self, coefficient: Tensor) -> None:
        inner = self.optimizer.optimizer
        for group in self._groups:
            group.master.grad = group.gradient
        if isinstance(inner, AdamW):
            inner.step(coefficient, [group.own_weights for group in self._groups])
            return
        if coefficient.isfinite():
            for group in self._groups:
                group.gradient.mul_(coefficient)
            inner.step()
            for group in self._groups:
                group.own_weights.copy_(group.master)

    def _gather(self) -> None:
        if self.ranks.world_size > 1:
            for group in self._groups:
                dist.all_gather_into_tensor(group.weights, group.own_weights)


def lean_step(engine: Any, clip: float, ranks: Ranks) -> LeanStep | None:
    """Return the lean step of an engine at ZeRO 1 in bf16; None where DeepSpeed's own is taken."""
    if type(engine.optimizer).__name__ != "BF16_Optimizer":
        return None
    if deepspeed.__version__ not in KNOWN_VERSIONS:
        if ranks.is_first:
            logger.warning(
                "DeepSpeed %s is not one of %s: taking its own step, which is slower",
                deepspeed.__version__,
                ", ".join(KNOWN_VERSIONS),
            )
        return None
    return LeanStep(engine.optimizer, clip, ranks)
