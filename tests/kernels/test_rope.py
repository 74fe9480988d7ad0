"""The rotation of a packed projection in plain PyTorch against its formula in fp64."""

from functools import partial

import pytest
import torch

from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tests.support.formulas import packed, rope_formula
from tresse.kernels.rope import rope_qkv, rope_tables

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]


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


def test_bf16_results_are_those_of_fp32_rounded_once():
    qkv, tables = packed((2, 7, 3, 1, 64)).bfloat16(), rope_tables(7, 64, 500.0, None, CPU)
    wide = rope_qkv(qkv.float(), *tables, 3, 1)
    for y, rounded in zip(rope_qkv(qkv, *tables, 3, 1), wide, strict=True):
        assert torch.equal(y, rounded.bfloat16())
