"""FlashAttention by Triton, forward and backward, against its formula in fp64."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tests.support.formulas import attention_formula
from tests.support.guarded import guarded
from tresse.engine.model import Transformer
from tresse.engine.run.config import ModelConfig
from tresse.kernels import flash_attention_tiles
from tresse.kernels.attention import attention
from tresse.kernels.attention_backends import Setting, choose
from tresse.kernels.flash_attention import _forward, flash_attention
from tresse.kernels.flash_attention_backward import backward
from tresse.kernels.flash_attention_tiles import document_bounds, row_bounds

DTYPES = [torch.float32, torch.float16]


def inputs(N: int, H: int, Hkv: int, K: int) -> list[torch.Tensor]:
    return [random(N, heads, K, seed=seed) for seed, heads in enumerate((H, Hkv, Hkv))]


def offsets(cuts: list[int]) -> torch.Tensor:
    return torch.tensor(cuts, dtype=torch.int32)


def assert_accurate(
    cuts: list[int], heads: tuple[int, int], K: int, dtype: torch.dtype, row_length: int = 0
) -> None:
    """Check documents between the cuts, or rows where a row_length is given."""
    assert_as_accurate_as_pytorch(
        partial(
            flash_attention,
            row_length=row_length,
            cu_seqlens=None if row_length else offsets(cuts),
        ),
        partial(attention_formula, cuts=cuts),
        inputs(cuts[-1], *heads, K),
        dtype,
    )


@pytest.fixture(params=[(16, 32), (32, 16)], ids=["wide", "tall"])
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of few tokens, so that small inputs have many."""
    table = dict.fromkeys(flash_attention_tiles.HOPPER, (*request.param, 4, 1))
    monkeypatch.setattr(flash_attention_tiles, "HOPPER", table)


# Rows of a prime, which straddle tiles; of whole tiles. Groups of 2 and 7 heads; of 1: documents.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(4, 2), (7, 1)])
@pytest.mark.parametrize("rows", [(3, 37), (2, 64)])
@pytest.mark.usefixtures("small_tiles")
def test_rows_are_as_accurate_as_pytorch(
    rows: tuple[int, int], heads: tuple[int, int], dtype: torch.dtype
):
    B, T = rows
    assert_accurate(list(range(0, B * T + 1, T)), heads, 16, dtype, row_length=T)


def test_of_one_token_a_row_the_output_is_its_value():
    q, k, v = (x.float().requires_grad_() for x in inputs(40, 6, 2, 16))
    dy = random(40, 6, 16, seed=9).float()
    y = flash_attention(q, k, v, 1)
    assert torch.equal(y, v.repeat_interleave(3, dim=1))
    dq, dk, dv = torch.autograd.grad(y, (q, k, v), dy)
    torch.testing.assert_close(dv, dy.view(40, 2, 3, 16).sum(2))
    for grad in (dq, dk):  # exactly zero; the terms that cancel are of the order of 10
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-5)


# Documents of length zero at the front, inside and at the end; of one token; that straddle tiles;
# as long as a row of 32.
CUTS = [0, 0, 0, 1, 2, 15, 32, 32, 64, 64, 75, 95, 96, 96, 96]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(2, 2), (8, 2)])
@pytest.mark.usefixtures("small_tiles")
def test_documents_are_as_accurate_as_pytorch(heads: tuple[int, int], dtype: torch.dtype):
    assert_accurate(CUTS, heads, 16, dtype)


@pytest.mark.parametrize("K", [16, 64, 128])
def test_the_tiles_of_a_gpu_are_as_accurate_as_pytorch(K: int):
    assert_accurate([0, 7, 130, 300, 300, 333], (4, 2), K, torch.float16)


def test_the_tiles_of_a_gpu_are_as_accurate_as_pytorch_in_rows():
    assert_accurate([0, 256, 512], (2, 1), 64, torch.float16, row_length=256)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 110), st.lists(st.integers(0, 110), max_size=8))
def test_any_layout_of_documents_agrees_with_the_formula(N: int, interior: list[int]):
    cuts = sorted([0, *(min(cut, N) for cut in interior), N])
    leaves = [x.float().requires_grad_() for x in inputs(N, 2, 1, 16)]
    dy = random(N, 2, 16, seed=9).float()
    results = []
    for y in (
        flash_attention(leaves[0], leaves[1], leaves[2], 0, offsets(cuts)),
        attention_formula(*leaves, cuts=cuts),
    ):
        results.append((y, *torch.autograd.grad(y, leaves, dy)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_bounds_are_those_of_the_document_of_each_token():
    starts, ends = document_bounds(offsets(CUTS), CUTS[-1])
    assert starts.dtype == ends.dtype == torch.int32
    documents = [cuts for cuts in itertools.pairwise(CUTS) if cuts[0] < cuts[1]]
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == [
        document for document in documents for _ in range(*document)
    ]
    assert all(
        map(torch.equal, row_bounds(6, 3, starts.device), document_bounds(offsets([0, 3, 6]), 6))
    )


def test_scores_of_any_size_give_no_nan():
    # The second document's queries have seen none of their keys when the first tile is done.
    q, k, v = (x.float() for x in inputs(64, 1, 1, 16))
    y = flash_attention(1e4 * q, 1e4 * k, v, 64, offsets([0, 40, 64]))
    formula = attention_formula(1e4 * q, 1e4 * k, v, cuts=[0, 40, 64])
    assert torch.isfinite(y).all()
    torch.testing.assert_close(y, formula)


def test_other_documents_take_no_part():
    q, k, v = (x.float() for x in inputs(96, 2, 1, 16))
    dy, cuts = random(96, 2, 16, seed=9).float(), offsets([0, 40, 70, 96])
    results = []
    for poison in (0.0, 50.0):
        leaves = [x.clone() for x in (q, k, v)]
        for leaf in leaves:
            leaf[:40] += poison
            leaf[70:] -= poison
            leaf.requires_grad_()
        y = flash_attention(leaves[0], leaves[1], leaves[2], 96, cuts)
        results.append([x[40:70] for x in (y, *torch.autograd.grad(y, leaves, dy))])
    assert all(map(torch.equal, *results))


def test_strided_tokens_are_read_where_they_are():
    packed = random(40, 6 * 16).float().requires_grad_()
    contiguous = packed.detach().clone().requires_grad_()
    dy = random(40, 4, 16, seed=9).float()
    results = []
    for source, copy in ((packed, False), (contiguous, True)):
        parts = source.view(40, 6, 16).split((4, 1, 1), dim=1)
        parts = [part.contiguous() if copy else part for part in parts]
        y = flash_attention(parts[0], parts[1], parts[2], 20)
        results.append((y, *torch.autograd.grad(y, source, dy)))
    assert all(map(torch.equal, *results))


def test_heads_that_are_not_contiguous_are_copied():
    q, k, v = (x.float() for x in inputs(20, 2, 2, 16))
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v)]
    y = flash_attention(strided[0], strided[1], strided[2], 10)
    assert torch.equal(y, flash_attention(q, k, v, 10))


def test_results_are_the_same_from_run_to_run():
    results = []
    for _ in range(2):
        leaves = [x.half().requires_grad_() for x in inputs(140, 4, 2, 16)]
        y = flash_attention(leaves[0], leaves[1], leaves[2], 70)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), leaves)))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("N", [1, 33, 64])
def test_nothing_behind_the_inputs_is_read(N: int):
    q, k, v = (x.float() for x in inputs(N, 2, 1, 16))
    bounds = row_bounds(N, N, q.device)
    y, lse = _forward(q, k, v, *bounds)
    tensors = (q, k, v, *bounds)
    assert all(map(torch.equal, _forward(*map(guarded, tensors)), (y, lse)))
    tensors = (y, y, lse, *tensors)  # y in place of a gradient
    assert all(map(torch.equal, backward(*map(guarded, tensors)), backward(*tensors)))


def test_it_has_the_gradient_of_finite_differences():
    leaves = [x.requires_grad_() for x in inputs(7, 2, 1, 16)]
    function = partial(flash_attention, row_length=7, cu_seqlens=offsets([0, 2, 2, 7]))
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("masked", [False, True])
def test_its_operators_are_well_formed(masked: bool):
    leaves = [x.float().requires_grad_() for x in inputs(12, 2, 1, 16)]
    bounds = (
        document_bounds(offsets([0, 5, 12]), 12) if masked else row_bounds(12, 6, leaves[0].device)
    )
    torch.library.opcheck(_forward, (*leaves, *bounds))
    y, lse = (x.detach() for x in _forward(*leaves, *bounds))
    torch.library.opcheck(backward, (y, y, lse, *(x.detach() for x in leaves), *bounds))


def test_it_compiles_without_a_graph_break():
    leaves = [x.float().requires_grad_() for x in inputs(12, 2, 1, 16)]
    cuts = offsets([0, 5, 12])

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return flash_attention(q, k, v, 12) + flash_attention(q, k, v, 12, cuts)

    results = []
    for run in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        y = run(*leaves)
        results.append((y, *torch.autograd.grad(y.sum(), leaves)))
    assert all(map(torch.equal, *results))


def test_a_model_learns_the_same_by_it():
    config = ModelConfig(
        hidden_size=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=32
    )
    tokens = torch.arange(2 * 19).view(2, 19) % 13
    cuts, results = offsets([0, 7, 7, 19, 38]), []
    setting = Setting(
        device=tokens.device,
        dtype=torch.float32,
        head_dim=16,
        mask_documents=True,
        deterministic=True,
    )
    for attend in (attention, choose("triton", setting).attend):
        model = Transformer(config, vocab_width=16, vocab_used=13, attend=attend)
        model.init_weights(seed=0)
        logits = model(tokens, None, cuts)
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_no_tokens_give_no_output():
    leaves = [x.float().requires_grad_() for x in inputs(0, 2, 1, 16)]
    y = flash_attention(leaves[0], leaves[1], leaves[2], 8)
    assert [x.shape[0] for x in (y, *torch.autograd.grad(y.sum(), leaves))] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 2, 24), (4, 1, 24), (4, 1, 24)), "K one of 16, 32, 64, 128"),
        (((4, 3, 16), (4, 2, 16), (4, 2, 16)), "H a multiple of Hkv"),
        (((4, 2, 16), (5, 1, 16), (5, 1, 16)), "q, k and v are"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes: tuple[tuple[int, ...], ...], message: str):
    q, k, v = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        flash_attention(q, k, v, 4)


def test_inputs_of_two_dtypes_are_refused():
    q, k, v = (x.float() for x in inputs(4, 2, 1, 16))
    with pytest.raises(ValueError, match="cast them to one"):
        flash_attention(q, k.half(), v, 4)
