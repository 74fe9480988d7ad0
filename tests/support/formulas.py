"""The functions of `kernels/` in their simplest form: plain PyTorch, in the dtype of the inputs."""

import itertools
from collections.abc import Callable

import torch

from tests.support.accuracy import random


def rmsnorm_formula(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Divide by the root of the mean square: (..., D), (D,) -> (..., D)."""
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def add_rmsnorm_formula(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor):
    """Normalise the sum, and return it too: (..., D) twice."""
    return rmsnorm_formula(x + residual, weight), x + residual


def swiglu_linear_formula(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiply silu(gate) by up, then by the weight: (..., 2F), (D, F) -> (..., D)."""
    gate, up = gate_up.chunk(2, -1)
    return (gate * gate.sigmoid() * up) @ weight.T


def packed(size: tuple[int, ...]) -> torch.Tensor:
    """A random packed projection, (B T, (H + 2 Hkv) K), for size (B, T, H, Hkv, K)."""
    B, T, H, Hkv, K = size
    return random(B * T, (H + 2 * Hkv) * K)


def rope_formula(qkv, cos, sin, num_heads: int, num_kv_heads: int):
    """Turn each head of each row by itself, by the tables rounded to its dtype."""
    T, half = cos.shape
    cos, sin = cos.to(qkv.dtype), sin.to(qkv.dtype)

    def rotate(head: torch.Tensor) -> torch.Tensor:
        x1, x2 = head[:, :half], head[:, half:]
        return torch.cat((x1 * cos - x2 * sin, x1 * sin + x2 * cos), -1)

    def part(start: int, stop: int, function: Callable) -> torch.Tensor:
        columns = [qkv[:, h * 2 * half : (h + 1) * 2 * half] for h in range(start, stop)]
        heads = [torch.cat([function(row) for row in x.split(T)]) for x in columns]
        return torch.stack(heads, 1)

    H, Hkv = num_heads, num_kv_heads
    cuts = (0, H), (H, H + Hkv), (H + Hkv, H + 2 * Hkv)
    q, k, v = (part(*cut, f) for cut, f in zip(cuts, (rotate, rotate, lambda x: x), strict=True))
    return q, k, v


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
