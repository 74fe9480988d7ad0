"""The Triton SwiGLU with the projection after it, against its formula in fp64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tests.support.formulas import swiglu_linear_formula
from tests.support.guarded import guarded
from tresse.kernels import swiglu as module
from tresse.kernels.swiglu import (
    _backward,
    _forward,
    launch_backward_,
    launch_forward,
    swiglu_linear,
    swiglu_linear_reference,
    swiglu_linear_triton,
)

# One value; an odd prime width; a power of two; two blocks of columns, the second one partly used.
SIZES = [(1, 1), (3, 127), (5, 64), (2, 1500)]


def inputs(size: tuple[int, int], D: int = 5) -> list[torch.Tensor]:
    return [4 * random(size[0], 2 * size[1]), random(D, size[1], seed=1)]


def leaves(size: tuple[int, int], D: int = 5) -> list[torch.Tensor]:
    return [x.float().requires_grad_() for x in inputs(size, D)]


def results(function, inputs: list[torch.Tensor], dy: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of the inputs that want one."""
    y = function(*inputs)
    return [y, *torch.autograd.grad(y, [x for x in inputs if x.requires_grad], dy)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    function, formula = swiglu_linear_triton, swiglu_linear_formula
    assert_as_accurate_as_pytorch(function, formula, inputs(size), dtype)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(1, 70), st.integers(1, 9))
def test_it_agrees_with_pytorch_for_any_size(num_rows: int, width: int, D: int):
    tensors, dy = leaves((num_rows, width), D), random(num_rows, D, seed=2).float()
    found = results(swiglu_linear_triton, tensors, dy)
    want = results(swiglu_linear_reference, tensors, dy)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(1, 70), st.integers(1, 9))
def test_with_h_kept_the_results_have_the_same_bits(num_rows: int, width: int, D: int):
    tensors, dy = leaves((num_rows, width), D), random(num_rows, D, seed=2).float()
    found = results(partial(swiglu_linear_triton, keep_h=True), tensors, dy)
    assert all(map(torch.equal, found, results(swiglu_linear_triton, tensors, dy)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(1, 70), st.integers(1, 9))
def test_both_directions_compute_the_same_product_to_the_bit(num_rows: int, width: int, D: int):
    gate_up, weight = (x.detach() for x in leaves((num_rows, width), D))
    dy, h = random(num_rows, D, seed=2).float(), launch_forward(gate_up)
    assert torch.equal(_forward(gate_up, weight), F.linear(h, weight))
    d_gate_up, dweight = _backward(dy, gate_up, weight)
    assert torch.equal(dweight, dy.T @ h)
    overwritten = dy @ weight
    assert torch.equal(launch_backward_(overwritten, gate_up, kept=False), d_gate_up)
    assert torch.equal(overwritten, h)


@pytest.mark.parametrize("frozen", [0, 1])
def test_each_gradient_can_be_had_alone(frozen: int):
    tensors, dy = leaves((3, 127)), random(3, 5, seed=2).float()
    both = results(swiglu_linear_triton, tensors, dy)
    tensors[frozen].requires_grad_(False)
    y, grad = results(swiglu_linear_triton, tensors, dy)
    assert torch.equal(y, both[0])
    assert torch.equal(grad, both[2 - frozen])


def test_it_takes_strided_tensors():
    strided = [x.float().T.contiguous().T.requires_grad_() for x in inputs((3, 127))]
    dy = random(5, 3, seed=2).float().T
    want = results(swiglu_linear_triton, leaves((3, 127)), dy.contiguous())
    torch.testing.assert_close(results(swiglu_linear_triton, strided, dy), want)


def test_it_is_finite_where_the_exponential_overflows():
    gate_up = torch.tensor([[-1e4, 1e4, 1.0, 1.0]], requires_grad=True)
    y, grad = results(lambda x: swiglu_linear_triton(x, torch.eye(2)), [gate_up], torch.ones(1, 2))
    assert y.tolist() == [[0.0, 1e4]]
    assert grad.tolist() == [[0.0, 1.0, 0.0, 1e4]]


def test_it_keeps_its_inputs_alone_for_the_backward():
    tensors = leaves((3, 127))
    for function in (swiglu_linear_triton, swiglu_linear_reference):
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):  # noqa: B023
            function(*tensors)
        assert sorted(x.data_ptr() for x in kept) == sorted(map(torch.Tensor.data_ptr, tensors))


def test_the_weight_may_be_taken_away_between_forward_and_backward():
    # ZeRO-3 does so: it gathers a module's weight for the forward, and again for the backward.
    gate_up, weight = leaves((3, 127))
    dy, whole = random(3, 5, seed=2).float(), weight.data
    want = results(swiglu_linear_triton, [gate_up, weight], dy)
    y = swiglu_linear_triton(gate_up, weight)
    weight.data = torch.empty(0)
    weight.data = whole.clone()
    assert all(map(torch.equal, torch.autograd.grad(y, [gate_up, weight], dy), want[1:]))


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_read_behind_the_inputs(size: tuple[int, int]):
    gate_up, weight = (x.detach() for x in leaves(size))
    dy, dh = random(size[0], 5, seed=2).float(), random(*size, seed=3).float()
    assert torch.equal(launch_forward(guarded(gate_up)), launch_forward(gate_up))
    behind_guards = guarded(dh)
    gradients = (
        launch_backward_(behind_guards, guarded(gate_up), kept=False),
        launch_backward_(dh, gate_up, kept=False),
    )
    assert torch.equal(*gradients)
    assert torch.equal(behind_guards, dh)
    want = _backward(dy, gate_up, weight)
    assert all(map(torch.equal, _backward(*map(guarded, (dy, gate_up, weight))), want))


def test_it_has_the_gradient_of_finite_differences():
    tensors = [x.requires_grad_() for x in inputs((3, 4), 2)]
    assert torch.autograd.gradcheck(swiglu_linear_triton, tensors)


@pytest.mark.parametrize("size", SIZES)
def test_its_operators_pass_torchs_checks(size: tuple[int, int]):
    gate_up, weight = leaves(size)
    torch.library.opcheck(_forward, (gate_up, weight))
    gradient = random(size[0], 5, seed=2).float()
    torch.library.opcheck(_backward, (gradient, gate_up.detach(), weight.detach()))


def test_it_compiles_without_a_graph_break():
    tensors, dy = leaves((5, 6)), random(5, 5, seed=2).float()
    compiled = torch.compile(swiglu_linear_triton, backend="aot_eager", fullgraph=True)
    found = results(compiled, tensors, dy)
    assert all(map(torch.equal, found, results(swiglu_linear_triton, tensors, dy)))


def test_tensors_of_a_gpu_go_to_the_kernels_and_others_to_pytorch(monkeypatch: pytest.MonkeyPatch):
    ran = []
    for name in ("swiglu_linear_triton", "swiglu_linear_reference"):

        def record(x, weight, name=name, **_):
            ran.append(name)
            return x @ weight.T.repeat(2, 1)

        monkeypatch.setattr(module, name, record)
    with FakeTensorMode():
        for device in ("cuda", "cpu"):
            swiglu_linear(torch.ones(2, 6, device=device), torch.ones(5, 3, device=device))
    assert ran == ["swiglu_linear_triton", "swiglu_linear_reference"]
