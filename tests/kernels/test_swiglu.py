"""SwiGLU with the projection after it, in plain PyTorch, against its formula in fp64."""

import pytest
import torch
import torch.nn.functional as F

from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tests.support.formulas import swiglu_linear_formula
from tresse.kernels.swiglu import swiglu_linear

DTYPES = [torch.float32, torch.bfloat16]
SIZES = [(4, 64), (3, 123), (1, 1)]  # 123 is no power of two and odd


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_swiglu_linear_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    inputs = [4 * random(size[0], 2 * size[1]), random(5, size[1], seed=1)]
    assert_as_accurate_as_pytorch(swiglu_linear, swiglu_linear_formula, inputs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_is_computed_in_fp32_and_rounded_once(dtype: torch.dtype):
    gate_up, weight = random(2, 3, 246).to(dtype), random(5, 123, seed=1).to(dtype)
    leaves, dy = [gate_up.requires_grad_(), weight.requires_grad_()], random(2, 3, 5).to(dtype)
    gate, up = gate_up.float().chunk(2, -1)
    plain = F.linear((F.silu(gate) * up).to(dtype), weight)
    fused = swiglu_linear(gate_up, weight)
    grads = [torch.autograd.grad(y, leaves, dy) for y in (fused, plain)]
    assert torch.equal(fused, plain)
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize("frozen", [0, 1])
def test_each_gradient_can_be_had_alone(frozen: int):
    leaves = [random(3, 10).requires_grad_(), random(2, 5, seed=1).requires_grad_()]
    want = torch.autograd.grad(swiglu_linear(*leaves).sum(), leaves)[1 - frozen]
    leaves[frozen].requires_grad_(False)
    (grad,) = torch.autograd.grad(swiglu_linear(*leaves).sum(), leaves[1 - frozen])
    assert torch.equal(grad, want)


@pytest.mark.parametrize("gate_up", [random(3, 9), random(3, 10).float()])
def test_another_width_or_dtype_is_an_error(gate_up: torch.Tensor):
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 2F\) and \(D, F\) of one dtype"):
        swiglu_linear(gate_up, random(2, 5))


def test_results_are_finite_where_the_exponential_overflows():
    gate_up = torch.tensor([[-1e4, 1e4, 1.0, 1.0]], requires_grad=True)
    y = swiglu_linear(gate_up, torch.eye(2))
    (grad,) = torch.autograd.grad(y.sum(), gate_up)
    assert y.tolist() == [[0.0, 1e4]]
    assert grad.tolist() == [[0.0, 1.0, 0.0, 1e4]]
