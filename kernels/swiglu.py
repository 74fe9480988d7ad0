"""SwiGLU on the packed output of the gate and up projections (Shazeer 2020).

    y = silu(gate) * up      gate_up = [gate | up]

gate_up is (..., 2F), y (..., F). Computed in fp32 and rounded once, forward and backward. Only
gate_up is kept for the backward, which computes the product's factors again: 2F values per token,
not 4F or fp32 copies.
"""

import torch
import torch.nn.functional as F


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up: (..., 2F) -> (..., F), in the dtype of gate_up."""
    return _SwiGLU.apply(gate_up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = _widen(gate_up).chunk(2, dim=-1)
        return (F.silu(gate) * up).to(gate_up.dtype)

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor) -> torch.Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = _widen(gate_up).chunk(2, dim=-1)
        grad = _widen(grad_outputs[0])
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return torch.cat((grad_gate, grad * F.silu(gate)), dim=-1).to(gate_up.dtype)


def _widen(x: torch.Tensor) -> torch.Tensor:
    """To fp32, or fp64 as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
