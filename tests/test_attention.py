"""Attention against its formula in fp64, and which backend runs where."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_kernels import assert_as_accurate_as_pytorch, random
from tresse.kernels.attention import attention, document_mask

DTYPES = [torch.float32, torch.bfloat16]


def attention_formula(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cuts: list[int]
) -> torch.Tensor:
    """Softmax over the keys up to the query, one document and one head at a time."""
    H, group = q.shape[1], q.shape[1] // k.shape[1]
    documents = []
    for start, stop in itertools.pairwise(cuts):
        heads = []
        for head in range(H):
            kd, vd = k[start:stop, head // group], v[start:stop, head // group]
            scores = q[start:stop, head] @ kd.T / q.shape[2] ** 0.5
            future = torch.ones_like(scores, dtype=torch.bool).triu(1)
            heads.append(scores.masked_fill(future, float("-inf")).softmax(-1) @ vd)
        documents.append(torch.stack(heads, 1))
    return torch.cat(documents)


# Heads: as many key heads as query heads, groups of 3 (no power of two), one key head for all.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(2, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("rows", [(2, 37), (1, 128)])  # a prime, a tile
def test_attention_is_as_accurate_as_pytorch(
    rows: tuple[int, int], heads: tuple[int, int], dtype: torch.dtype
):
    (B, T), (H, Hkv), K = rows, heads, 16
    inputs = [random(B * T, H, K), random(B * T, Hkv, K, seed=1), random(B * T, Hkv, K, seed=2)]
    formula = partial(attention_formula, cuts=list(range(0, B * T + 1, T)))
    function = partial(attention, row_length=T)
    assert_as_accurate_as_pytorch(function, formula, inputs, dtype)


def test_attention_of_one_token_is_its_value():
    q, k = (random(2, heads, 16).float().requires_grad_() for heads in (6, 2))
    v = random(2, 2, 16, seed=2).float()
    y = attention(q, k, v, 1)
    assert torch.equal(y, v.repeat_interleave(3, dim=1))
    for grad in torch.autograd.grad(y.sum(), (q, k)):
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_in_documents_is_as_accurate_as_pytorch(dtype: torch.dtype):
    T, K = 19, 16
    cuts = [0, 1, 7, 19, 19, 19, 36, 38, 38]  # length 1, empty ones inside and at the end
    inputs = [random(2 * T, 4, K), random(2 * T, 2, K, seed=1), random(2 * T, 2, K, seed=2)]
    cu_seqlens = torch.tensor(cuts, dtype=torch.int32)
    function = partial(attention, row_length=T, cu_seqlens=cu_seqlens)
    formula = partial(attention_formula, cuts=cuts)
    assert_as_accurate_as_pytorch(function, formula, inputs, dtype)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.data())
def test_document_mask_is_causal_and_block_diagonal(B: int, T: int, data: st.DataObject):
    interior = data.draw(st.lists(st.integers(0, B * T), max_size=8))
    cuts = sorted([*interior, *range(0, B * T + 1, T)])
    mask = document_mask(torch.tensor(cuts, dtype=torch.int32), B, T)
    for row, query, key in itertools.product(range(B), range(T), range(T)):
        start = max(cut for cut in cuts if cut <= row * T + query)
        assert mask[row, 0, query, key].item() == (start <= row * T + key <= row * T + query)
