"""Gradients of FlashAttention, from its output and the logarithm of each softmax's sum.

    p[t, s]  = exp(q[t] . k[s] / sqrt(K) - lse[t])       delta[t] = dy[t] . y[t]
    ds[t, s] = p[t, s] (dy[t] . v[s] - delta[t]) / sqrt(K)
    dv[s] = sum over t of p[t, s] dy[t]       dk[s] = sum over t of ds[t, s] q[t]
    dq[t] = sum over s of ds[t, s] k[s]

One kernel takes blocks of keys and sums dk and dv over the queries of all heads that read them,
another takes blocks of queries and sums dq. Each computes p again: seven matrix products instead of
five, but no atomic addition, so the gradients have the same bits in every run.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl

from tresse.kernels.flash_attention_tiles import (
    DELTA_BLOCK,
    capability_of,
    key_range,
    launch_options,
    load_tile,
    load_vector,
    query_range,
)

LN_2 = tl.constexpr(math.log(2))


@triton.jit
def _attention_delta_kernel(
    dy_ptr,
    y_ptr,
    delta_ptr,
    N,
    H: tl.constexpr,
    K: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """BLOCK_T tokens of a head per program."""
    program = tl.program_id(0).to(tl.int64)
    head, first = program % H, program // H * BLOCK_T
    t = first + tl.arange(0, BLOCK_T)
    inside = t < N
    offsets = t[:, None] * (H * K) + head * K + tl.arange(0, K)[None, :]
    dy = tl.load(dy_ptr + offsets, mask=inside[:, None], other=0.0).to(ACC)
    y = tl.load(y_ptr + offsets, mask=inside[:, None], other=0.0).to(ACC)
    tl.store(delta_ptr + head * N + t, tl.sum(dy * y, 1), mask=inside)


@triton.jit
def _add_key_gradients(
    dk,
    dv,
    keys,
    queries,
    first,
    end,
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Add the part of a block of queries; the tile is transposed, keys by queries."""
    k, v, s = keys
    q_ptr, stride_q, offsets_q, dy_ptr, stride_dy, offsets_dy, lse_ptr, delta_ptr, starts_ptr = (
        queries
    )
    q = load_tile(q_ptr, offsets_q, first, stride_q, end, MASKED)
    dy = load_tile(dy_ptr, offsets_dy, first, stride_dy, end, MASKED)
    lse = load_vector(lse_ptr, first, end, BLOCK_T, MASKED)
    delta = load_vector(delta_ptr, first, end, BLOCK_T, MASKED)
    scores = tl.dot(k, tl.trans(q), input_precision="ieee", out_dtype=ACC)
    p = tl.exp2(scores * SCALE - lse[None, :])
    if MASKED:  # the tile's queries past the end are zero, so they add nothing
        starts = load_vector(starts_ptr, first, end, BLOCK_T, True)
        t = tl.cast(first, tl.int32) + tl.arange(0, BLOCK_T)
        seen = (s[:, None] <= t[None, :]) & (s[:, None] >= starts[None, :])
        p = tl.where(seen, p, 0.0)
    dv = tl.dot(p.to(dy.dtype), dy, dv, input_precision="ieee", out_dtype=ACC)
    dp = tl.dot(v, tl.trans(dy), input_precision="ieee", out_dtype=ACC)
    ds = p * (dp - delta[None, :])
    dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee", out_dtype=ACC)
    return dk, dv


@triton.jit
def _attention_key_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    dy_ptr,
    lse_ptr,
    delta_ptr,
    starts_ptr,
    ends_ptr,
    dk_ptr,
    dv_ptr,
    N,
    stride_q,
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
    """BLOCK_S keys of a key head per program."""
    num_kv_heads: tl.constexpr = H // GROUP
    program = tl.program_id(0).to(tl.int64)
    kv_head, first = program % num_kv_heads, program // num_kv_heads * BLOCK_S
    s = tl.cast(first, tl.int32) + tl.arange(0, BLOCK_S)  # to compare; addresses need 64 bits
    cols = tl.arange(0, K)[None, :]
    rows_s = tl.arange(0, BLOCK_S).to(tl.int64)[:, None]
    rows_t = tl.arange(0, BLOCK_T).to(tl.int64)[:, None]
    k = load_tile(k_ptr + kv_head * K, rows_s * stride_k + cols, first, stride_k, N, True)
    v = load_tile(v_ptr + kv_head * K, rows_s * stride_v + cols, first, stride_v, N, True)
    whole_from, end = query_range(ends_ptr, first, N, BLOCK_T, BLOCK_S)
    offsets_q, offsets_dy = rows_t * stride_q + cols, rows_t * (H * K) + cols
    keys = k, v, s

    dk = tl.zeros((BLOCK_S, K), ACC)
    dv = tl.zeros((BLOCK_S, K), ACC)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        queries = (
            q_ptr + head * K,
            stride_q,
            offsets_q,
            dy_ptr + head * K,
            H * K,
            offsets_dy,
            lse_ptr + head * N,
            delta_ptr + head * N,
            starts_ptr,
        )
        for t in range(first, whole_from, BLOCK_T):
            dk, dv = _add_key_gradients(
                dk, dv, keys, queries, t, whole_from, SCALE, ACC, BLOCK_T, True
            )
        for t in range(whole_from, end, BLOCK_T):
            dk, dv = _add_key_gradients(dk, dv, keys, queries, t, end, SCALE, ACC, BLOCK_T, False)
    dk *= SCALE * LN_2  # which leaves 1 / sqrt(K)
    offsets = (first * num_kv_heads + kv_head) * K + rows_s * (num_kv_heads * K) + cols
    inside = (s < N)[:, None]
    tl.store(dk_ptr + offsets, dk.to(dk_ptr.dtype.element_ty), mask=inside)
    tl.store(dv_ptr + offsets, dv.to(dv_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _add_query_gradient(
    dq,
    queries,
    keys,
    first,
    end,
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_S: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Add the part of a block of keys."""
    q, dy, lse, delta, t, starts = queries
    k_ptr, stride_k, offsets_k, v_ptr, stride_v, offsets_v = keys
    k = load_tile(k_ptr, offsets_k, first, stride_k, end, MASKED)
    v = load_tile(v_ptr, offsets_v, first, stride_v, end, MASKED)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee", out_dtype=ACC)
    p = tl.exp2(scores * SCALE - lse[:, None])
    if MASKED:
        s = tl.cast(first, tl.int32) + tl.arange(0, BLOCK_S)
        p = tl.where((s[None, :] <= t[:, None]) & (s[None, :] >= starts[:, None]), p, 0.0)
    dp = tl.dot(dy, tl.trans(v), input_precision="ieee", out_dtype=ACC)
    ds = p * (dp - delta[:, None])
    return tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee", out_dtype=ACC)


@triton.jit
def _attention_query_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    dy_ptr,
    lse_ptr,
    delta_ptr,
    starts_ptr,
    dq_ptr,
    N,
    stride_q,
    stride_k,
    stride_v,
    SCALE: tl.constexpr,
    H: tl.constexpr,
    GROUP: tl.constexpr,
    K: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """BLOCK_T queries of a head per program."""
    program = tl.program_id(0).to(tl.int64)
    head, first = program % H, program // H * BLOCK_T
    t = tl.cast(first, tl.int32) + tl.arange(0, BLOCK_T)
    cols = tl.arange(0, K)[None, :]
    rows_t = tl.arange(0, BLOCK_T).to(tl.int64)[:, None]
    rows_s = tl.arange(0, BLOCK_S).to(tl.int64)[:, None]
    q = load_tile(q_ptr + head * K, rows_t * stride_q + cols, first, stride_q, N, True)
    dy = load_tile(dy_ptr + head * K, rows_t * (H * K) + cols, first, H * K, N, True)
    lse = load_vector(lse_ptr + head * N, first, N, BLOCK_T, True)
    delta = load_vector(delta_ptr + head * N, first, N, BLOCK_T, True)
    starts = load_vector(starts_ptr, first, N, BLOCK_T, True)
    begin, masked_from, end = key_range(starts_ptr, first, N, BLOCK_T, BLOCK_S)
    k_ptr += head // GROUP * K
    v_ptr += head // GROUP * K
    offsets_k, offsets_v = rows_s * stride_k + cols, rows_s * stride_v + cols
    queries = q, dy, lse, delta, t, starts
    keys = k_ptr, stride_k, offsets_k, v_ptr, stride_v, offsets_v

    dq = tl.zeros((BLOCK_T, K), ACC)
    for s in range(begin, masked_from, BLOCK_S):
        dq = _add_query_gradient(dq, queries, keys, s, end, SCALE, ACC, BLOCK_S, False)
    for s in range(masked_from, end, BLOCK_S):
        dq = _add_query_gradient(dq, queries, keys, s, end, SCALE, ACC, BLOCK_S, True)
    dq *= SCALE * LN_2
    dq_ptr += (first * H + head) * K
    inside = (t < N)[:, None]
    tl.store(dq_ptr + rows_t * (H * K) + cols, dq.to(dq_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("tresse::flash_attention_backward", mutates_args=())
def backward(
    dy: torch.Tensor,
    y: torch.Tensor,
    lse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return dq, dk and dv, contiguous, as dy and y must be."""
    (N, H, K), Hkv = q.shape, k.shape[1]
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    delta = torch.empty_like(lse)
    if not N:
        return dq, dk, dv
    strides, capability = (q.stride(0), k.stride(0), v.stride(0)), capability_of(q.device)
    heads: dict[str, Any] = {"H": H, "GROUP": H // Hkv}
    keys = launch_options("keys", K, q.dtype, capability) | heads
    queries = launch_options("queries", K, q.dtype, capability) | heads
    products: dict[str, Any] = {"H": H, "K": K, "ACC": keys["ACC"], "BLOCK_T": DELTA_BLOCK}
    _attention_delta_kernel[(triton.cdiv(N, DELTA_BLOCK) * H,)](dy, y, delta, N, **products)
    _attention_key_kernel[(triton.cdiv(N, keys["BLOCK_S"]) * Hkv,)](
        q, k, v, dy, lse, delta, starts, ends, dk, dv, N, *strides, **keys
    )
    _attention_query_kernel[(triton.cdiv(N, queries["BLOCK_T"]) * H,)](
        q, k, v, dy, lse, delta, starts, dq, N, *strides, **queries
    )
    return dq, dk, dv


@backward.register_fake
def _(dy: Any, y: Any, lse: Any, q: Any, k: Any, v: Any, starts: Any, ends: Any):  # noqa: ARG001
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    return dq, dk, dv
