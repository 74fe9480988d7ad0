"""The Triton RMSNorm, with and without the residual, against its formula in fp64."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tests.support.formulas import add_rmsnorm_formula, rmsnorm_formula
from tests.support.guarded import guarded
from tresse.kernels.rmsnorm import (
    _add_norm,
    _backward,
    _norm,
    add_rmsnorm_reference,
    add_rmsnorm_triton,
    rmsnorm_triton,
)

EPS = 1e-5
DTYPES = [torch.float32, torch.float16]
# A mean over one; more rows than programs and an odd prime width; a power of two; the Qwen width.
SIZES = [(1, 1), (11, 127), (3, 64), (2, 896)]


def inputs(N: int, D: int) -> list[torch.Tensor]:
    return [random(N, D), random(N, D, seed=1), random(D, seed=2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_rmsnorm_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    x, _, weight = inputs(*size)
    function = partial(rmsnorm_triton, eps=EPS)
    assert_as_accurate_as_pytorch(function, rmsnorm_formula, [x, weight], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_add_rmsnorm_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    function = partial(add_rmsnorm_triton, eps=EPS)
    assert_as_accurate_as_pytorch(function, add_rmsnorm_formula, inputs(*size), dtype)


@pytest.mark.parametrize("output", [0, 1])
def test_each_output_of_add_rmsnorm_has_its_gradient_alone(output: int):
    # The new residual alone has no gradient for the weight: zero times it makes one.
    def function(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return add_rmsnorm_triton(x, residual, weight, EPS)[output] + 0 * weight[0]

    def formula(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return add_rmsnorm_formula(x, residual, weight)[output] + 0 * weight[0]

    assert_as_accurate_as_pytorch(function, formula, inputs(5, 33), torch.float32)


def test_add_rmsnorm_without_residual_starts_the_stream():
    def function(x: torch.Tensor, weight: torch.Tensor):
        return add_rmsnorm_triton(x, None, weight, EPS)

    def formula(x: torch.Tensor, weight: torch.Tensor):
        return rmsnorm_formula(x, weight), x

    x, _, weight = inputs(5, 33)
    assert_as_accurate_as_pytorch(function, formula, [x, weight], torch.float32)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 17), st.integers(1, 70))
def test_add_rmsnorm_agrees_with_the_pytorch_path_for_any_number_of_rows(N: int, D: int):
    leaves = [part.float().requires_grad_() for part in inputs(N, D)]
    cotangents = [random(N, D, seed=seed).float() for seed in (3, 4)]
    results = []
    for function in (add_rmsnorm_triton, add_rmsnorm_reference):
        outputs = function(leaves[0], leaves[1], leaves[2], EPS)
        results.append((*outputs, *torch.autograd.grad(outputs, leaves, cotangents)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-4)


def test_the_new_residual_is_rounded_before_it_is_normalised():
    x, residual, weight = (part.half() for part in inputs(4, 123))
    y, total = add_rmsnorm_triton(x, residual, weight, EPS)
    assert torch.equal(total, x + residual)
    assert torch.equal(y, rmsnorm_triton(total, weight, EPS))


def test_eps_is_added_to_the_mean_square():
    x, weight = torch.zeros(2, 7), torch.ones(7)
    assert torch.equal(rmsnorm_triton(x, weight, 0.25), x)
    torch.testing.assert_close(rmsnorm_triton(x + 1, weight, 3.0), x + 0.5)


@pytest.mark.parametrize("shape", [(7, 6), (3, 7, 2)])
def test_add_rmsnorm_takes_leading_dimensions_and_strided_tensors(shape: tuple[int, ...]):
    leaves = [random(*shape, seed=seed).float().mT for seed in (0, 1)]
    leaves = [*(leaf.requires_grad_() for leaf in leaves), random(14).float()[::2].requires_grad_()]
    cotangents = [random(*shape, seed=seed).float().mT for seed in (3, 4)]
    results = []
    for contiguous in (False, True):
        tensors = [leaf.contiguous() if contiguous else leaf for leaf in leaves]
        grads = [grad.contiguous() if contiguous else grad for grad in cotangents]
        outputs = add_rmsnorm_triton(tensors[0], tensors[1], tensors[2], EPS)
        results.append((*outputs, *torch.autograd.grad(outputs, leaves, grads)))
    assert all(map(torch.equal, *results))


def test_the_gradient_of_the_weight_is_the_same_from_run_to_run():
    x, dy, weight = (part.float() for part in inputs(50, 33))
    rstd = _norm(x, weight, EPS)[1]
    first, second = (_backward(dy, None, x, weight, rstd)[1] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("size", SIZES)
def test_rmsnorm_reads_nothing_behind_its_inputs(size: tuple[int, int]):
    x, residual, weight = (part.float() for part in inputs(*size))
    y, total, rstd = _add_norm(guarded(x), guarded(residual), guarded(weight), EPS)
    assert all(map(torch.equal, (y, total, rstd), _add_norm(x, residual, weight, EPS)))
    tensors = x, residual, total, weight, rstd  # x and residual in place of gradients
    assert all(map(torch.equal, _backward(*map(guarded, tensors)), _backward(*tensors)))


def test_rmsnorm_has_the_gradient_of_finite_differences():
    leaves = [part.requires_grad_() for part in inputs(6, 5)]
    assert torch.autograd.gradcheck(partial(rmsnorm_triton, eps=EPS), (leaves[0], leaves[2]))
    assert torch.autograd.gradcheck(partial(add_rmsnorm_triton, eps=EPS), leaves)


@pytest.mark.parametrize("size", SIZES[:2])
def test_rmsnorm_keeps_the_promises_of_a_custom_op(size: tuple[int, int]):
    x, residual, weight = (part.float().requires_grad_() for part in inputs(*size))
    torch.library.opcheck(_norm, (x, weight, EPS))
    torch.library.opcheck(_add_norm, (x, residual, weight, EPS))
    _, total, rstd = _add_norm(x, residual, weight, EPS)
    assert not rstd.requires_grad
    assert not _norm(x, weight, EPS)[1].requires_grad
    total = total.detach()
    for dresidual in (None, residual.detach()):
        torch.library.opcheck(_backward, (x.detach(), dresidual, total, weight.detach(), rstd))


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_add_rmsnorm_compiles_without_a_graph_break(num_outputs: int):
    def function(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return sum(add_rmsnorm_triton(x, residual, weight, EPS)[:num_outputs], torch.zeros(()))

    leaves = [part.float().requires_grad_() for part in inputs(5, 12)]
    results = []
    for run in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        y = run(*leaves)
        results.append((y, *torch.autograd.grad(y.sum(), leaves)))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("wrong", [random(3, 5), random(4, 4), random(3, 4).float()])
def test_add_rmsnorm_asks_for_one_shape_and_dtype(wrong: torch.Tensor):
    with pytest.raises(ValueError, match="of one dtype"):
        add_rmsnorm_triton(random(3, 4), wrong, random(4), EPS)
