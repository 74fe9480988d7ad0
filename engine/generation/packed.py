"""Products with weights that oneDNN packed once, for fp32 on a CPU.

torch multiplies fp32 by MKL, which packs a weight anew in every product of two rows or more. Where
rows are few that costs more than the product itself. The four products of a layer of the 360M
model, in ms on one core:

    rows       2     3     4     8     16    32
    MKL        9.2   12.7  12.2  13.7  16.9  22.3
    packed     5.5   5.8   7.2   8.9   12.1  18.0

Small weights stay as they are, since oneDNN's own calls cost more there, and for a single row those
that have more inputs than outputs. TorchInductor compiles frozen models to the same two operators
of torch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tresse.engine.model import Transformer

SMALLEST = 1 << 19
"""Elements of the smallest weight that is packed."""


def pack_weights(model: Transformer, num_rows: int) -> None:
    """Replace the large products of an fp32 model on a CPU; it can no longer be trained or saved.

    num_rows: rows of a step. Elsewhere the model stays as it is.
    """
    weight = model.embedding.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _is_available():
        return
    for layer in model.layers:
        for name, module in list(layer.named_children()):
            if isinstance(module, nn.Linear) and _gains(module, num_rows):
                kind = PackedSwiGLULinear if name == "down_proj" else PackedLinear
                setattr(layer, name, kind(module, num_rows))


def _gains(linear: nn.Linear, num_rows: int) -> bool:
    is_wide = linear.out_features > linear.in_features
    return linear.weight.numel() >= SMALLEST and (num_rows > 1 or is_wide)


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
