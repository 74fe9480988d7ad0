"""Every attention that runs on this GPU, in rows and in documents, against its formula in fp64."""

from functools import partial

import pytest
import torch

from tests.gpu.on_gpu import on_gpu, outputs_and_gradients
from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tests.support.formulas import attention_formula
from tresse.kernels.attention import Attend
from tresse.kernels.attention_backends import BACKENDS, Setting, UnavailableError

LLAMA, QWEN, SMALL = (32, 8), (14, 2), (3, 1)
# In fp32 only ours must meet the bound: PyTorch's attention multiplies in pieces of TF32, and the
# others take no fp32.
BACKENDS_AND_DTYPES = [
    *((name, dtype) for name in BACKENDS for dtype in (torch.bfloat16, torch.float16)),
    ("triton", torch.float32),
]
# The gradient of the first queries is a difference of nearly equal terms, dp and delta. Our kernel
# computes the two in different orders; the formula does not. An H100 gave up to 29 units.
ULPS = {torch.float32: 40}
# Two rows. Documents of one token, of a whole row, and empty ones in front, inside and at the end.
CUTS = [0, 0, 1, 2, 131, 404, 404, 1031, 1500, 2048, 2048, 4096, 4096, 4096]
ODD_CUTS = [0, 1, 70, 197, 197, 360, 394, 394]


def backend(name: str, dtype: torch.dtype, documents: bool, deterministic: bool) -> Attend:
    """An attention by its name; skips the test where it does not run."""
    setting = Setting(
        device=torch.device("cuda"),
        dtype=dtype,
        head_dim=64,
        mask_documents=documents,
        deterministic=deterministic,
    )
    try:
        return BACKENDS[name](setting)[1]
    except UnavailableError as reason:
        pytest.skip(str(reason))


def inputs(N: int, heads: tuple[int, int], seed: int = 0) -> list[torch.Tensor]:
    """q, k and v in fp64."""
    H, Hkv = heads
    return [random(N, count, 64, seed=seed + i) for i, count in enumerate((H, Hkv, Hkv))]


def offsets(cuts: list[int]) -> torch.Tensor:
    return torch.tensor(cuts, dtype=torch.int32, device="cuda")


@pytest.mark.parametrize(("rows", "heads"), [((2, 2048), QWEN), ((3, 197), LLAMA)])
@pytest.mark.parametrize("seed", [0, 100])
@pytest.mark.parametrize(("name", "dtype"), BACKENDS_AND_DTYPES, ids=str)
def test_attention_in_rows_is_as_accurate_as_pytorch(
    name: str, seed: int, rows: tuple[int, int], heads: tuple[int, int], dtype: torch.dtype
):
    B, T = rows
    function = partial(backend(name, dtype, False, False), row_length=T)
    formula = partial(attention_formula, cuts=list(range(0, B * T + 1, T)))
    leaves = inputs(B * T, heads, seed)
    assert_as_accurate_as_pytorch(
        on_gpu(function), on_gpu(formula), leaves, dtype, ULPS.get(dtype, 1)
    )


@pytest.mark.parametrize(
    ("cuts", "T", "heads"),
    [(CUTS, 2048, LLAMA), (CUTS, 2048, QWEN), (ODD_CUTS, 197, LLAMA), (ODD_CUTS, 197, SMALL)],
)
@pytest.mark.parametrize("seed", [0, 100])
@pytest.mark.parametrize(("name", "dtype"), BACKENDS_AND_DTYPES, ids=str)
def test_attention_in_documents_is_as_accurate_as_pytorch(
    name: str, seed: int, cuts: list[int], T: int, heads: tuple[int, int], dtype: torch.dtype
):
    attend = backend(name, dtype, True, False)
    function = partial(attend, row_length=T, cu_seqlens=offsets(cuts))
    formula = partial(attention_formula, cuts=sorted(set(cuts)))
    leaves = inputs(cuts[-1], heads, seed)
    assert_as_accurate_as_pytorch(
        on_gpu(function), on_gpu(formula), leaves, dtype, ULPS.get(dtype, 1)
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_of_one_token_a_row_the_output_is_its_value(name: str):
    attend = backend(name, torch.bfloat16, False, False)
    q, k, v = (x.cuda().bfloat16().requires_grad_() for x in inputs(40, LLAMA))
    y = attend(q, k, v, 1)
    assert torch.equal(y, v.repeat_interleave(4, dim=1))
    dq, dk, dv = torch.autograd.grad(y, (q, k, v), torch.ones_like(y))
    torch.testing.assert_close(dv, 4 * torch.ones_like(v))
    for grad in (dq, dk):  # zero; the terms that cancel are of the order of 10
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=0.1)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_deterministic_attention_gives_the_same_bits_again(name: str, documents: bool):
    attend = backend(name, torch.bfloat16, documents, True)
    cu_seqlens = offsets(CUTS) if documents else None
    function = partial(attend, row_length=2048, cu_seqlens=cu_seqlens)
    leaves = [x.cuda().bfloat16().requires_grad_() for x in inputs(CUTS[-1], LLAMA)]
    first, second = (outputs_and_gradients(function, leaves) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("name", BACKENDS)
def test_no_document_sees_another(name: str):
    attend = backend(name, torch.bfloat16, True, True)
    function = partial(attend, row_length=197, cu_seqlens=offsets(ODD_CUTS))
    q, k, v = (x.cuda().bfloat16() for x in inputs(394, QWEN))
    y = function(q, k, v)
    for x in (q, k, v):  # 70 to 197 is a document
        x[70:197] = torch.randn_like(x[70:197])
    changed = (function(q, k, v) != y).flatten(1).any(1)
    assert changed[70:197].all()
    assert not changed[:70].any()
    assert not changed[197:].any()
