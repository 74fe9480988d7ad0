"""Products with weights that oneDNN packed once, for fp32 on a CPU.

torch multiplies fp32 by MKL, which packs a weight anew in every product. That costs as much as the
product itself where a step has a few rows: at 8 rows of the 360M model a step takes 1.8 times as
long. Small weights stay as they are, since oneDNN's own calls cost more there. TorchInductor
compiles frozen models to the same two operators of torch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tresse.engine.model import Transformer

SMALLEST = 1 << 20
"""Elements of the smallest weight that is packed."""


def pack_weights(model: Transformer, num_rows: int) -> None:
    """Replace the large products of an fp32 model on a CPU; it can no longer be trained or saved.

    num_rows: rows that most products have. Elsewhere the model stays as it is.
    """
    weight = model.embedding.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _is_available():
        return
    for layer in model.layers:
        for name, module in list(layer.named_children()):
            if isinstance(module, nn.Linear) and module.weight.numel() >= SMALLEST:
                kind = PackedSwiGLULinear if name == "down_proj" else PackedLinear
                setattr(layer, name, kind(module, num_rows))


def _is_available() -> bool:
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in operators
    )


class PackedLinear(nn.Module):
    """A linear layer with a packed weight: (..., D) -> (..., F)."""

    def __init__(self, linear: nn.Linear, num_rows: int) -> None:
        super().__init__()
        self._bias = None if linear.bias is None else linear.bias.detach()
        weight = linear.weight.detach()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product, with the bias if there is one."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")


class PackedSwiGLULinear(PackedLinear):
    """A linear layer after SwiGLU: [gate | up], (..., 2F), to (..., D)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the product of the gated values."""
        gate, up = x.chunk(2, dim=-1)
        return super().forward(F.silu(gate) * up)
