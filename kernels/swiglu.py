"""SwiGLU on the packed output of the gate and up projections (Shazeer 2020), and the one after it.

    h       = silu(gate) * up                                gate_up = [gate | up]
    d_up    = dh * silu(gate)                                silu(gate) = gate * s
    d_gate  = dh * up * s * (1 + gate * (1 - s))             s = sigmoid(gate)

    y       = h weight^T                                     `swiglu_linear`
    dh      = dy weight
    dweight = dy^T h                                         h made again

gate_up is (..., 2F), h (..., F), weight (D, F), y (..., D). SwiGLU is computed in fp32 and rounded
once, forward and backward; the products are those of F.linear in the dtype of weight. On a GPU each
way of SwiGLU is one Triton launch that reads and writes every value once; elsewhere PyTorch does
the same arithmetic.

`swiglu` keeps gate_up for the backward, and a linear after it keeps h. `swiglu_linear` keeps
gate_up and weight alone; its backward reads dh and gate_up and writes d_gate_up and h: 6F values
per token instead of 5F, and F less kept in every layer. In bf16, for 75 rows of 2048 tokens:

                              kept less           moved more
    F=8192, 16 layers         2.52 GB a layer     2.52 GB a layer, 40.3 GB a step
    F=4864, 24 layers         1.49 GB a layer     1.49 GB a layer, 35.9 GB a step
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl


@triton.jit
def _forward_kernel(
    gate_up_ptr, h_ptr, WIDTH: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr
):
    """One block of one row per program; the blocks of a row are neighbours in the grid."""
    row = (tl.program_id(0) // tl.cdiv(WIDTH, BLOCK)).to(tl.int64)
    cols = tl.program_id(0) % tl.cdiv(WIDTH, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < WIDTH
    gate_ptrs = gate_up_ptr + row * (2 * WIDTH) + cols
    gate = tl.load(gate_ptrs, mask=inside, other=0.0).to(ACC)
    up = tl.load(gate_ptrs + WIDTH, mask=inside, other=0.0).to(ACC)
    h = gate * tl.sigmoid(gate) * up
    tl.store(h_ptr + row * WIDTH + cols, h.to(h_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    dh_ptr,
    gate_up_ptr,
    d_gate_up_ptr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERWRITE: tl.constexpr,  # leave h where dh was
):
    """Both gradients of the block that the forward's program of this id has written."""
    row = (tl.program_id(0) // tl.cdiv(WIDTH, BLOCK)).to(tl.int64)
    cols = tl.program_id(0) % tl.cdiv(WIDTH, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < WIDTH
    gate_ptrs = gate_up_ptr + row * (2 * WIDTH) + cols
    gate = tl.load(gate_ptrs, mask=inside, other=0.0).to(ACC)
    up = tl.load(gate_ptrs + WIDTH, mask=inside, other=0.0).to(ACC)
    dh_ptrs = dh_ptr + row * WIDTH + cols
    dh = tl.load(dh_ptrs, mask=inside, other=0.0).to(ACC)

    sigmoid = tl.sigmoid(gate)
    d_gate = dh * up * sigmoid * (1 + gate * (1 - sigmoid))
    d_up = dh * gate * sigmoid
    d_gate_ptrs = d_gate_up_ptr + row * (2 * WIDTH) + cols
    tl.store(d_gate_ptrs, d_gate.to(d_gate_up_ptr.dtype.element_ty), mask=inside)
    tl.store(d_gate_ptrs + WIDTH, d_up.to(d_gate_up_ptr.dtype.element_ty), mask=inside)
    if OVERWRITE:
        # No other program reads this block of dh, but a thread of this one may write what another
        # reads: they share out loads and stores differently where F is no multiple of 8.
        tl.debug_barrier()
        h = gate * sigmoid * up
        tl.store(dh_ptrs, h.to(dh_ptr.dtype.element_ty), mask=inside)


def launch_options(width: int, dtype: torch.dtype, **constants: Any) -> dict[str, Any]:
    """Constants of both kernels; 1024 columns by 4 warps are 16 bytes of bf16 per thread."""
    accumulate = tl.float64 if dtype == torch.float64 else tl.float32  # fp64 is for gradcheck
    block = min(1024, triton.next_power_of_2(width))
    return {"WIDTH": width, "ACC": accumulate, "BLOCK": block, "num_warps": 4, **constants}


def _grid(N: int, width: int) -> Callable[[dict[str, Any]], tuple]:
    return lambda constants: (N * triton.cdiv(width, constants["BLOCK"]),)


@torch.library.custom_op("tresse::swiglu", mutates_args=())
def _forward(gate_up: torch.Tensor) -> torch.Tensor:
    """(N, 2F) -> (N, F), both contiguous."""
    N, width = gate_up.shape[0], gate_up.shape[1] // 2
    h = gate_up.new_empty(N, width)
    _forward_kernel[_grid(N, width)](gate_up, h, **launch_options(width, h.dtype))
    return h


@_forward.register_fake
def _(gate_up: torch.Tensor) -> torch.Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


@torch.library.custom_op("tresse::swiglu_backward", mutates_args=())
def _backward(dh: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    """Gradient of gate_up (N, 2F) for the one of h (N, F), all contiguous."""
    N, width = dh.shape
    d_gate_up = torch.empty_like(gate_up)
    options = launch_options(width, dh.dtype, OVERWRITE=False)
    _backward_kernel[_grid(N, width)](dh, gate_up, d_gate_up, **options)
    return d_gate_up


@_backward.register_fake
def _(dh: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(gate_up)


def _save(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dh: torch.Tensor) -> torch.Tensor:
    return _backward(dh.contiguous(), *ctx.saved_tensors)


_forward.register_autograd(_differentiate, setup_context=_save)


@torch.library.custom_op("tresse::swiglu_linear", mutates_args=())
def _forward_linear(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(N, 2F), contiguous, and (D, F) -> (N, D)."""
    return F.linear(_forward(gate_up), weight)


@_forward_linear.register_fake
def _(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return gate_up.new_empty(gate_up.shape[0], weight.shape[0])


@torch.library.custom_op("tresse::swiglu_linear_backward", mutates_args=())
def _backward_linear(
    dy: torch.Tensor, gate_up: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate_up (N, 2F), contiguous, and weight (D, F) for the one of y (N, D).

    One operator, so that h may take the memory of dh, which no one else has seen: the peak is the
    5F of `swiglu` and a linear after it, where h was kept and gone before d_gate_up came.
    """
    N, width = gate_up.shape[0], weight.shape[1]
    dh_then_h = dy @ weight
    d_gate_up = torch.empty_like(gate_up)
    options = launch_options(width, gate_up.dtype, OVERWRITE=True)
    _backward_kernel[_grid(N, width)](dh_then_h, gate_up, d_gate_up, **options)
    return d_gate_up, dy.T @ dh_then_h


@_backward_linear.register_fake
def _(dy: torch.Tensor, gate_up: torch.Tensor, weight: torch.Tensor):
    return torch.empty_like(gate_up), dy.new_empty(weight.shape)


def _differentiate_linear(ctx: Any, dy: torch.Tensor):
    gate_up, weight = ctx.saved_tensors
    if all(ctx.needs_input_grad):
        return _backward_linear(dy, gate_up, weight)
    if ctx.needs_input_grad[0]:
        return _backward(dy @ weight, gate_up), None
    return None, dy.T @ _forward(gate_up)


_forward_linear.register_autograd(_differentiate_linear, setup_context=_save)


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
    h = _forward(gate_up.reshape(-1, 2 * width).contiguous())
    return h.view(*gate_up.shape[:-1], width)


def swiglu_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """`swiglu` in plain PyTorch, in fp64 if gate_up is."""
    return _SwiGLU.apply(gate_up)


def swiglu_linear(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """F.linear(swiglu(gate_up), weight), its product not kept: (..., 2F), (D, F) -> (..., D).

    Raises ValueError where shapes or dtypes do not fit.
    """
    if gate_up.shape[-1] != 2 * weight.shape[1] or gate_up.dtype != weight.dtype:
        found = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in (gate_up, weight))
        raise ValueError(
            f"gate_up and weight are {found}, expected (..., 2F) and (D, F) of one dtype"
        )
    function = swiglu_linear_triton if gate_up.is_cuda else swiglu_linear_reference
    y = function(gate_up.reshape(-1, gate_up.shape[-1]), weight)
    return y.view(*gate_up.shape[:-1], weight.shape[0])


def swiglu_linear_triton(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`swiglu_linear` of (N, 2F) by the kernels."""
    return _forward_linear(gate_up.contiguous(), weight)


def swiglu_linear_reference(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`swiglu_linear` of (N, 2F) in plain PyTorch, which keeps as little."""
    return _SwiGLULinear.apply(gate_up, weight)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up)
        return _product(gate_up)

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor) -> torch.Tensor:
        return _gradient(*grad_outputs, *ctx.saved_tensors)


class _SwiGLULinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up, weight)
        return F.linear(_product(gate_up), weight)

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor):
        (dy,), (gate_up, weight) = grad_outputs, ctx.saved_tensors
        d_gate_up = _gradient(dy @ weight, gate_up) if ctx.needs_input_grad[0] else None
        dweight = dy.T @ _product(gate_up) if ctx.needs_input_grad[1] else None
        return d_gate_up, dweight


def _product(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = _widen(gate_up).chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def _gradient(dh: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = _widen(gate_up).chunk(2, dim=-1)
    dh = _widen(dh)
    d_gate = torch.ops.aten.silu_backward(dh * up, gate)
    return torch.cat((d_gate, dh * F.silu(gate)), dim=-1).to(gate_up.dtype)


def _widen(x: torch.Tensor) -> torch.Tensor:
    """To fp32, or fp64 as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
