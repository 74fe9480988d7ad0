"""The sizes at which kernels are measured, and random inputs.

Shapes are those of Llama-3.2-1B and Qwen2-0.5B with a micro-batch of 25 rows of 2,048 tokens, in
bf16. N tokens, D width, F of the MLP, H query and Hkv key heads of width K, V columns of logits of
which C are classes.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

BF16 = torch.bfloat16


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model's sizes and a micro-batch."""

    name: str
    D: int
    F: int
    H: int
    Hkv: int
    K: int
    rows: int = 25
    T: int = 2048

    @property
    def N(self) -> int:  # noqa: N802
        """Tokens of the micro-batch."""
        return self.rows * self.T


LLAMA = Shape(name="llama-1b", D=2048, F=8192, H=32, Hkv=8, K=64)
QWEN = Shape(name="qwen2-0.5b", D=896, F=4864, H=14, Hkv=2, K=64)
TINY = Shape(name="tiny", D=48, F=40, H=6, Hkv=2, K=16, rows=2, T=64)
VOCABULARIES = ((2048, 2048), (2051, 2176), (128_256, 128_256))  # classes and columns
TINY_VOCABULARIES = ((37, 37), (37, 64))
TEXT_ROWS = 4  # of a micro-batch with a text vocabulary, whose logits are 62 times as wide


def shapes(device: torch.device) -> tuple[Shape, ...]:
    """The models measured on a device."""
    return (LLAMA, QWEN) if device.type == "cuda" else (TINY,)


def vocabularies(device: torch.device) -> tuple[tuple[int, int], ...]:
    """Pairs of classes and columns."""
    return VOCABULARIES if device.type == "cuda" else TINY_VOCABULARIES


class Inputs:
    """Random tensors on a device, the same in every run."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int, std: float = 1.0, dtype: torch.dtype = BF16) -> Tensor:
        """Draw normals, rounded to the dtype."""
        x = torch.empty(shape, device=self.device, dtype=torch.float32)
        return x.normal_(0, std, generator=self.generator).to(dtype)

    def leaf(self, *shape: int, std: float = 1.0) -> Tensor:
        """Draw normals that want a gradient."""
        return self.normal(*shape, std=std).requires_grad_()

    def labels(self, N: int, num_classes: int) -> Tensor:
        """Draw labels, (N,) int64."""
        return torch.randint(num_classes, (N,), device=self.device, generator=self.generator)


def narrowed(shape: Shape, columns: int) -> Shape:
    """Take fewer rows where the logits are those of a text model."""
    return replace(shape, rows=TEXT_ROWS) if columns > 8192 else shape
