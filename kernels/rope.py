"""Rotary position embedding in the half-split layout of transformers (Su et al. 2021).

    y[..., :K/2] = x1 * cos - x2 * sin      x1 = x[..., :K/2], x2 = x[..., K/2:]
    y[..., K/2:] = x2 * cos + x1 * sin      angle[t, i] = t * theta^(-2i/K)

x and y are (B, T, heads, K), the tables (T, K/2) fp32. Products and sums are fp32, rounded once to
the dtype of x. Rotations only enter as differences of positions, so a document may start anywhere
in a row. The gradient is rotated back: the same with -sin.

On a GPU one Triton launch reads and writes every value once, and takes x as a slice of the packed
QKV projection; elsewhere PyTorch does it.
"""

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl

Scaling = tuple[float, float, float, int]


@triton.jit
def _rotate_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    y_ptr,
    T,
    stride_x_token,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,  # K / 2
    INVERSE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """All heads of one token per program."""
    token = tl.program_id(0).to(tl.int64)
    pairs = tl.arange(0, BLOCK_HALF)[None, :]
    angles = (token % T) * HALF + pairs
    cos = tl.load(cos_ptr + angles, mask=pairs < HALF, other=0.0).to(ACC)
    sin = tl.load(sin_ptr + angles, mask=pairs < HALF, other=0.0).to(ACC)
    if INVERSE:
        sin = -sin
    x_ptr += token * stride_x_token
    y_ptr += token * (HEADS * 2 * HALF)
    for start in range(0, HEADS, BLOCK_HEADS):
        heads = start + tl.arange(0, BLOCK_HEADS)[:, None]
        inside = (heads < HEADS) & (pairs < HALF)
        offsets = heads * (2 * HALF) + pairs
        x1 = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(ACC)
        x2 = tl.load(x_ptr + offsets + HALF, mask=inside, other=0.0).to(ACC)
        y1, y2 = x1 * cos - x2 * sin, x2 * cos + x1 * sin
        tl.store(y_ptr + offsets, y1.to(y_ptr.dtype.element_ty), mask=inside)
        tl.store(y_ptr + offsets + HALF, y2.to(y_ptr.dtype.element_ty), mask=inside)


def launch_options(heads: int, half: int, inverse: bool, dtype: torch.dtype) -> dict[str, Any]:
    """Constants of the kernel; 8 pairs per thread are two times 16 bytes of bf16."""
    block_half = triton.next_power_of_2(half)
    block_heads = min(triton.next_power_of_2(heads), max(1, 512 // block_half))
    return {
        "HEADS": heads,
        "HALF": half,
        "INVERSE": inverse,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,  # fp64 is for gradcheck
        "BLOCK_HEADS": block_heads,
        "BLOCK_HALF": block_half,
        "num_warps": max(1, block_heads * block_half // 256),
    }


@torch.library.custom_op("tresse::rope", mutates_args=())
def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, inverse: bool) -> torch.Tensor:
    """(N, heads, K), the heads of a token contiguous, (T, K/2) twice -> (N, heads, K)."""
    N, heads, K = x.shape
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    options = launch_options(heads, K // 2, inverse, x.dtype)
    _rotate_kernel[(N,)](x, cos, sin, y, cos.shape[0], x.stride(0), **options)
    return y


@_rotate.register_fake
def _(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, inverse: bool):  # noqa: ARG001
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    _, cos, sin, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin)


def _differentiate(ctx: Any, grad: torch.Tensor):
    return _rotate(grad.contiguous(), *ctx.saved_tensors, not ctx.inverse), None, None, None


_rotate.register_autograd(_differentiate, setup_context=_save)


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the heads of x (B, T, heads, K) by their position; cos, sin: (T, K/2) fp32."""
    return (rope_triton if x.is_cuda else rope_reference)(x, cos, sin)


def rope_triton(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`rope` by the kernel; it has no gradient for the tables.

    Raises ValueError where the tables are not those of x.
    """
    if not cos.shape == sin.shape == (x.shape[1], x.shape[3] // 2) or x.shape[3] % 2:
        raise ValueError(
            f"x is {tuple(x.shape)}, the tables are {tuple(cos.shape)} and {tuple(sin.shape)}: "
            "expected (B, T, heads, K) and (T, K/2)"
        )
    tokens = x.flatten(0, 1)
    if tokens.stride()[1:] != (x.shape[3], 1):
        tokens = tokens.contiguous()
    return _rotate(tokens, cos.contiguous(), sin.contiguous(), False).view(x.shape)


def rope_reference(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`rope` in plain PyTorch."""
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]  # fp32: the products with bf16 halves are, too
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).to(x.dtype)


@torch.compiler.assume_constant_result
def rope_tables(
    num_positions: int, head_dim: int, theta: float, scaling: Scaling | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the angles at each position, both (num_positions, head_dim/2) fp32.

    scaling: Llama 3's (factor, low_freq_factor, high_freq_factor, original_context), or None.
    Cached here and not in buffers of the module: casting a module to bf16 would cast them too.
    """
    return _cached_tables(num_positions, head_dim, theta, scaling, device)


@functools.lru_cache(maxsize=16)
def _cached_tables(
    num_positions: int, head_dim: int, theta: float, scaling: Scaling | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    # A table first made in inference mode could not be saved for a later backward.
    with torch.inference_mode(False):
        frequencies = inverse_frequencies(head_dim, theta, scaling)
        angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
        return angles.cos().to(device), angles.sin().to(device)


def inverse_frequencies(head_dim: int, theta: float, scaling: Scaling | None) -> torch.Tensor:
    """Angle per position of each pair, (head_dim/2,) fp32, bit for bit those of transformers."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (theta**exponents)
    return frequencies if scaling is None else _scale_low_frequencies(frequencies, scaling)


def _scale_low_frequencies(frequencies: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    """Divide the frequencies with long wavelengths, keep the high ones, blend between (Llama 3)."""
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
