"""RMSNorm, alone and with the residual addition before it (Zhang and Sennrich 2019).

    residual' = x + residual
    y         = weight * residual' / sqrt(mean(residual'^2) + eps)

x, residual and y are (..., D) of one dtype, weight is (D,) of the same. The sum of the residual is
rounded to that dtype, since it is stored; from there on everything is fp32 and y is rounded once.
transformers rounds the normalised value before it multiplies by the weight, so in bf16 it differs
by a rounding.
"""

import torch
import torch.nn.functional as F


def rmsnorm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise the last dimension: (..., D) -> (..., D), in the dtype of x."""
    return F.rms_norm(x, weight.shape, weight, eps)


def add_rmsnorm(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add x to the residual stream and normalise the sum; without one the stream starts at x.

    x, residual: (..., D). Returns (normalised, new residual), both like x.
    """
    residual = x if residual is None else x + residual
    return rmsnorm(residual, weight, eps), residual
