"""One optimizer step over a flat buffer: clip, AdamW, bf16 copy of the weights."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tresse.bench.kernels.inputs import Inputs
from tresse.bench.kernels.providers import Case, Provider, compiled
from tresse.bench.kernels.timing import Call
from tresse.kernels.adamw import AdamW, clip_coefficient

STEP = "step"
NUM_PARAMETERS = {"cuda": 360_000_000, "cpu": 1000}
LR, BETAS, EPS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.98), 1e-8, 0.1, 1.0
NUM_UPDATES = 3  # the state is that of a training under way


class State:
    """Buffers of one provider, the same for all at first."""

    def __init__(self, device: torch.device) -> None:
        inputs, count = Inputs(device), NUM_PARAMETERS[device.type]
        normal = partial(inputs.normal, count, dtype=torch.float32)
        self.before = normal(std=0.02)
        self.weight = self.before.clone()
        self.grad = self.weight.grad = normal(std=2 / count**0.5)  # a norm of 2: clipped
        self.exp_avg = normal(std=1e-4)
        self.exp_avg_sq = normal(std=1e-4).square_()
        self.copy = self.weight.bfloat16()

    def optimizer_state(self, on_device: bool) -> dict[str, Tensor]:
        """As an optimizer keeps it."""
        step = torch.tensor(float(NUM_UPDATES), device=self.weight.device if on_device else None)
        return {"step": step, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}

    def results(self) -> list[Tensor]:
        """What a step changes; the update itself, beside which the weight is large."""
        update = self.weight - self.before
        return [update, self.exp_avg.clone(), self.exp_avg_sq.clone(), self.copy.float()]


def provider(state: State, step: Callable[[], None]) -> Provider:
    """Steps on a state; the first one's results are compared."""

    def results() -> list[Tensor]:
        step()
        return state.results()

    return Provider({STEP: Call(step)}, results)


def ours(device: torch.device) -> Provider:
    """Two launches, the clip's coefficient read from the device."""
    state = State(device)
    optimizer = AdamW([state.weight], LR, BETAS, EPS, WEIGHT_DECAY)
    optimizer.state[state.weight] = state.optimizer_state(on_device=False)

    def step() -> None:
        _, coefficient = clip_coefficient([state.grad], CLIP)
        optimizer.step(coefficient, [state.copy])

    return provider(state, step)


def eager(device: torch.device) -> Provider:
    """PyTorch's clip, its fused AdamW, and a cast."""
    state = State(device)
    options = {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY}
    optimizer = torch.optim.AdamW([state.weight], fused=True, **options)
    optimizer.state[state.weight] = state.optimizer_state(on_device=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_([state.weight], CLIP)
        optimizer.step()
        state.copy.copy_(state.weight)

    return provider(state, step)


def formula_(
    grad: Tensor, weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, copy: Tensor, step: Tensor
) -> None:
    """The step as it is defined, in place; step, from 1 on, is () in host memory."""
    beta1, beta2 = BETAS
    grad = grad * (CLIP / (grad.norm() + 1e-6)).clamp(max=1)
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).add_(grad.square(), alpha=1 - beta2)
    denominator = exp_avg_sq.sqrt() / (1 - beta2**step).sqrt() + EPS
    weight.mul_(1 - LR * WEIGHT_DECAY).sub_(LR / (1 - beta1**step) * exp_avg / denominator)
    copy.copy_(weight)


def by_formula(device: torch.device, compile: bool) -> Provider:
    """The formula, compiled or not."""
    state = State(device)
    number = torch.tensor(float(NUM_UPDATES))
    function = compiled(formula_, device) if compile else formula_
    buffers = state.grad, state.weight, state.exp_avg, state.exp_avg_sq, state.copy

    def step() -> None:
        number.add_(1)
        function(*buffers, number)

    return provider(state, step)


def adamw_case(device: torch.device) -> Case:
    """All parameters of a model as one buffer, on one GPU."""
    count = NUM_PARAMETERS[device.type]
    return Case(
        kernel="adamw",
        shape=f"parameters={count}",
        names=("update", "exp_avg", "exp_avg_sq", "copy"),
        want=lambda: by_formula(device, compile=False).results(),
        providers={
            # Without a GPU the engine takes PyTorch's.
            "tresse": partial(ours if device.type == "cuda" else eager, device),
            "eager": partial(eager, device),
            "compile": partial(by_formula, device, compile=True),
        },
        # the gradient for its norm; gradient, weight and moments there, the latter back, the copy
        num_bytes={STEP: (4 + 16 + 12 + 2) * count},
        flops={},
    )
