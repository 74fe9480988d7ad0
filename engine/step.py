"""One optimizer step over the micro-batches of all ranks.

The loss is the cross-entropy summed over all micro-batches and ranks, divided by the number of
targets of the whole step. So the gradient depends neither on the split of the rows nor on padding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from tresse.engine.batches import DeviceBatch, to_host
from tresse.engine.run.config import OptimConfig
from tresse.engine.run.ranks import Ranks
from tresse.engine.sharding.shard import Engine
from tresse.engine.sharding.update import apply_gradient, backward, forward, loss_factor
from tresse.kernels.cross_entropy import IGNORE_INDEX

NUM_NORMS = 128


@dataclass(frozen=True, slots=True)
class StepResult:
    """The measurements of one step, the same on every rank."""

    losses: list[float]
    """Cross-entropy summed over the targets of each language, in nats."""
    targets: list[int]
    """Number of targets of each language."""
    grad_norm: float
    """Global norm of the gradient before the clip."""
    updated: bool
    """True if the weights were updated; False at a norm above the limit or not finite."""
    stop: bool
    """True if any rank was asked to stop."""
    save: bool
    """True if any rank was asked to save."""
    failed: bool = False
    """True if any rank could not write its share of a checkpoint."""

    @property
    def loss(self) -> float:
        """Mean cross-entropy over all targets, in nats."""
        return sum(self.losses) / max(sum(self.targets), 1)


def high_norm(recent: Sequence[float], deviations: float) -> float:
    """Return the norm above which a step is a spike, as OLMo-core's SkipStepOptimizer has it.

    recent: gradient norms of the last steps, at most NUM_NORMS; with less than half of them nothing
    is a spike.
    """
    if len(recent) < NUM_NORMS // 2:
        return math.inf
    return fmean(recent) + deviations * stdev(recent)


def learning_rate(step: int, num_steps: int, optim: OptimConfig) -> float:
    """Return the rate of a step: linear warm-up to `optim.lr`, then linear decay.

    step: number of steps taken before. The last step of the warm-up has the peak rate; the rate
    would be zero one step after the end.
    """
    num_warmup = round(optim.warmup * num_steps)
    if step < num_warmup:
        return optim.lr * (step + 1) / num_warmup
    return optim.lr * (num_steps - step) / (num_steps - num_warmup)


class RunningStep:
    """A step that the device works on; its measurements arrive when it is done."""

    def __init__(self, measured: Tensor, num_languages: int, *, updated: bool) -> None:
        """Send for the measurements, (2 num_languages + 4,): losses, targets, three flags, norm."""
        self._num_languages, self._updated = num_languages, updated
        self._numbers = to_host(measured)
        self._arrival = None
        if measured.is_cuda:
            self._arrival = torch.cuda.Event()
            self._arrival.record()

    def result(self) -> StepResult:
        """Wait for the device, and return the measurements."""
        if self._arrival is not None:
            self._arrival.synchronize()
        *sums, stop, save, failed, norm = self._numbers.tolist()
        return StepResult(
            losses=sums[: self._num_languages],
            targets=[int(count) for count in sums[self._num_languages :]],
            grad_norm=norm,
            updated=self._updated and math.isfinite(norm),
            stop=stop > 0,
            save=save > 0,
            failed=failed > 0,
        )


def train_step(
    engine: Engine,
    micro_batches: Sequence[DeviceBatch],
    num_languages: int,
    lr: float,
    ranks: Ranks,
    *,
    norm_limit: float = math.inf,
    stop: bool = False,
    save: bool = False,
    failed: bool = False,
) -> RunningStep:
    """Accumulate the gradient of this rank's micro-batches, reduce it, update the weights.

    norm_limit: largest gradient norm of an update; one that is not finite is never an update.
    stop, save: True if this rank was asked to. failed: True if it could not write a checkpoint.
    With the lean step and without a limit the host only queues the work: it never waits for the
    device.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    targets = ranks.all_reduce(
        torch.stack([count_targets(batch, num_languages) for batch in micro_batches]).sum(0)
    )
    scale = loss_factor(engine, ranks.world_size) / targets.sum().clamp(min=1)
    losses = torch.zeros(num_languages, dtype=torch.float64, device=ranks.device)
    for position, batch in enumerate(micro_batches):
        loss, token_losses = forward(engine, batch.tokens, batch.labels, batch.cu_seqlens, scale)
        backward(engine, loss, last=position == len(micro_batches) - 1)
        losses += sum_by_language(token_losses, batch.languages, num_languages)
    norm, updated = apply_gradient(engine, norm_limit)
    asked = [
        torch.full((1,), float(flag), dtype=torch.float64, device=ranks.device)
        for flag in (stop, save, failed)
    ]
    summed = ranks.all_reduce(torch.cat([losses, *asked]))
    measured = torch.cat([summed[:-3], targets.double(), summed[-3:], norm.double().view(1)])
    return RunningStep(measured, num_languages, updated=updated)


def count_targets(batch: DeviceBatch, num_languages: int) -> Tensor:
    """Count targets, the labels that are trained on, by language: (num_languages,) int64."""
    is_target = (batch.labels != IGNORE_INDEX).long()
    return sum_by_language(is_target, batch.languages, num_languages)


def sum_by_language(values: Tensor, languages: Tensor, num_languages: int) -> Tensor:
    """Sum (B, T) values by language, deterministically: (num_languages,)."""
    return torch.stack([(values * (languages == k)).sum() for k in range(num_languages)])
