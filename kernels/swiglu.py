"""SwiGLU on the packed output of the gate and up projections, with the projection after it.

    y       = h weight^T         h = silu(gate) * up         gate_up = [gate | up]
    dh      = dy weight          silu(gate) = gate * s       s = sigmoid(gate)
    dweight = dy^T h
    d_up    = dh * silu(gate)
    d_gate  = dh * up * s * (1 + gate * (1 - s))

gate_up is (..., 2F), h (..., F), weight (D, F), y (..., D) (Shazeer 2020). h and its gradient are
computed in fp32 and rounded once; the matrix products are those of F.linear in the dtype of weight.
On a GPU one Triton launch computes h and another its gradient, each value read and written once;
elsewhere PyTorch does the same arithmetic.

By default the backward keeps gate_up and weight and computes h again: it reads dh and gate_up and
writes d_gate_up and h. With keep_h it moves F values per token less, and every layer holds F values
per token more. In bf16, for 75 rows of 2048 tokens:

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
def _load(gate_up_ptr, WIDTH: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """Load the block of this program: its row, columns and mask, gate and up.

    A program has one block of one row; the blocks of a row are neighbours in the grid.
    """
    row = (tl.program_id(0) // tl.cdiv(WIDTH, BLOCK)).to(tl.int64)
    cols = tl.program_id(0) % tl.cdiv(WIDTH, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < WIDTH
    gate_ptrs = gate_up_ptr + row * (2 * WIDTH) + cols
    gate = tl.load(gate_ptrs, mask=inside, other=0.0).to(ACC)
    up = tl.load(gate_ptrs + WIDTH, mask=inside, other=0.0).to(ACC)
    return row, cols, inside, gate, up


@triton.jit
def _swiglu_forward_kernel(
    gate_up_ptr, h_ptr, WIDTH: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr
):
    """One block per program."""
    row, cols, inside, gate, up = _load(gate_up_ptr, WIDTH, ACC, BLOCK)  # type: ignore[misc]
    h = gate * tl.sigmoid(gate) * up
    tl.store(h_ptr + row * WIDTH + cols, h.to(h_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward_kernel(
    dh_ptr,  # h takes its place, unless it is kept
    gate_up_ptr,
    d_gate_up_ptr,
    KEPT: tl.constexpr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Both gradients, and h unless it is kept, of one block per program."""
    row, cols, inside, gate, up = _load(gate_up_ptr, WIDTH, ACC, BLOCK)  # type: ignore[misc]
    dh_ptrs = dh_ptr + row * WIDTH + cols
    dh = tl.load(dh_ptrs, mask=inside, other=0.0).to(ACC)

    sigmoid = tl.sigmoid(gate)
    d_gate = dh * up * sigmoid * (1 + gate * (1 - sigmoid))
    d_up = dh * gate * sigmoid
    d_gate_ptrs = d_gate_up_ptr + row * (2 * WIDTH) + cols
    tl.store(d_gate_ptrs, d_gate.to(d_gate_up_ptr.dtype.element_ty), mask=inside)
    tl.store(d_gate_ptrs + WIDTH, d_up.to(d_gate_up_ptr.dtype.element_ty), mask=inside)
    if not KEPT:
        # No other program reads this block of dh, but a thread of this one may write what another
        # one reads: threads share loads and stores differently where F is no multiple of 8.
        tl.debug_barrier()
        h = gate * sigmoid * up
        tl.store(dh_ptrs, h.to(dh_ptr.dtype.element_ty), mask=inside)


def launch_options(width: int, dtype: torch.dtype) -> dict[str, Any]:
    """Constants of both kernels; 1024 columns by 4 warps are 16 bytes of bf16 per thread."""
    accumulate = tl.float64 if dtype == torch.float64 else tl.float32  # fp64 is for gradcheck
    block = min(1024, triton.next_power_of_2(width))
    return {"WIDTH": width, "ACC": accumulate, "BLOCK": block, "num_warps": 4}


def _grid(N: int, width: int) -> Callable[[dict[str, Any]], tuple]:
    return lambda constants: (N * triton.cdiv(width, constants["BLOCK"]),)


def launch_forward(gate_up: torch.Tensor) -> torch.Tensor:
    """Return h (N, F) of gate_up (N, 2F), contiguous."""
    N, width = gate_up.shape[0], gate_up.shape[1] // 2
    h = gate_up.new_empty(N, width)
    _swiglu_forward_kernel[_grid(N, width)](gate_up, h, **launch_options(width, h.dtype))
    return h


def launch_backward_(dh: torch.Tensor, gate_up: torch.Tensor, *, kept: bool) -> torch.Tensor:
    """Return the gradient of gate_up (N, 2F); unless h is kept, write h over dh (N, F).

    Both are contiguous.
    """
    N, width = dh.shape
    d_gate_up = torch.empty_like(gate_up)
    options: dict[str, Any] = launch_options(width, dh.dtype) | {"KEPT": kept}
    _swiglu_backward_kernel[_grid(N, width)](dh, gate_up, d_gate_up, **options)
    return d_gate_up


@torch.library.custom_op("tresse::swiglu_linear", mutates_args=())
def _forward(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return y (N, D) of gate_up (N, 2F), contiguous, and weight (D, F)."""
    return F.linear(launch_forward(gate_up), weight)


@_forward.register_fake
def _(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return gate_up.new_empty(gate_up.shape[0], weight.shape[0])


@torch.library.custom_op("tresse::swiglu_linear_backward", mutates_args=())
def _backward(
    dy: torch.Tensor, gate_up: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of gate_up (N, 2F), contiguous, and weight (D, F) for dy (N, D).

    It is one operator, so that h can take the memory of dh, which nothing else has seen.
    """
    dh_then_h = dy @ weight
    d_gate_up = launch_backward_(dh_then_h, gate_up, kept=False)
    return d_gate_up, dy.T @ dh_then_h


@_backward.register_fake
def _(dy: torch.Tensor, gate_up: torch.Tensor, weight: torch.Tensor):
    return torch.empty_like(gate_up), dy.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _backward(dy, *ctx.saved_tensors)


_forward.register_autograd(_differentiate, setup_context=_save)


@torch.library.custom_op("tresse::swiglu", mutates_args=())
def _swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return h (N, F) of gate_up (N, 2F), contiguous."""
    return launch_forward(gate_up)


@_swiglu.register_fake
def _(gate_up: torch.Tensor) -> torch.Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


@torch.library.custom_op("tresse::swiglu_backward", mutates_args=())
def _swiglu_backward(dh: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    """Return the gradient of gate_up (N, 2F) for dh (N, F); both contiguous."""
    return launch_backward_(dh, gate_up, kept=True)


@_swiglu_backward.register_fake
def _(dh: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(gate_up)


_swiglu.register_autograd(
    lambda ctx, dh: _swiglu_backward(dh.contiguous(), *ctx.saved_tensors), setup_context=_save
)


def swiglu_linear(
    gate_up: torch.Tensor, weight: torch.Tensor, *, keep_h: bool = False
) -> torch.Tensor:
    """Return F.linear(silu(gate) * up, weight): (..., 2F), (D, F) -> (..., D).

    keep_h: keep h for the backward rather than compute it again. Raises ValueError where shapes or
    dtypes do not fit.
    """
    if gate_up.shape[-1] != 2 * weight.shape[1] or gate_up.dtype != weight.dtype:
        found = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in (gate_up, weight))
        raise ValueError(
            f"gate_up and weight are {found}, expected (..., 2F) and (D, F) of one dtype"
        )
    flat = gate_up.reshape(-1, gate_up.shape[-1])
    if gate_up.is_cuda:
        y = swiglu_linear_triton(flat, weight, keep_h=keep_h)
    else:
        y = swiglu_linear_reference(flat, weight)
    return y.view(*gate_up.shape[:-1], weight.shape[0])


def swiglu_linear_triton(
    gate_up: torch.Tensor, weight: torch.Tensor, *, keep_h: bool = False
) -> torch.Tensor:
    """`swiglu_linear` of (N, 2F) by the kernels."""
    if keep_h:
        return F.linear(_swiglu(gate_up.contiguous()), weight)
    return _forward(gate_up.contiguous(), weight)


def swiglu_linear_reference(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`swiglu_linear` of (N, 2F) in plain PyTorch, in fp64 if gate_up is; keeps as little."""
    if not torch.is_grad_enabled():
        return F.linear(_product(gate_up), weight)  # less work for Python in each call
    return _SwiGLULinear.apply(gate_up, weight)


class _SwiGLULinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up, weight)
        return F.linear(_product(gate_up), weight)

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor):
        (dy,), (gate_up, weight) = grad_outputs, ctx.saved_tensors
        return _gradient(dy @ weight, gate_up), dy.T @ _product(gate_up)


def _product(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = _widen(gate_up).chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def _gradient(dh: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = _widen(gate_up).chunk(2, dim=-1)
    dh = _widen(dh)
    d_gate = torch.ops.aten.silu_backward(dh * up, gate)
    return torch.cat((d_gate, dh * F.silu(gate)), dim=-1).to(gate_up.dtype)


def _widen(x: torch.Tensor) -> torch.Tensor:
    """Cast to fp32, but leave fp64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
