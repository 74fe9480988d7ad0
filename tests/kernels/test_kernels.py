"""Each function of `kernels` against its formula in fp64, forward and backward.

The bound is relative to what PyTorch reaches with the formula written plainly in the same dtype:
twice its error and one unit in the last place of the largest value.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tresse.kernels.rmsnorm import add_rmsnorm, rmsnorm
from tresse.kernels.rope import rope_qkv, rope_tables
from tresse.kernels.swiglu import swiglu, swiglu_linear

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]
SIZES = [(4, 64), (3, 123), (1, 1)]  # 123 is no power of two and odd, 1 is a mean over one


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(function: Callable, inputs: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Outputs and gradients of the inputs for a fixed random cotangent, in fp64."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    cotangents = [random(*y.shape, seed=9).to(y.dtype) for y in outputs]
    grads = torch.autograd.grad(outputs, leaves, cotangents)
    return [x.detach().double() for x in (*outputs, *grads)]


def assert_as_accurate_as_pytorch(
    function: Callable, formula: Callable, inputs: list[torch.Tensor], dtype: torch.dtype
) -> None:
    inputs = [x.to(dtype).double() for x in inputs]  # the rounding of the inputs is no error
    exact = run(formula, inputs, torch.float64)
    results = run(function, inputs, dtype), run(formula, inputs, dtype)
    for i, (want, ours, plain) in enumerate(zip(exact, *results, strict=True)):
        error, floor = ((x - want).abs().max().item() for x in (ours, plain))
        ulp = torch.finfo(dtype).eps * want.abs().max().item()
        assert error <= 2 * floor + ulp, f"result {i}: {error=:.3e} {floor=:.3e} {ulp=:.3e}"


def rmsnorm_formula(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_rmsnorm_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    inputs = [random(*size), random(size[1], seed=1)]
    assert_as_accurate_as_pytorch(partial(rmsnorm, eps=1e-5), rmsnorm_formula, inputs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_add_rmsnorm_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    def formula(x, residual, weight):
        return rmsnorm_formula(x + residual, weight), x + residual

    inputs = [random(*size), random(*size, seed=1), random(size[1], seed=2)]
    assert_as_accurate_as_pytorch(partial(add_rmsnorm, eps=1e-5), formula, inputs, dtype)


def test_add_rmsnorm_without_residual_starts_the_stream():
    x, weight = random(3, 5), random(5, seed=1)
    normed, residual = add_rmsnorm(x, None, weight, 1e-5)
    assert torch.equal(normed, rmsnorm(x, weight, 1e-5))
    assert torch.equal(residual, x)


def packed(size: tuple[int, ...]) -> torch.Tensor:
    """A packed projection, (B T, (H + 2 Hkv) K), for size (B, T, H, Hkv, K)."""
    B, T, H, Hkv, K = size
    return random(B * T, (H + 2 * Hkv) * K)


def rope_formula(qkv, cos, sin, num_heads: int, num_kv_heads: int):
    """Each head of each row by itself, turned by the tables rounded to its dtype."""
    T, half = cos.shape
    cos, sin = cos.to(qkv.dtype), sin.to(qkv.dtype)

    def rotate(head: torch.Tensor) -> torch.Tensor:
        x1, x2 = head[:, :half], head[:, half:]
        return torch.cat((x1 * cos - x2 * sin, x1 * sin + x2 * cos), -1)

    def part(start: int, stop: int, function: Callable) -> torch.Tensor:
        columns = [qkv[:, h * 2 * half : (h + 1) * 2 * half] for h in range(start, stop)]
        heads = [torch.cat([function(row) for row in x.split(T)]) for x in columns]
        return torch.stack(heads, 1)

    H, Hkv = num_heads, num_kv_heads
    cuts = (0, H), (H, H + Hkv), (H + Hkv, H + 2 * Hkv)
    q, k, v = (part(*cut, f) for cut, f in zip(cuts, (rotate, rotate, lambda x: x), strict=True))
    return q, k, v


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(2, 7, 3, 1, 64), (1, 1, 1, 1, 2), (1, 13, 2, 2, 6)])
def test_rope_is_as_accurate_as_pytorch(size: tuple[int, ...], dtype: torch.dtype):
    cos, sin = rope_tables(size[1], size[4], 10_000.0, None, CPU)
    rest = {"cos": cos, "sin": sin, "num_heads": size[2], "num_kv_heads": size[3]}
    function, formula = partial(rope_qkv, **rest), partial(rope_formula, **rest)
    assert_as_accurate_as_pytorch(function, formula, [packed(size)], dtype)


def test_rope_turns_pair_i_at_position_t_by_t_times_theta_to_minus_2i_over_k():
    K, theta = 8, 500.0
    qkv = random(11, 3 * K)
    y = torch.stack(rope_qkv(qkv, *rope_tables(11, K, theta, None, CPU), 1, 1))[:, :, 0]
    x = qkv.view(11, 3, K).transpose(0, 1)
    turned = torch.complex(x[..., :4], x[..., 4:])
    angles = torch.arange(11.0)[:, None] * theta ** (-2 * torch.arange(4, dtype=torch.float64) / K)
    turned[:2] *= torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(y, torch.cat((turned.real, turned.imag), -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 18), (6, 17), (2, 3, 18)])  # no whole rows, no whole heads
def test_rope_asks_for_the_tables_of_the_projection(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"expected \(rows of T, \(1 \+ 2 \* 1\) K\)"):
        rope_qkv(random(*shape), *rope_tables(3, 6, 500.0, None, CPU), 1, 1)


def swiglu_formula(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    return gate / (1 + (-gate).exp()) * up


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_swiglu_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    inputs = [4 * random(size[0], 2 * size[1])]
    assert_as_accurate_as_pytorch(swiglu, swiglu_formula, inputs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_swiglu_linear_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    def formula(gate_up, weight):
        return swiglu_formula(gate_up) @ weight.T

    inputs = [4 * random(size[0], 2 * size[1]), random(5, size[1], seed=1)]
    assert_as_accurate_as_pytorch(swiglu_linear, formula, inputs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_linear_is_swiglu_and_a_linear_bit_for_bit(dtype: torch.dtype):
    gate_up, weight = random(2, 3, 246).to(dtype), random(5, 123, seed=1).to(dtype)
    leaves, dy = [gate_up.requires_grad_(), weight.requires_grad_()], random(2, 3, 5).to(dtype)
    fused, plain = swiglu_linear(*leaves), F.linear(swiglu(gate_up), weight)
    grads = [torch.autograd.grad(y, leaves, dy) for y in (fused, plain)]
    assert torch.equal(fused, plain)
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize("frozen", [0, 1])
def test_swiglu_linear_has_each_gradient_alone(frozen: int):
    leaves = [random(3, 10).requires_grad_(), random(2, 5, seed=1).requires_grad_()]
    want = torch.autograd.grad(swiglu_linear(*leaves).sum(), leaves)[1 - frozen]
    leaves[frozen].requires_grad_(False)
    (grad,) = torch.autograd.grad(swiglu_linear(*leaves).sum(), leaves[1 - frozen])
    assert torch.equal(grad, want)


@pytest.mark.parametrize("gate_up", [random(3, 9), random(3, 10).float()])
def test_swiglu_linear_asks_for_one_width_and_dtype(gate_up: torch.Tensor):
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 2F\) and \(D, F\) of one dtype"):
        swiglu_linear(gate_up, random(2, 5))


def test_swiglu_is_finite_where_the_exponential_overflows():
    gate_up = torch.tensor([[-1e4, 1e4, 1.0, 1.0]], requires_grad=True)
    y = swiglu(gate_up)
    y.sum().backward()
    assert y.tolist() == [[0.0, 1e4]]
    assert gate_up.grad is not None
    assert gate_up.grad.tolist() == [[0.0, 1.0, 0.0, 1e4]]


@pytest.mark.parametrize("name", ["rmsnorm", "rope", "swiglu"])
def test_bf16_results_are_those_of_fp32_rounded_once(name: str):
    def rope_of_seven(qkv: torch.Tensor) -> torch.Tensor:
        return torch.cat(rope_qkv(qkv, *rope_tables(7, 64, 500.0, None, CPU), 3, 1), 1)

    function, inputs = {
        "rmsnorm": (partial(rmsnorm, eps=1e-5), [random(5, 123), random(123, seed=1)]),
        "rope": (rope_of_seven, [packed((2, 7, 3, 1, 64))]),
        "swiglu": (swiglu, [random(5, 246)]),
    }[name]
    inputs = [x.bfloat16() for x in inputs]
    assert torch.equal(function(*inputs), function(*(x.float() for x in inputs)).bfloat16())
