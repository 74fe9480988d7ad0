"""The Triton SwiGLU, alone and with the linear layer after it, against its formula in fp64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tests.support.guarded import guarded
from tresse.kernels import swiglu as module
from tresse.kernels.swiglu import (
    _backward,
    _backward_linear,
    _forward,
    _forward_linear,
    swiglu_linear,
    swiglu_linear_reference,
    swiglu_linear_triton,
    swiglu_reference,
    swiglu_triton,
)

# One value; an odd prime width; a power of two; two blocks of columns, the second one partly used.
SIZES = [(1, 1), (3, 127), (5, 64), (2, 1500)]


def formula(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    return gate * gate.sigmoid() * up


def linear_formula(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return formula(gate_up) @ weight.T


def linear_inputs(size: tuple[int, int], D: int = 5) -> list[torch.Tensor]:
    return [4 * random(size[0], 2 * size[1]), random(D, size[1], seed=1)]


def results(function, inputs: list[torch.Tensor], dy: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of the inputs that want one."""
    y = function(*inputs)
    return [y, *torch.autograd.grad(y, [x for x in inputs if x.requires_grad], dy)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_swiglu_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    inputs = [4 * random(size[0], 2 * size[1])]
    assert_as_accurate_as_pytorch(swiglu_triton, formula, inputs, dtype)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 17), st.integers(1, 70))
def test_swiglu_agrees_with_the_pytorch_path_for_any_number_of_rows(num_rows: int, width: int):
    gate_up = random(num_rows, 2 * width, seed=num_rows).float().requires_grad_()
    grad = random(num_rows, width, seed=1).float()
    results = []
    for function in (swiglu_triton, swiglu_reference):
        y = function(gate_up)
        results.append((y, *torch.autograd.grad(y, gate_up, grad)))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_swiglu_takes_leading_dimensions_and_strided_tensors():
    gate_up = random(3, 14, 2).float().transpose(1, 2).requires_grad_()
    grad = random(3, 7, 2).float().transpose(1, 2)  # what a matmul may hand to the backward
    y = swiglu_triton(gate_up)
    assert torch.equal(y, swiglu_triton(gate_up.contiguous()))
    (strided,) = torch.autograd.grad(y, gate_up, grad)
    (contiguous,) = torch.autograd.grad(swiglu_triton(gate_up), gate_up, grad.contiguous())
    assert torch.equal(strided, contiguous)


def test_swiglu_is_finite_where_the_exponential_overflows():
    gate_up = torch.tensor([[-1e4, 1e4, 1.0, 1.0]], requires_grad=True)
    y = swiglu_triton(gate_up)
    (grad,) = torch.autograd.grad(y.sum(), gate_up)
    assert y.tolist() == [[0.0, 1e4]]
    assert grad.tolist() == [[0.0, 1.0, 0.0, 1e4]]


@pytest.mark.parametrize("size", SIZES)
def test_swiglu_reads_nothing_behind_its_inputs(size: tuple[int, int]):
    gate_up, grad = random(size[0], 2 * size[1]).float(), random(*size, seed=1).float()
    assert torch.equal(_forward(guarded(gate_up)), _forward(gate_up))
    assert torch.equal(_backward(guarded(grad), guarded(gate_up)), _backward(grad, gate_up))


def test_swiglu_has_the_gradient_of_finite_differences():
    assert torch.autograd.gradcheck(swiglu_triton, random(3, 10).requires_grad_())


@pytest.mark.parametrize("size", SIZES)
def test_swiglu_keeps_the_promises_of_a_custom_op(size: tuple[int, int]):
    gate_up, grad = random(size[0], 2 * size[1]).float(), random(*size, seed=1).float()
    torch.library.opcheck(_forward, (gate_up.requires_grad_(),))
    torch.library.opcheck(_backward, (grad, gate_up.detach()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_swiglu_linear_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    inputs = linear_inputs(size)
    assert_as_accurate_as_pytorch(swiglu_linear_triton, linear_formula, inputs, dtype)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(1, 70), st.integers(1, 9))
def test_swiglu_linear_is_swiglu_and_a_linear_bit_for_bit(num_rows: int, width: int, D: int):
    inputs = [x.float().requires_grad_() for x in linear_inputs((num_rows, width), D)]
    dy = random(num_rows, D, seed=2).float()
    want = results(lambda x, weight: F.linear(swiglu_triton(x), weight), inputs, dy)
    assert all(map(torch.equal, results(swiglu_linear_triton, inputs, dy), want))
    plain = results(swiglu_linear_reference, inputs, dy)
    torch.testing.assert_close(want, plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("frozen", [0, 1])
def test_swiglu_linear_has_each_gradient_alone(frozen: int):
    inputs = [x.float().requires_grad_() for x in linear_inputs((3, 127))]
    dy = random(3, 5, seed=2).float()
    both = results(swiglu_linear_triton, inputs, dy)
    inputs[frozen].requires_grad_(False)
    y, grad = results(swiglu_linear_triton, inputs, dy)
    assert torch.equal(y, both[0])
    assert torch.equal(grad, both[2 - frozen])


def test_swiglu_linear_takes_strided_tensors():
    inputs = [x.float().T.contiguous().T.requires_grad_() for x in linear_inputs((3, 127))]
    dy = random(5, 3, seed=2).float().T
    contiguous = [x.detach().contiguous().requires_grad_() for x in inputs]
    want = results(swiglu_linear_triton, contiguous, dy.contiguous())
    torch.testing.assert_close(results(swiglu_linear_triton, inputs, dy), want)


def test_swiglu_linear_keeps_its_inputs_alone_for_the_backward():
    inputs = [x.float().requires_grad_() for x in linear_inputs((3, 127))]
    for function in (swiglu_linear_triton, swiglu_linear_reference):
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):  # noqa: B023
            function(*inputs)
        assert sorted(x.data_ptr() for x in kept) == sorted(map(torch.Tensor.data_ptr, inputs))


def test_the_weight_may_be_taken_away_between_forward_and_backward():
    # As ZeRO-3 does, which gathers a module's weight for either.
    gate_up, weight = (x.float().requires_grad_() for x in linear_inputs((3, 127)))
    dy, whole = random(3, 5, seed=2).float(), weight.data
    want = results(swiglu_linear_triton, [gate_up, weight], dy)
    y = swiglu_linear_triton(gate_up, weight)
    weight.data = torch.empty(0)
    weight.data = whole.clone()
    assert all(map(torch.equal, torch.autograd.grad(y, [gate_up, weight], dy), want[1:]))


@pytest.mark.parametrize("size", SIZES)
def test_swiglu_linear_reads_nothing_behind_its_inputs(size: tuple[int, int]):
    gate_up, weight = (x.float() for x in linear_inputs(size))
    dy = random(size[0], 5, seed=2).float()
    want = _backward_linear(dy, gate_up, weight)
    assert all(map(torch.equal, _backward_linear(*map(guarded, (dy, gate_up, weight))), want))


def test_swiglu_linear_has_the_gradient_of_finite_differences():
    inputs = [x.requires_grad_() for x in linear_inputs((3, 4), 2)]
    assert torch.autograd.gradcheck(swiglu_linear_triton, inputs)


@pytest.mark.parametrize("size", SIZES)
def test_swiglu_linear_keeps_the_promises_of_a_custom_op(size: tuple[int, int]):
    gate_up, weight = (x.float().requires_grad_() for x in linear_inputs(size))
    torch.library.opcheck(_forward_linear, (gate_up, weight))
    inputs = random(size[0], 5, seed=2).float(), gate_up.detach(), weight.detach()
    torch.library.opcheck(_backward_linear, inputs)


def test_tensors_of_a_gpu_go_to_the_kernels_and_others_to_pytorch(monkeypatch: pytest.MonkeyPatch):
    ran = []
    for name in ("swiglu_linear_triton", "swiglu_linear_reference"):
        record = lambda x, weight, name=name: ran.append(name) or x @ weight.T.repeat(2, 1)  # noqa: E731
        monkeypatch.setattr(module, name, record)
    with FakeTensorMode():
        for device in ("cuda", "cpu"):
            swiglu_linear(torch.ones(2, 6, device=device), torch.ones(5, 3, device=device))
    assert ran == ["swiglu_linear_triton", "swiglu_linear_reference"]


@pytest.mark.parametrize("shape", [(2, 5), (0,), (3, 0)])
def test_swiglu_asks_for_two_halves(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 2F\)"):
        swiglu_triton(random(*shape))


@pytest.mark.parametrize("function", [swiglu_triton, swiglu_linear_triton])
def test_swiglu_compiles_without_a_graph_break(function):
    inputs = [x.float().requires_grad_() for x in linear_inputs((5, 6))]
    inputs = inputs[:1] if function is swiglu_triton else inputs
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    dy = torch.ones_like(function(*inputs))
    assert all(map(torch.equal, results(compiled, inputs, dy), results(function, inputs, dy)))
