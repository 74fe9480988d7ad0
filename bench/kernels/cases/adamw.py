"""The optimizer step that a training takes: AdamW over the flat fp32 partitions of DeepSpeed.

At ZeRO 1 in bf16 (engine/sharding/) DeepSpeed's BF16_Optimizer holds one flat fp32 partition of
masters for the matrices, which decay, and one for the vectors, which do not, and sums the gradients
in fp32 partitions beside them. Only step() is timed, as every AdamW has it: one launch per
partition of ours, without the clip and the bf16 copy that the lean step lets it do in passing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tresse.bench.kernels.inputs import Inputs
from tresse.bench.kernels.providers import Case, Provider, compiled
from tresse.bench.kernels.timing import Call
from tresse.kernels.adamw import AdamW

STEP = "step"
# Elements of the matrices and of the vectors of Qwen2-0.5B with 2,048 units, on one GPU.
PARTITIONS = {"cuda": (359_661_568, 71_552), "cpu": (1000, 37)}
DECAYS = (0.1, 0.0)
LR, BETAS, EPS = 1e-3, (0.9, 0.98), 1e-8
NUM_UPDATES = 3  # before the first step, as in the middle of a training


class Partition:
    """Masters, gradient and moments of a partition, the same for every provider at first."""

    def __init__(self, count: int, device: torch.device) -> None:
        normal = partial(Inputs(device).normal, count, dtype=torch.float32)
        self.before = normal(std=0.02)
        self.master = self.before.clone()
        self.grad = self.master.grad = normal(std=1 / count**0.5)
        self.exp_avg = normal(std=1e-4)
        self.exp_avg_sq = normal(std=1e-4).square_()

    def results(self) -> list[Tensor]:
        """Copy what a step changes; of the master its change, which is small beside it."""
        return [self.master - self.before, self.exp_avg.clone(), self.exp_avg_sq.clone()]


def provider(partitions: list[Partition], step: Callable[[], Any]) -> Provider:
    """Steps on some partitions; the results of the first one are compared."""

    def results() -> list[Tensor]:
        step()
        return [x for partition in partitions for x in partition.results()]

    return Provider({STEP: Call(step)}, results)


def make_partitions(device: torch.device) -> list[Partition]:
    """Make the partitions of one provider."""
    return [Partition(count, device) for count in PARTITIONS[device.type]]


def by_optimizer(device: torch.device, make: Callable[..., torch.optim.Optimizer]) -> Provider:
    """An optimizer as DeepSpeed calls it."""
    partitions = make_partitions(device)
    groups = [
        {"params": [partition.master], "weight_decay": decay}
        for partition, decay in zip(partitions, DECAYS, strict=True)
    ]
    optimizer = make(groups, lr=LR, betas=BETAS, eps=EPS)
    for partition in partitions:
        # The engine keeps the counter in host memory, as torch's fused AdamW may not on a GPU.
        counter = None if make is AdamW else device
        optimizer.state[partition.master] = {
            "step": torch.tensor(float(NUM_UPDATES), device=counter),
            "exp_avg": partition.exp_avg,
            "exp_avg_sq": partition.exp_avg_sq,
        }
    return provider(partitions, optimizer.step)


def formula_(
    grad: Tensor, master: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor, decay: float
) -> None:
    """The step as it is defined, in place; step, from 1 on, is () in host memory."""
    beta1, beta2 = BETAS
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).add_(grad.square(), alpha=1 - beta2)
    denominator = exp_avg_sq.sqrt() / (1 - beta2**step).sqrt() + EPS
    master.mul_(1 - LR * decay).sub_(LR / (1 - beta1**step) * exp_avg / denominator)


def by_formula(device: torch.device, compile: bool) -> Provider:
    """The formula, compiled or not."""
    partitions, number = make_partitions(device), torch.tensor(float(NUM_UPDATES))
    function = compiled(formula_, device) if compile else formula_

    def step() -> None:
        number.add_(1)
        for p, decay in zip(partitions, DECAYS, strict=True):
            function(p.grad, p.master, p.exp_avg, p.exp_avg_sq, number, decay)

    return provider(partitions, step)


def adamw_case(device: torch.device) -> Case:
    """All parameters of a model on one GPU."""
    counts = PARTITIONS[device.type]
    eager = partial(by_optimizer, device, partial(torch.optim.AdamW, fused=True))
    # Without a GPU the engine takes PyTorch's.
    ours = partial(by_optimizer, device, AdamW) if device.type == "cuda" else eager
    parts, results = ("matrices", "vectors"), ("update", "exp_avg", "exp_avg_sq")
    return Case(
        kernel="adamw",
        shape=f"parameters={sum(counts)}",
        names=[f"{result} of {part}" for part in parts for result in results],
        want=lambda: by_formula(device, compile=False).results(),
        providers={
            "tresse": ours,
            "eager": eager,
            "compile": partial(by_formula, device, compile=True),
        },
        num_bytes={STEP: 4 * (4 + 3) * sum(counts)},  # gradient, master, moments; all but it back
        flops={},
    )
