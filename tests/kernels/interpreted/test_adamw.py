"""`kernels.adamw` against torch's AdamW and clip in fp64 and fp32."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.support.accuracy import assert_within_bound, random
from tests.support.guarded import guarded
from tresse.kernels.adamw import (
    AdamW,
    _adamw_,
    _factors,
    _sum_of_squares,
    clip_coefficient,
    sum_of_squares,
)

OPTIONS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8}
LEARNING_RATES = [1e-3, 3e-3, 2e-4]
GROUP: dict[str, Any] = OPTIONS | {"weight_decay": 0.1}

# One element; a vector less one, a vector, one more; a block less one, a prime past it, blocks.
SIZES = [1, 15, 16, 17, 1023, 1031, 2500]


def gradients(numel: int, step: int) -> Tensor:
    """Gradients from 1 down to 1e-10: eps matters for the smallest."""
    scale = random(numel, seed=2 * step).sigmoid().mul(10).round().neg()
    return random(numel, seed=2 * step + 1) * 10**scale


def train(make: Callable, step: Callable, dtype: torch.dtype, sizes: Sequence[int]) -> list[Tensor]:
    """Weights and moments of two groups after three steps, in fp64."""
    parameters = [torch.nn.Parameter(random(n, seed=99).to(dtype)) for n in sizes]
    groups = [
        {"params": parameters[:1], "weight_decay": 0.1},
        {"params": parameters[1:], "weight_decay": 0.0},
    ]
    optimizer = make(groups, **OPTIONS)
    for i, lr in enumerate(LEARNING_RATES):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for parameter in parameters:
            parameter.grad = gradients(parameter.numel(), i).bfloat16().to(dtype)
        step(optimizer, parameters)
    states = [optimizer.state[p] for p in parameters]
    moments = [state[key] for state in states for key in ("exp_avg", "exp_avg_sq")]
    return [x.detach().double() for x in (*parameters, *moments)]


@pytest.mark.parametrize("clip", [None, 1e-2, 1e4])  # absent, active, not active
@pytest.mark.parametrize("numel", SIZES)
def test_training_is_as_accurate_as_torchs(numel: int, clip: float | None):
    def our_step(optimizer: AdamW, parameters: list[Tensor]):
        if clip is None:
            return optimizer.step()
        _, coefficient = clip_coefficient(
            sum_of_squares([p.grad for p in parameters if p.grad is not None]), clip
        )
        return optimizer.step(coefficient)

    def torchs_step(optimizer: torch.optim.Optimizer, parameters: list[Tensor]):
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()

    sizes = (numel, 37)
    exact = train(torch.optim.AdamW, torchs_step, torch.float64, sizes)
    plain = train(torch.optim.AdamW, torchs_step, torch.float32, sizes)
    ours = train(AdamW, our_step, torch.float32, sizes)
    for i, results in enumerate(zip(ours, plain, exact, strict=True)):
        assert_within_bound(f"result {i}", *results, torch.float32)


class Buffers:
    """The kernel's arguments, each `offset` elements into memory that holds a mark elsewhere."""

    MARK = 7.0

    def __init__(self, numel: int, offset: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.memory, self.views = [], []
        values = [random(numel, seed=i) for i in range(3)] + [random(numel, seed=3).square()]
        for x, kind in zip([*values, values[0]], [dtype, *[torch.float32] * 3, torch.float16]):  # noqa: B905
            memory = torch.full((offset + numel + 5,), self.MARK, dtype=kind)
            memory[offset : offset + numel] = x
            self.memory.append(memory)
            self.views.append(memory[offset : offset + numel])
        self.views[4].fill_(float("nan"))
        self.numel, self.offset = numel, offset

    def update(self, coefficient: Tensor | None = None) -> list[Tensor]:
        """Gradient, master, moments and copy after a step."""
        _adamw_(*self.views, coefficient, _factors(GROUP, 3))
        return self.views

    def assert_marks(self) -> None:
        for memory in self.memory:
            around = torch.cat((memory[: self.offset], memory[self.offset + self.numel :]))
            assert (around == self.MARK).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 70) | st.integers(1000, 1100) | st.sampled_from([2047, 2048, 3000]),
    st.integers(0, 5),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_any_size_alignment_and_gradient(numel: int, offset: int, dtype: torch.dtype):
    buffers = Buffers(numel, offset, dtype)
    parameter = torch.nn.Parameter(buffers.views[1].clone())
    gradient = parameter.grad = buffers.views[0].float()
    reference = torch.optim.AdamW([parameter], **GROUP)
    moments = [x.clone() for x in buffers.views[2:4]]
    reference.state[parameter] = {
        "step": torch.tensor(2.0), "exp_avg": moments[0], "exp_avg_sq": moments[1]
    }  # fmt: skip
    reference.step()
    grad, master, exp_avg, exp_avg_sq, low_precision = buffers.update()
    assert torch.equal(grad.float(), gradient)
    for found, expected in zip((master, exp_avg, exp_avg_sq), (parameter, *moments), strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-6)
    assert torch.equal(low_precision, master.half())
    buffers.assert_marks()


@pytest.mark.parametrize("numel", SIZES)
def test_nothing_is_read_or_written_behind_the_buffers(numel: int):
    buffers, behind_guards = Buffers(numel), Buffers(numel)
    behind_guards.views = [guarded(x) for x in behind_guards.views]
    coefficient = torch.tensor(0.5)
    results = buffers.update(coefficient), behind_guards.update(guarded(coefficient))
    for x, y in zip(*results, strict=True):
        assert torch.equal(x, y)
    gradient = buffers.views[0]
    assert torch.equal(_sum_of_squares([guarded(gradient)]), _sum_of_squares([gradient]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_norm_is_that_of_all_buffers_as_accurate_as_torchs(dtype: torch.dtype):
    # No buffer ends at a chunk, one is empty, one longer than a chunk, another one whole chunk.
    buffers = [(3 * random(n, seed=n)).to(dtype) for n in (70_001, 0, 5, 65_536, 1031)]
    norm, coefficient = clip_coefficient(sum_of_squares(buffers), 1.0)
    want = torch.nn.utils.get_total_norm([x.double() for x in buffers])
    plain = torch.nn.utils.get_total_norm([x.float() for x in buffers])
    ulp = torch.finfo(torch.float32).eps * want.item()
    assert norm.dtype == torch.float32
    assert (norm - want).abs().item() <= 2 * (plain - want).abs().item() + ulp
    torch.testing.assert_close(coefficient, (1 / (want + 1e-6)).float(), rtol=3e-7, atol=0)


def test_the_norm_is_the_same_bits_from_run_to_run_and_in_any_order_of_buffers():
    buffers = [random(n, seed=n).float() for n in (70_001, 5, 1031, 66_000)]
    norm, _ = clip_coefficient(sum_of_squares(buffers), 1.0)
    assert torch.equal(clip_coefficient(sum_of_squares(buffers), 1.0)[0], norm)
    assert torch.equal(clip_coefficient(sum_of_squares(buffers[::-1]), 1.0)[0], norm)


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0])  # no gradient, one below the clip, one above
def test_the_coefficient_is_that_of_torchs_clip(scale: float):
    gradient = scale * random(100).float()
    parameter = torch.nn.Parameter(torch.zeros(100))
    parameter.grad = gradient.clone()
    torchs_norm = torch.nn.utils.clip_grad_norm_(parameter, 1.0)
    norm, coefficient = clip_coefficient(sum_of_squares([gradient]), 1.0)
    torch.testing.assert_close(norm, torchs_norm, rtol=2e-7, atol=0)
    torch.testing.assert_close(coefficient * gradient, parameter.grad, rtol=4e-7, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_at_a_norm_that_is_not_finite_nothing_changes(bad: float):
    buffers = Buffers(40)
    buffers.views[0][7] = bad
    norm, coefficient = clip_coefficient(sum_of_squares([buffers.views[0]]), 1.0)
    assert str(norm.item()) == str(bad)
    assert coefficient.isnan()
    before = [x.clone() for x in buffers.views[1:4]]
    assert all(map(torch.equal, before, buffers.update(coefficient)[1:4]))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_without_a_clip_what_is_not_finite_shows_in_the_weights():
    buffers = Buffers(40)
    buffers.views[0][7] = float("nan")
    assert buffers.update()[1].isnan().nonzero().tolist() == [[7]]


def test_a_copy_lends_its_gradient_to_a_parameter_without_one():
    masters = [torch.nn.Parameter(random(n).float()) for n in (20, 3)]
    weights = [torch.nn.Parameter(p.detach().half()) for p in masters]
    twins = [torch.nn.Parameter(p.detach().clone()) for p in masters]
    for weight, twin in zip(weights, twins, strict=True):
        weight.grad = random(weight.numel(), seed=1).half()
        twin.grad = weight.grad.float()
    AdamW(masters, **GROUP).step(low_precision=weights)
    AdamW(twins, **GROUP).step()
    for master, twin, weight in zip(masters, twins, weights, strict=True):
        assert torch.equal(master, twin)
        assert torch.equal(weight, master.half())


def test_parameters_without_a_gradient_or_elements_are_left_alone():
    still, empty = torch.nn.Parameter(random(3).float()), torch.nn.Parameter(torch.empty(0))
    before = still.detach().clone()
    empty.grad = torch.empty(0)
    optimizer = AdamW([{"params": [still, empty]}, {"params": []}], **GROUP)
    optimizer.step()
    assert torch.equal(still, before)
    assert not optimizer.state[still]
    assert optimizer.state[empty]["step"] == 1


def test_a_state_of_torchs_optimizer_is_gone_on_from():
    def pair(make: Callable) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        parameter = torch.nn.Parameter(random(50).float())
        return parameter, make([parameter], **GROUP)

    (theirs, reference), (ours, optimizer) = pair(torch.optim.AdamW), pair(AdamW)
    for step in range(3):
        theirs.grad = gradients(50, step).float()
        reference.step()
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    ours.data.copy_(theirs)
    ours.grad = theirs.grad = gradients(50, 9).float()
    optimizer.step()
    reference.step()
    torch.testing.assert_close(ours, theirs, rtol=3e-7, atol=0)
    assert optimizer.state[ours].keys() == reference.state[theirs].keys()
    assert optimizer.state[ours]["step"] == 4


class HostCounter:
    """Replaces a state's step, a tensor in host memory, as a fake tensor cannot."""

    device, value = torch.device("cpu"), 2.0

    def __iadd__(self, other: int) -> "HostCounter":
        self.value += other
        return self

    def item(self) -> float:
        return self.value


def test_nothing_in_a_step_waits_for_the_gpu():
    with FakeTensorMode():  # raises where a value is asked for
        parameter = torch.nn.Parameter(torch.ones(50, device="cuda"))
        parameter.grad = torch.ones(50, device="cuda")
        weight = torch.ones(50, device="cuda", dtype=torch.bfloat16)
        optimizer = AdamW([parameter], **GROUP)
        moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": HostCounter()} | moments
        norm, coefficient = clip_coefficient(sum_of_squares([parameter.grad]), 1.0)
        with pytest.raises(DataDependentOutputException):
            norm.item()
        optimizer.step(coefficient, [weight])
    assert (norm.shape, norm.dtype, norm.device.type) == ((), torch.float32, "cuda")


def test_what_the_kernel_cannot_take_is_an_error():
    def step(parameter: Tensor, *low_precision: Tensor) -> None:
        leaf = torch.nn.Parameter(parameter)
        leaf.grad = torch.ones_like(leaf)
        AdamW([leaf], **GROUP).step(low_precision=low_precision or None)

    with pytest.raises(ValueError, match="float64"):
        step(random(3))
    with pytest.raises(ValueError, match="contiguous"):
        step(random(3, 2).float().T)
    with pytest.raises(ValueError, match=r"copy is \(4,\)"):
        step(random(3).float(), torch.empty(4))
    with pytest.raises(ValueError, match=r"copy is \(3,\) with strides \(2,\)"):
        step(random(3).float(), torch.empty(6)[::2])
    with pytest.raises(ValueError, match="shorter"):
        AdamW([torch.ones(3)], **GROUP).step(low_precision=[])


@pytest.mark.parametrize("in_full", [False, True])
def test_the_operators_pass_torchs_checks(in_full: bool):
    *buffers, low_precision = Buffers(40).views
    optional = (low_precision, torch.tensor(0.5)) if in_full else (None, None)
    torch.library.opcheck(_adamw_, (*buffers, *optional, _factors(GROUP, 1)))
    torch.library.opcheck(_sum_of_squares, ([buffers[0], buffers[1].half()],))
