"""RMSNorm in plain PyTorch against its formula in fp64, forward and backward."""

from functools import partial

import pytest
import torch

from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tests.support.formulas import add_rmsnorm_formula, rmsnorm_formula
from tresse.kernels.rmsnorm import add_rmsnorm, rmsnorm

DTYPES = [torch.float32, torch.bfloat16]
SIZES = [(4, 64), (3, 123), (1, 1)]  # 123 is no power of two and odd, 1 is a mean over one


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_rmsnorm_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    inputs = [random(*size), random(size[1], seed=1)]
    assert_as_accurate_as_pytorch(partial(rmsnorm, eps=1e-5), rmsnorm_formula, inputs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_add_rmsnorm_is_as_accurate_as_pytorch(size: tuple[int, int], dtype: torch.dtype):
    inputs = [random(*size), random(*size, seed=1), random(size[1], seed=2)]
    function = partial(add_rmsnorm, eps=1e-5)
    assert_as_accurate_as_pytorch(function, add_rmsnorm_formula, inputs, dtype)


def test_add_rmsnorm_without_residual_starts_the_stream():
    x, weight = random(3, 5), random(5, seed=1)
    normed, residual = add_rmsnorm(x, None, weight, 1e-5)
    assert torch.equal(normed, rmsnorm(x, weight, 1e-5))
    assert torch.equal(residual, x)


def test_bf16_results_are_those_of_fp32_rounded_once():
    x, weight = random(5, 123).bfloat16(), random(123, seed=1).bfloat16()
    wide = rmsnorm(x.float(), weight.float(), 1e-5)
    assert torch.equal(rmsnorm(x, weight, 1e-5), wide.bfloat16())
