"""The Triton SwiGLU against its formula in fp64 and against the PyTorch path."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interpreted.guarded import guarded
from tests.test_kernels import assert_as_accurate_as_pytorch, random
from tresse.kernels.swiglu import _backward, _forward, swiglu_reference, swiglu_triton

# One value; an odd prime width; a power of two; two blocks of columns, the second one partly used.
SIZES = [(1, 1), (3, 127), (5, 64), (2, 1500)]


def formula(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    return gate * gate.sigmoid() * up


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


@pytest.mark.parametrize("shape", [(2, 5), (0,), (3, 0)])
def test_swiglu_asks_for_two_halves(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 2F\)"):
        swiglu_triton(random(*shape))


def test_swiglu_compiles_without_a_graph_break():
    gate_up = random(5, 12).float().requires_grad_()
    compiled = torch.compile(swiglu_triton, backend="aot_eager", fullgraph=True)
    y, want = compiled(gate_up), swiglu_triton(gate_up)
    assert torch.equal(y, want)
    grads = [torch.autograd.grad(x.sum(), gate_up)[0] for x in (y, want)]
    assert torch.equal(*grads)
