"""Rotary position embedding in the half-split layout of transformers (Su et al. 2021).

    y[..., :K/2] = x1 * cos - x2 * sin      x1 = x[..., :K/2], x2 = x[..., K/2:]
    y[..., K/2:] = x2 * cos + x1 * sin      angle[t, i] = t * theta^(-2i/K)

x and y are (B, T, heads, K), the tables (T, K/2) fp32. Products and sums are fp32, rounded once to
the dtype of x. Rotations only enter as differences of positions, so a document may start anywhere
in a row.
"""

import functools
import math

import torch

Scaling = tuple[float, float, float, int]


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the heads of x (B, T, heads, K) by their position; cos, sin: (T, K/2) fp32."""
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
