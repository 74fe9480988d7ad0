"""The Triton rotation against its formula in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interpreted.guarded import guarded
from tests.test_kernels import assert_as_accurate_as_pytorch, random
from tresse.kernels.rope import _rotate, rope_reference, rope_tables, rope_triton

# One pair; a prime row and three heads of an odd number of pairs; two blocks of heads of 64.
SIZES = [(1, 1, 1, 2), (2, 7, 3, 6), (2, 3, 20, 64)]


def tables(size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return rope_tables(size[1], size[3], 500.0, None, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_rope_is_as_accurate_as_pytorch(size: tuple[int, ...], dtype: torch.dtype):
    cos, sin = tables(size)

    def formula(x: torch.Tensor) -> torch.Tensor:
        table_cos, table_sin = cos.to(x.dtype)[:, None], sin.to(x.dtype)[:, None]
        x1, x2 = x.chunk(2, -1)
        return torch.cat((x1 * table_cos - x2 * table_sin, x1 * table_sin + x2 * table_cos), -1)

    function = lambda x: rope_triton(x, cos, sin)  # noqa: E731
    assert_as_accurate_as_pytorch(function, formula, [random(*size)], dtype)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 5), st.integers(1, 9))
def test_rope_agrees_with_the_pytorch_path_on_a_slice(B: int, T: int, heads: int, half: int):
    packed = random(B, T, heads + 2, 2 * half, seed=B).float().requires_grad_()
    cotangent = random(B, T, heads, 2 * half, seed=1).float()
    results = []
    for function in (rope_triton, rope_reference):
        y = function(packed[:, :, :heads], *tables((B, T, heads, 2 * half)))
        results.append((y, *torch.autograd.grad(y, packed, cotangent)))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_rope_takes_tensors_of_any_strides():
    x, grad = (random(2, 3, 6, 5, seed=seed).float().mT for seed in (0, 1))
    x.requires_grad_()
    y = rope_triton(x, *tables(x.shape))
    assert torch.equal(y, rope_triton(x.contiguous(), *tables(x.shape)))
    (strided,) = torch.autograd.grad(y, x, grad, retain_graph=True)
    assert torch.equal(strided, torch.autograd.grad(y, x, grad.contiguous())[0])


@pytest.mark.parametrize("size", SIZES)
def test_rope_reads_nothing_behind_its_inputs(size: tuple[int, ...]):
    x, (cos, sin) = random(*size).float().flatten(0, 1), tables(size)
    y = _rotate(guarded(x), guarded(cos), guarded(sin), False)
    assert torch.equal(y, _rotate(x, cos, sin, False))


def test_rope_has_the_gradient_of_finite_differences():
    x = random(2, 3, 2, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rope_triton(x, *tables(x.shape)), x)


@pytest.mark.parametrize("inverse", [False, True])
def test_rope_keeps_the_promises_of_a_custom_op(inverse: bool):
    packed = random(6, 5, 4).float()
    cos, sin = tables((2, 3, 3, 4))
    for x in (packed, packed[:, :3]):
        torch.library.opcheck(_rotate, (x.detach().requires_grad_(), cos, sin, inverse))


def test_rope_compiles_without_a_graph_break():
    x = random(2, 3, 4, 6).float().requires_grad_()
    cos, sin = tables(x.shape)
    compiled = torch.compile(rope_triton, backend="aot_eager", fullgraph=True)
    results = []
    for function in (rope_triton, compiled):
        y = function(x, cos, sin)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("size", [(1, 4, 1, 6), (1, 3, 1, 8), (1, 3, 1, 7)])
def test_rope_asks_for_the_tables_of_x(size: tuple[int, ...]):
    with pytest.raises(ValueError, match="expected"):
        rope_triton(random(*size), *tables((1, 3, 1, 6)))
