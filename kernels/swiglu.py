"""SwiGLU on the packed output of the gate and up projections (Shazeer 2020).

    y       = silu(gate) * up                                gate_up = [gate | up]
    grad_up = grad * silu(gate)                              silu(gate) = gate * s
    grad_g  = grad * up * s * (1 + gate * (1 - s))           s = sigmoid(gate)

gate_up is (..., 2F), y (..., F). Computed in fp32 and rounded once, forward and backward. Only
gate_up is kept for the backward, which computes the product's factors again: 2F values per token,
not 4F or fp32 copies. On a GPU each way is one Triton launch that reads and writes every value
once, 3F and 5F values per token; elsewhere PyTorch does the same arithmetic.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl


@triton.jit
def _forward_kernel(
    gate_up_ptr, y_ptr, WIDTH: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr
):
    """One block of one row per program; the blocks of a row are neighbours in the grid."""
    row = (tl.program_id(0) // tl.cdiv(WIDTH, BLOCK)).to(tl.int64)
    cols = tl.program_id(0) % tl.cdiv(WIDTH, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < WIDTH
    gate_ptrs = gate_up_ptr + row * (2 * WIDTH) + cols
    gate = tl.load(gate_ptrs, mask=inside, other=0.0).to(ACC)
    up = tl.load(gate_ptrs + WIDTH, mask=inside, other=0.0).to(ACC)
    y = gate * tl.sigmoid(gate) * up
    tl.store(y_ptr + row * WIDTH + cols, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    grad_ptr,
    gate_up_ptr,
    grad_gate_up_ptr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Both gradients of the block that the forward's program of this id has written."""
    row = (tl.program_id(0) // tl.cdiv(WIDTH, BLOCK)).to(tl.int64)
    cols = tl.program_id(0) % tl.cdiv(WIDTH, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < WIDTH
    gate_ptrs = gate_up_ptr + row * (2 * WIDTH) + cols
    gate = tl.load(gate_ptrs, mask=inside, other=0.0).to(ACC)
    up = tl.load(gate_ptrs + WIDTH, mask=inside, other=0.0).to(ACC)
    grad = tl.load(grad_ptr + row * WIDTH + cols, mask=inside, other=0.0).to(ACC)

    sigmoid = tl.sigmoid(gate)
    grad_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    grad_up = grad * gate * sigmoid
    grad_ptrs = grad_gate_up_ptr + row * (2 * WIDTH) + cols
    tl.store(grad_ptrs, grad_gate.to(grad_gate_up_ptr.dtype.element_ty), mask=inside)
    tl.store(grad_ptrs + WIDTH, grad_up.to(grad_gate_up_ptr.dtype.element_ty), mask=inside)


def launch_options(width: int, dtype: torch.dtype) -> dict[str, Any]:
    """Constants of both kernels; 1024 columns by 4 warps are 16 bytes of bf16 per thread."""
    accumulate = tl.float64 if dtype == torch.float64 else tl.float32  # fp64 is for gradcheck
    block = min(1024, triton.next_power_of_2(width))
    return {"WIDTH": width, "ACC": accumulate, "BLOCK": block, "num_warps": 4}


def _grid(N: int, width: int) -> Callable[[dict[str, Any]], tuple]:
    return lambda constants: (N * triton.cdiv(width, constants["BLOCK"]),)


@torch.library.custom_op("tresse::swiglu", mutates_args=())
def _forward(gate_up: torch.Tensor) -> torch.Tensor:
    """(N, 2F) -> (N, F), both contiguous."""
    N, width = gate_up.shape[0], gate_up.shape[1] // 2
    y = gate_up.new_empty(N, width)
    _forward_kernel[_grid(N, width)](gate_up, y, **launch_options(width, y.dtype))
    return y


@_forward.register_fake
def _(gate_up: torch.Tensor) -> torch.Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


@torch.library.custom_op("tresse::swiglu_backward", mutates_args=())
def _backward(grad: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    """Gradient of gate_up (N, 2F) for the one of y (N, F), all contiguous."""
    N, width = grad.shape
    grad_gate_up = torch.empty_like(gate_up)
    options = launch_options(width, grad.dtype)
    _backward_kernel[_grid(N, width)](grad, gate_up, grad_gate_up, **options)
    return grad_gate_up


@_backward.register_fake
def _(grad: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(gate_up)


def _save(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
    return _backward(grad.contiguous(), *ctx.saved_tensors)


_forward.register_autograd(_differentiate, setup_context=_save)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up: (..., 2F) -> (..., F), in the dtype of gate_up."""
    return swiglu_triton(gate_up) if gate_up.is_cuda else swiglu_reference(gate_up)


def swiglu_triton(gate_up: torch.Tensor) -> torch.Tensor:
    """`swiglu` by the kernels.

    Raises ValueError where the last dimension is not two halves.
    """
    if gate_up.shape[-1] == 0 or gate_up.shape[-1] % 2:
        raise ValueError(f"gate_up is {tuple(gate_up.shape)}, expected (..., 2F): gate, then up")
    width = gate_up.shape[-1] // 2
    y = _forward(gate_up.reshape(-1, 2 * width).contiguous())
    return y.view(*gate_up.shape[:-1], width)


def swiglu_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """`swiglu` in plain PyTorch, in fp64 if gate_up is."""
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
