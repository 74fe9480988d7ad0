"""One optimizer step over the micro-batches of all ranks.

The loss is the cross-entropy summed over all micro-batches and ranks, divided by the number of
targets of the whole step. So the gradient depends neither on the split of the rows nor on padding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tresse.engine.batches import DeviceBatch
from tresse.engine.run.config import OptimConfig
from tresse.engine.run.ranks import Ranks
from tresse.engine.sharding import Engine, update
from tresse.kernels.cross_entropy import IGNORE_INDEX


@dataclass(frozen=True, slots=True)
class StepResult:
    """The measurements of one step, the same on every rank."""

    losses: list[float]
    """Cross-entropy summed over the targets of each language, in nats."""
    targets: list[int]
    """Number of targets of each language."""
    grad_norm: float
    """Global norm of the gradient before the clip."""
    stop: bool
    """True if any rank was asked to stop."""

    @property
    def loss(self) -> float:
        """Mean cross-entropy over all targets, in nats."""
        return sum(self.losses) / max(sum(self.targets), 1)


def learning_rate(step: int, num_steps: int, optim: OptimConfig) -> float:
    """Return the rate of a step: linear warm-up to `optim.lr`, then linear decay.

    step: number of steps taken before. The last step of the warm-up has the peak rate; the rate
    would be zero one step after the end.
    """
    num_warmup = round(optim.warmup * num_steps)
    if step < num_warmup:
        return optim.lr * (step + 1) / num_warmup
    return optim.lr * (num_steps - step) / (num_steps - num_warmup)


def train_step(
    engine: Engine,
    micro_batches: Sequence[DeviceBatch],
    num_languages: int,
    lr: float,
    ranks: Ranks,
    *,
    stop: bool = False,
) -> StepResult:
    """Accumulate the gradient of this rank's micro-batches, reduce it, update the weights.

    stop: True if this rank was asked to stop. Raises FloatingPointError when the loss or the
    gradient norm is not finite.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    targets = ranks.all_reduce(
        torch.stack([count_targets(batch, num_languages) for batch in micro_batches]).sum(0)
    )
    # DeepSpeed will divide the summed gradient by the number of ranks.
    scale = ranks.world_size / targets.sum().clamp(min=1)
    losses = torch.zeros(num_languages, dtype=torch.float64, device=ranks.device)
    grad_norm = math.nan
    for position, batch in enumerate(micro_batches):
        loss, token_losses = engine(batch.tokens, batch.labels, batch.cu_seqlens, scale)
        # DeepSpeed 0.19.8 divides the gradient of a tensor that the model returns by the number of
        # micro-batches before it reads scale_wrt_gas; it does not divide that of a clone.
        engine.backward(loss.clone(), scale_wrt_gas=False)
        losses += sum_by_language(token_losses, batch.languages, num_languages)
        if position < len(micro_batches) - 1:
            engine.step()
        else:
            grad_norm = update(engine)
    measured = ranks.all_reduce(torch.cat([losses, losses.new_tensor([stop])])).tolist()
    result = StepResult(measured[:-1], targets.tolist(), grad_norm, measured[-1] > 0)
    if not math.isfinite(result.loss) or not math.isfinite(grad_norm):
        raise FloatingPointError(
            f"loss {result.loss} and gradient norm {grad_norm} are not finite; start another run "
            "from the last good stage with --init RUN/STAGE and a lower --optim.lr"
        )
    return result


def count_targets(batch: DeviceBatch, num_languages: int) -> Tensor:
    """Count targets, the labels that are trained on, by language: (num_languages,) int64."""
    is_target = (batch.labels != IGNORE_INDEX).long()
    return sum_by_language(is_target, batch.languages, num_languages)


def sum_by_language(values: Tensor, languages: Tensor, num_languages: int) -> Tensor:
    """Sum (B, T) values by language, deterministically: (num_languages,)."""
    return torch.stack([(values * (languages == k)).sum() for k in range(num_languages)])
