"""Causal attention by Triton, in documents, without a score matrix (FlashAttention-2, Dao 2023).

    y[t]   = sum over s of p[t, s] v[s]       p[t, s] = exp(q[t] . k[s] / sqrt(K) - lse[t])
    lse[t] = log of the sum over s of exp(q[t] . k[s] / sqrt(K))       start[t] <= s <= t

q, y are (N, H, K), k, v (N, Hkv, K); head h reads key head h // (H / Hkv). N is rows times
row_length; start[t] is the first token of t's row, or with cu_seqlens of its document. Matrix
products take the inputs' dtype and sum in fp32. Scores and softmax are fp32, p is rounded for the
product with v, and y once. Exponentials have base 2, and so has the lse (H, N) that the backward
reads.

A program holds a block of queries, visits the keys that they see and rescales its sum where a
larger score comes. `flash_attention_tiles.py` chooses the tiles that it visits.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from tresse.kernels.flash_attention_backward import backward
from tresse.kernels.flash_attention_tiles import (
    HEAD_DIMS,
    capability_of,
    document_bounds,
    key_range,
    launch_options,
    load_tile,
    load_vector,
    row_bounds,
)


@triton.jit
def _add_keys(
    sums,
    queries,
    keys,
    first,
    end,
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_S: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Add a block of keys to the sums: y, the sum of exponentials and the largest score."""
    y, total, largest = sums
    q, t, starts = queries
    k_ptr, stride_k, offsets_k, v_ptr, stride_v, offsets_v = keys
    k = load_tile(k_ptr, offsets_k, first, stride_k, end, MASKED)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee", out_dtype=ACC)
    if MASKED:
        s = tl.cast(first, tl.int32) + tl.arange(0, BLOCK_S)
        seen = (s[None, :] <= t[:, None]) & (s[None, :] >= starts[:, None])
        scores = tl.where(seen, scores, -float("inf"))
    larger = tl.maximum(largest, tl.max(scores, 1) * SCALE)
    # For a query that has seen no key of its document yet: exp2(-inf - 0) is 0, -inf - -inf NaN.
    shift = tl.where(larger == -float("inf"), 0.0, larger) if MASKED else larger
    p = tl.exp2(scores * SCALE - shift[:, None])
    rescale = tl.exp2(largest - shift)
    total = total * rescale + tl.sum(p, 1)
    v = load_tile(v_ptr, offsets_v, first, stride_v, end, MASKED)
    y = tl.dot(p.to(v.dtype), v, y * rescale[:, None], input_precision="ieee", out_dtype=ACC)
    return y, total, larger


@triton.jit
def _attention_forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    starts_ptr,
    y_ptr,
    lse_ptr,
    N,
    stride_q,  # between tokens; the heads of a token are contiguous
    stride_k,
    stride_v,
    SCALE: tl.constexpr,  # log2(e) / sqrt(K)
    H: tl.constexpr,
    GROUP: tl.constexpr,  # H / Hkv
    K: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """BLOCK_T queries of a head per program; heads of a group, which share keys, are neighbours."""
    program = tl.program_id(0).to(tl.int64)
    head, first = program % H, program // H * BLOCK_T
    t = tl.cast(first, tl.int32) + tl.arange(0, BLOCK_T)  # to compare; addresses need 64 bits
    inside = t < N
    cols = tl.arange(0, K)[None, :]
    rows_t = tl.arange(0, BLOCK_T).to(tl.int64)[:, None]
    rows_s = tl.arange(0, BLOCK_S).to(tl.int64)[:, None]
    q = load_tile(q_ptr + head * K, rows_t * stride_q + cols, first, stride_q, N, True)
    starts = load_vector(starts_ptr, first, N, BLOCK_T, True)
    begin, masked_from, end = key_range(starts_ptr, first, N, BLOCK_T, BLOCK_S)
    k_ptr += head // GROUP * K
    v_ptr += head // GROUP * K
    offsets_k, offsets_v = rows_s * stride_k + cols, rows_s * stride_v + cols
    queries = q, t, starts
    keys = k_ptr, stride_k, offsets_k, v_ptr, stride_v, offsets_v

    y = tl.zeros((BLOCK_T, K), ACC)
    total = tl.zeros((BLOCK_T,), ACC)
    largest = tl.full((BLOCK_T,), -float("inf"), ACC)
    for s in range(begin, masked_from, BLOCK_S):
        sums = y, total, largest
        y, total, largest = _add_keys(sums, queries, keys, s, end, SCALE, ACC, BLOCK_S, False)
    for s in range(masked_from, end, BLOCK_S):
        sums = y, total, largest
        y, total, largest = _add_keys(sums, queries, keys, s, end, SCALE, ACC, BLOCK_S, True)
    lse_ptr += head * N + first
    tl.store(lse_ptr + tl.arange(0, BLOCK_T).to(tl.int64), largest + tl.log2(total), mask=inside)
    y = (y / total[:, None]).to(y_ptr.dtype.element_ty)
    y_ptr += (first * H + head) * K
    tl.store(y_ptr + rows_t * (H * K) + cols, y, mask=inside[:, None])


def _empty_outputs(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.promote_types(q.dtype, torch.float32))
    return torch.empty_like(q, memory_format=torch.contiguous_format), lse


@torch.library.custom_op("tresse::flash_attention", mutates_args=())
def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,  # noqa: ARG001  (saved for the backward)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return y (N, H, K) and the logarithm to base 2 of each softmax's sum, (H, N) fp32."""
    (N, H, K), Hkv = q.shape, k.shape[1]
    y, lse = _empty_outputs(q)
    if N:
        options = launch_options("forward", K, q.dtype, capability_of(q.device))
        options |= {"H": H, "GROUP": H // Hkv}
        strides = q.stride(0), k.stride(0), v.stride(0)
        grid = (triton.cdiv(N, options["BLOCK_T"]) * H,)
        _attention_forward_kernel[grid](q, k, v, starts, y, lse, N, *strides, **options)
    return y, lse


@_forward.register_fake
def _(q: torch.Tensor, k: Any, v: Any, starts: Any, ends: Any):  # noqa: ARG001
    return _empty_outputs(q)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    y, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(y, lse, *inputs)


def _differentiate(ctx: Any, dy: torch.Tensor, _dlse: torch.Tensor):
    return *backward(dy.contiguous(), *ctx.saved_tensors), None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    row_length: int,
    cu_seqlens: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend within rows, or within the documents of cu_seqlens: (N, H, K), in the dtype of q.

    K is a power of two from 16 to 128. Tensors with a stride between tokens, such as slices of a
    packed projection, are not copied.
    """
    _check(q, k, v)
    bounds = (
        row_bounds(q.shape[0], row_length, q.device)
        if cu_seqlens is None
        else document_bounds(cu_seqlens, q.shape[0])
    )
    return _forward(*(_tokens_strided(x) for x in (q, k, v)), *bounds)[0]


def _tokens_strided(x: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself if the heads of each token are contiguous, else a copy."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    N, H, K = q.shape
    if K not in HEAD_DIMS or k.shape != v.shape or k.shape[::2] != (N, K) or H % k.shape[1]:
        found = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(
            f"q, k and v are {found}: expected (N, H, K), (N, Hkv, K) twice, H a multiple of Hkv "
            f"and K one of {', '.join(map(str, HEAD_DIMS))}"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}: cast them to one")
