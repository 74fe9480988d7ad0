"""Rotary position embedding of a packed QKV projection (Su et al. 2021).

    y[..., :K/2] = x1 * cos - x2 * sin      x1 = x[..., :K/2], x2 = x[..., K/2:]
    y[..., K/2:] = x2 * cos + x1 * sin      angle[t, i] = t * theta^(-2i/K)

The packed projection is (N, (H + 2 Hkv) K), a token's [q | k | v]; N tokens are rows of T, so that
token n is at position n % T. The outputs are q (N, H, K) and k (N, Hkv, K), rotated, in the
half-split layout of transformers, and v (N, Hkv, K), unchanged. The tables are (T, K/2) fp32.
Products and sums are fp32, rounded once. Attention depends on differences of positions alone, so a
document may start anywhere in a row. The gradient is rotated back: the same with -sin.

On a GPU one Triton launch reads every value of the projection once and writes it once, in the
layout that attention reads. The backward reads the three gradients and writes the packed one, so no
separate pass concatenates them. Values per token, read and written, forward and backward:

                                              H=32, Hkv=8, K=64     H=14, Hkv=2, K=64
    this                                          6144 +  6144          2304 +  2304
    rotation in place, split, concatenation       5120 + 11264          2048 +  4352

A rotation in place would not copy v, but it would rotate the gradients and then concatenate them
with that of v. (Nor can `torch.library` differentiate an operator that writes over its input.) The
packed projection is not kept for the backward; if v were a view of it, it would be.
"""

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl

Scaling = tuple[float, float, float, int]


@triton.jit
def _rotate(
    packed_ptr,
    heads_ptr,
    cos,
    sin,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,  # K / 2
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """Rotate one token's heads, (HEADS, K), out of the packed tensor, or back into it.

    cos and sin are (1, BLOCK_HALF).
    """
    x_ptr, y_ptr = (heads_ptr, packed_ptr) if BACKWARD else (packed_ptr, heads_ptr)
    pairs = tl.arange(0, BLOCK_HALF)[None, :]
    for start in range(0, HEADS, BLOCK_HEADS):
        heads = start + tl.arange(0, BLOCK_HEADS)[:, None]
        inside = (heads < HEADS) & (pairs < HALF)
        offsets = heads * (2 * HALF) + pairs
        x1 = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(cos.dtype)
        x2 = tl.load(x_ptr + offsets + HALF, mask=inside, other=0.0).to(cos.dtype)
        y1, y2 = x1 * cos - x2 * sin, x2 * cos + x1 * sin
        tl.store(y_ptr + offsets, y1.to(y_ptr.dtype.element_ty), mask=inside)
        tl.store(y_ptr + offsets + HALF, y2.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _copy(packed_ptr, heads_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BACKWARD: tl.constexpr):
    """Copy one token's heads out of the packed tensor, or back into it."""
    x_ptr, y_ptr = (heads_ptr, packed_ptr) if BACKWARD else (packed_ptr, heads_ptr)
    for start in range(0, WIDTH, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + cols, mask=cols < WIDTH, other=0.0)
        tl.store(y_ptr + cols, x, mask=cols < WIDTH)


@triton.jit
def _table_row(
    table_ptr, position, HALF: tl.constexpr, ACC: tl.constexpr, BLOCK_HALF: tl.constexpr
):
    pairs = tl.arange(0, BLOCK_HALF)[None, :]
    row = tl.load(table_ptr + position * HALF + pairs, mask=pairs < HALF, other=0.0)
    return row.to(ACC)


@triton.jit
def _rope_kernel(
    packed_ptr,
    cos_ptr,
    sin_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    T,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BACKWARD: tl.constexpr,  # q, k and v are gradients: rotate them back into packed_ptr
):
    """All heads of one token per program."""
    WIDTH: tl.constexpr = HEADS * 2 * HALF
    KV_WIDTH: tl.constexpr = KV_HEADS * 2 * HALF
    token = tl.program_id(0).to(tl.int64)
    packed = token * (WIDTH + 2 * KV_WIDTH)
    cos = _table_row(cos_ptr, token % T, HALF, ACC, BLOCK_HALF)
    sin = _table_row(sin_ptr, token % T, HALF, ACC, BLOCK_HALF)
    sin = -sin if BACKWARD else sin
    packed_q, packed_k = packed_ptr + packed, packed_ptr + (packed + WIDTH)
    packed_v = packed_ptr + (packed + WIDTH + KV_WIDTH)
    q_ptr += token * WIDTH
    _rotate(packed_q, q_ptr, cos, sin, HEADS, HALF, BLOCK_HEADS, BLOCK_HALF, BACKWARD)
    k_ptr += token * KV_WIDTH
    _rotate(packed_k, k_ptr, cos, sin, KV_HEADS, HALF, BLOCK_HEADS, BLOCK_HALF, BACKWARD)
    _copy(packed_v, v_ptr + token * KV_WIDTH, KV_WIDTH, BLOCK_V, BACKWARD)


def launch_options(
    num_heads: int, num_kv_heads: int, half: int, dtype: torch.dtype, *, backward: bool
) -> dict[str, Any]:
    """Constants of the kernel; 8 pairs per thread are two times 16 bytes of bf16."""
    block_half = triton.next_power_of_2(half)
    block_heads = min(triton.next_power_of_2(num_heads), max(1, 512 // block_half))
    num_warps = max(1, block_heads * block_half // 256)
    return {
        "HEADS": num_heads,
        "KV_HEADS": num_kv_heads,
        "HALF": half,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,  # fp64 is for gradcheck
        "BLOCK_HEADS": block_heads,
        "BLOCK_HALF": block_half,
        "BLOCK_V": 256 * num_warps,
        "BACKWARD": backward,
        "num_warps": num_warps,
    }


Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@torch.library.custom_op("tresse::rope_qkv", mutates_args=())
def _forward(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, num_heads: int, num_kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotate (N, (H + 2 Hkv) K) by tables (T, K/2) into q, k and v; all contiguous."""
    T, half = cos.shape
    q, k, v = _empty_qkv(qkv, half, num_heads, num_kv_heads)
    options = launch_options(num_heads, num_kv_heads, half, qkv.dtype, backward=False)
    _rope_kernel[(qkv.shape[0],)](qkv, cos, sin, q, k, v, T, **options)
    return q, k, v


def _empty_qkv(qkv: torch.Tensor, half: int, num_heads: int, num_kv_heads: int) -> Three:
    N, K = qkv.shape[0], 2 * half
    q, k = qkv.new_empty(N, num_heads, K), qkv.new_empty(N, num_kv_heads, K)
    return q, k, torch.empty_like(k)


@_forward.register_fake
def _(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, num_heads: int, num_kv_heads: int):  # noqa: ARG001
    return _empty_qkv(qkv, cos.shape[1], num_heads, num_kv_heads)


@torch.library.custom_op("tresse::rope_qkv_backward", mutates_args=())
def _backward(
    dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """Return the gradient of the packed projection, (N, (H + 2 Hkv) K); all contiguous."""
    N, num_heads, num_kv_heads = dq.shape[0], dq.shape[1], dk.shape[1]
    dqkv = _empty_packed(dq, dk)
    options = launch_options(num_heads, num_kv_heads, cos.shape[1], dq.dtype, backward=True)
    _rope_kernel[(N,)](dqkv, cos, sin, dq, dk, dv, cos.shape[0], **options)
    return dqkv


def _empty_packed(dq: torch.Tensor, dk: torch.Tensor) -> torch.Tensor:
    N, num_heads, K = dq.shape
    return dq.new_empty(N, (num_heads + 2 * dk.shape[1]) * K)


@_backward.register_fake
def _(dq, dk, dv, cos, sin):  # noqa: ARG001
    return _empty_packed(dq, dk)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:  # noqa: ARG001
    _, cos, sin, _, _ = inputs
    ctx.save_for_backward(cos, sin)  # autograd passes zeros for an unused output


def _differentiate(ctx: Any, dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor):
    grads = dq.contiguous(), dk.contiguous(), dv.contiguous()
    return _backward(*grads, *ctx.saved_tensors), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def rope_qkv(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, num_heads: int, num_kv_heads: int
) -> Three:
    """Unpack a projection and rotate q and k: (N, H, K), (N, Hkv, K), (N, Hkv, K), contiguous.

    qkv: (N, (H + 2 Hkv) K), N tokens in rows of T; cos, sin: (T, K/2) fp32. Raises ValueError where
    the tables are not those of qkv.
    """
    _check(qkv, cos, sin, num_heads, num_kv_heads)
    function = rope_qkv_triton if qkv.is_cuda else rope_qkv_reference
    return function(qkv, cos, sin, num_heads, num_kv_heads)


def _check(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, num_heads: int, num_kv_heads: int
) -> None:
    T, half = cos.shape
    width = (num_heads + 2 * num_kv_heads) * 2 * half
    if sin.shape != cos.shape or qkv.ndim != 2 or qkv.shape[1] != width or qkv.shape[0] % T:
        raise ValueError(
            f"qkv is {tuple(qkv.shape)}, the tables are {tuple(cos.shape)} and {tuple(sin.shape)}: "
            f"expected (rows of T, ({num_heads} + 2 * {num_kv_heads}) K) and (T, K/2)"
        )


def rope_qkv_triton(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, num_heads: int, num_kv_heads: int
) -> Three:
    """`rope_qkv` by the kernels; it has no gradient for the tables."""
    tables = cos.contiguous(), sin.contiguous()
    return _forward(qkv.contiguous(), *tables, num_heads, num_kv_heads)


def rope_qkv_reference(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, num_heads: int, num_kv_heads: int
) -> Three:
    """`rope_qkv` in plain PyTorch."""
    T, half = cos.shape
    heads = qkv.reshape(-1, T, num_heads + 2 * num_kv_heads, 2 * half)
    q, k, v = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=2)
    q, k = _rotate_reference(q, cos, sin), _rotate_reference(k, cos, sin)
    return q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1).contiguous()


def _rotate_reference(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]  # fp32: the products with bf16 halves are, too
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).to(x.dtype)


@torch.compiler.assume_constant_result
def rope_tables(
    num_positions: int, head_dim: int, theta: float, scaling: Scaling | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of the angles at each position, (num_positions, head_dim/2) fp32.

    scaling: Llama 3's (factor, low_freq_factor, high_freq_factor, original_context), or None.
    They are cached here, not in buffers of the module, which would be cast to bf16 with it.
    """
    return _cached_tables(num_positions, head_dim, theta, scaling, device)


@functools.lru_cache(maxsize=16)
def _cached_tables(
    num_positions: int, head_dim: int, theta: float, scaling: Scaling | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    # A table created in inference mode could not be saved for a later backward.
    with torch.inference_mode(False):
        frequencies = inverse_frequencies(head_dim, theta, scaling)
        angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
        return angles.cos().to(device), angles.sin().to(device)


def inverse_frequencies(head_dim: int, theta: float, scaling: Scaling | None) -> torch.Tensor:
    """Return each pair's angle per position, (head_dim/2,) fp32, as transformers to the bit."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (theta**exponents)
    return frequencies if scaling is None else _scale_low_frequencies(frequencies, scaling)


def _scale_low_frequencies(frequencies: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    """Divide the low frequencies, keep the high ones, blend those between (Llama 3)."""
    factor, low_freq_factor, high_freq_factor, original_context = scaling
    wavelengths = 2 * math.pi / frequencies
    smooth = (original_context / wavelengths - low_freq_factor) / (
        high_freq_factor - low_freq_factor
    )
    blended = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = torch.where(
        wavelengths > original_context / low_freq_factor, frequencies / factor, blended
    )
    return torch.where(wavelengths < original_context / high_freq_factor, frequencies, scaled)
