"""AdamW and the clip on a GPU against torch's in fp64; torch's in fp32 gives the bound."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.accuracy import assert_within_bound, random
from tresse.kernels.adamw import AdamW, clip_coefficient, sum_of_squares

SIZES = [(1_000_003, 37), (16, 15), (4_194_304, 1)]
OPTIONS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.1}
NUM_STEPS = 3


def train(make: Callable, step: Callable, dtype: torch.dtype, sizes: tuple[int, ...]):
    """Weights and moments after some steps, and the optimizer."""
    parameters = [random(n, seed=i).to("cuda", dtype) for i, n in enumerate(sizes)]
    optimizer = make(parameters, **OPTIONS)
    for i in range(NUM_STEPS):
        for parameter in parameters:
            parameter.grad = random(parameter.numel(), seed=10 + i).to("cuda", dtype)
        step(optimizer, parameters)
    states = [optimizer.state[p] for p in parameters]
    return [*parameters, *(state[key] for state in states for key in ("exp_avg", "exp_avg_sq"))]


def by_torch(clip: float) -> Callable:
    def step(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()

    return step


def by_kernel(clip: float) -> Callable:
    """A step, and the bf16 copies that it writes must be the weights rounded."""

    def step(optimizer: AdamW, parameters: list[Tensor]) -> None:
        copies = [torch.empty_like(p, dtype=torch.bfloat16) for p in parameters]
        _, coefficient = clip_coefficient(
            sum_of_squares([p.grad for p in parameters if p.grad is not None]), clip
        )
        optimizer.step(coefficient, copies)
        for copy, parameter in zip(copies, parameters, strict=True):
            assert torch.equal(copy, parameter.bfloat16())

    return step


@pytest.mark.parametrize("clip", [1e-2, 1e9])  # active, not active
@pytest.mark.parametrize("sizes", SIZES)
def test_training_is_as_accurate_as_torchs(sizes: tuple[int, ...], clip: float):
    exact = train(torch.optim.AdamW, by_torch(clip), torch.float64, sizes)
    plain = train(torch.optim.AdamW, by_torch(clip), torch.float32, sizes)
    ours = train(AdamW, by_kernel(clip), torch.float32, sizes)
    for i, results in enumerate(zip(ours, plain, exact, strict=True)):
        assert_within_bound(f"result {i}", *results, torch.float32)


def test_a_step_and_the_norm_give_the_same_bits_again():
    first, second = (train(AdamW, by_kernel(1.0), torch.float32, SIZES[0]) for _ in range(2))
    assert all(map(torch.equal, first, second))
    gradients = [random(n, seed=n).float().cuda() for n in SIZES[0]]
    norms = [clip_coefficient(sum_of_squares(gradients), 1.0)[0] for _ in range(2)]
    assert torch.equal(*norms)
    exact = torch.cat([x.double() for x in gradients]).norm()
    assert norms[0].item() == pytest.approx(exact.item(), rel=1e-6)
