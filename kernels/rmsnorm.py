"""RMSNorm, alone and with the residual addition before it (Zhang and Sennrich 2019).

    residual' = x + residual
    x_hat     = residual' * rstd                      rstd = 1 / sqrt(mean(residual'^2) + eps)
    y         = weight * x_hat
    dx        = rstd * (w_dy - x_hat * mean(w_dy * x_hat)) + dresidual'       w_dy = weight * dy
    dweight   = sum over rows of dy * x_hat

x, residual and y are (..., D) of one dtype, weight is (D,) of the same. residual' is rounded to
that dtype, since it is stored; everything after it is fp32, and y is rounded once. transformers
rounds the normalised value before it multiplies by the weight, so in bf16 it differs by a rounding.
dx is the gradient of both x and residual.

On a GPU Triton kernels compute it, elsewhere PyTorch. A row is held in registers and read once: the
forward moves 4 D values per token, and so does the backward. rstd is kept (4 bytes per token), and
the backward computes x_hat again. dweight is summed in a fixed order, so it has the same bits in
every run: each program of the backward takes every num_programs-th row, and their sums are added up
afterwards.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl


@triton.jit
def _rmsnorm_forward_kernel(
    x_ptr,
    residual_ptr,  # None: x alone is normalised
    weight_ptr,
    y_ptr,
    new_residual_ptr,  # None exactly where residual_ptr is
    rstd_ptr,
    D: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row per program."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < D
    x = tl.load(x_ptr + row * D + cols, mask=inside, other=0.0).to(ACC)
    weight = tl.load(weight_ptr + cols, mask=inside, other=0.0).to(ACC)
    if residual_ptr is not None:
        x += tl.load(residual_ptr + row * D + cols, mask=inside, other=0.0).to(ACC)
        rounded = x.to(new_residual_ptr.dtype.element_ty)
        tl.store(new_residual_ptr + row * D + cols, rounded, mask=inside)
        x = rounded.to(ACC)

    rstd = 1 / tl.sqrt(tl.sum(x * x, 0) / D + EPS)
    tl.store(rstd_ptr + row, rstd)
    y = weight * (x * rstd)
    tl.store(y_ptr + row * D + cols, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _rmsnorm_backward_kernel(
    dy_ptr,
    dresidual_ptr,  # None: nothing reads the new residual
    residual_ptr,
    weight_ptr,
    rstd_ptr,
    dx_ptr,
    dweight_ptr,  # (num_programs, D): the sum of each program
    N,
    D: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Every num_programs-th row per program."""
    program = tl.program_id(0).to(tl.int64)  # and so is the row, whose offset passes 2**31
    cols = tl.arange(0, BLOCK)
    inside = cols < D
    weight = tl.load(weight_ptr + cols, mask=inside, other=0.0).to(ACC)
    dweight = tl.zeros((BLOCK,), ACC)
    for row in range(program, N, tl.num_programs(0)):
        offsets = row * D + cols
        dy = tl.load(dy_ptr + offsets, mask=inside, other=0.0).to(ACC)
        x = tl.load(residual_ptr + offsets, mask=inside, other=0.0).to(ACC)
        rstd = tl.load(rstd_ptr + row)
        x_hat = x * rstd
        dweight += dy * x_hat

        w_dy = weight * dy
        dx = rstd * (w_dy - x_hat * (tl.sum(w_dy * x_hat, 0) / D))
        if dresidual_ptr is not None:
            dx += tl.load(dresidual_ptr + offsets, mask=inside, other=0.0).to(ACC)
        tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    tl.store(dweight_ptr + program * D + cols, dweight, mask=inside)


def launch_options(D: int, dtype: torch.dtype, **constants: Any) -> dict[str, Any]:
    """Constants of both kernels; 8 columns per thread are 16 bytes of bf16."""
    block = triton.next_power_of_2(D)
    accumulate = tl.float64 if dtype == torch.float64 else tl.float32  # fp64 is for gradcheck
    num_warps = min(16, max(1, block // 256))
    return {"D": D, "ACC": accumulate, "BLOCK": block, "num_warps": num_warps, **constants}


def _num_programs(N: int, num_warps: int, device: torch.device) -> int:
    """Return the programs of the backward: all that a GPU holds at once, 32 warps on each SM."""
    if device.type != "cuda":
        return min(N, 4)
    num_sms = torch.cuda.get_device_properties(device).multi_processor_count
    return min(N, num_sms * 32 // num_warps)


def _empty_rstd(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))


@torch.library.custom_op("tresse::rmsnorm", mutates_args=())
def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, D), (D,) -> y (N, D), rstd (N,) fp32; all contiguous."""
    y, rstd = torch.empty_like(x), _empty_rstd(x)
    options = launch_options(x.shape[1], x.dtype, EPS=eps)
    _rmsnorm_forward_kernel[(x.shape[0],)](x, None, weight, y, None, rstd, **options)
    return y, rstd


@_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float):  # noqa: ARG001
    return torch.empty_like(x), _empty_rstd(x)


@torch.library.custom_op("tresse::add_rmsnorm", mutates_args=())
def _add_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, D) twice, (D,) -> y and new residual (N, D), rstd (N,) fp32; all contiguous."""
    y, total, rstd = torch.empty_like(x), torch.empty_like(x), _empty_rstd(x)
    options = launch_options(x.shape[1], x.dtype, EPS=eps)
    _rmsnorm_forward_kernel[(x.shape[0],)](x, residual, weight, y, total, rstd, **options)
    return y, total, rstd


@_add_norm.register_fake
def _(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float):  # noqa: ARG001
    return torch.empty_like(x), torch.empty_like(x), _empty_rstd(x)


@torch.library.custom_op("tresse::rmsnorm_backward", mutates_args=())
def _backward(
    dy: torch.Tensor,
    dresidual: torch.Tensor | None,
    residual: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of x, (N, D), and weight, (D,); residual is the normalised tensor."""
    N, D = residual.shape
    options = launch_options(D, residual.dtype)
    num_programs = _num_programs(N, options["num_warps"], residual.device)
    dx, sums = torch.empty_like(residual), rstd.new_empty(num_programs, D)
    _rmsnorm_backward_kernel[(num_programs,)](
        dy, dresidual, residual, weight, rstd, dx, sums, N, **options
    )
    return dx, sums.sum(0).to(weight.dtype)


@_backward.register_fake
def _(dy, dresidual, residual, weight, rstd):  # noqa: ARG001
    return torch.empty_like(residual), torch.empty_like(weight)


def _save_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])


def _differentiate_norm(ctx: Any, dy: torch.Tensor, _drstd: torch.Tensor):
    return *_backward(dy.contiguous(), None, *ctx.saved_tensors), None


def _save_add_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    _, _, weight, _ = inputs
    _, total, rstd = output
    ctx.set_materialize_grads(False)  # nothing uses the last residual: do not read zeros for it
    ctx.mark_non_differentiable(rstd)
    ctx.save_for_backward(total, weight, rstd)


def _differentiate_add_norm(
    ctx: Any, dy: torch.Tensor | None, dresidual: torch.Tensor | None, _drstd: None
):
    if dy is None:
        return dresidual, dresidual, None, None
    dresidual = None if dresidual is None else dresidual.contiguous()
    dx, dweight = _backward(dy.contiguous(), dresidual, *ctx.saved_tensors)
    return dx, dx, dweight, None


_norm.register_autograd(_differentiate_norm, setup_context=_save_norm)
_add_norm.register_autograd(_differentiate_add_norm, setup_context=_save_add_norm)


def rmsnorm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise the last dimension: (..., D) -> (..., D), in the dtype of x."""
    return (rmsnorm_triton if x.is_cuda else rmsnorm_reference)(x, weight, eps)


def add_rmsnorm(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add x to the residual stream and normalise the sum; without one the stream starts at x.

    x, residual: (..., D). Returns (normalised, new residual), both like x.
    """
    function = add_rmsnorm_triton if x.is_cuda else add_rmsnorm_reference
    return function(x, residual, weight, eps)


def rmsnorm_triton(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`rmsnorm` by the kernels."""
    _check(x, x, weight)
    y, _ = _norm(x.reshape(-1, x.shape[-1]).contiguous(), weight.contiguous(), eps)
    return y.view(x.shape)


def add_rmsnorm_triton(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_rmsnorm` by the kernels.

    Raises ValueError where shapes or dtypes differ.
    """
    if residual is None:
        return rmsnorm_triton(x, weight, eps), x
    _check(x, residual, weight)
    flat = (part.reshape(-1, x.shape[-1]).contiguous() for part in (x, residual))
    y, total, _ = _add_norm(*flat, weight.contiguous(), eps)
    return y.view(x.shape), total.view(x.shape)


def _check(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> None:
    same_dtype = x.dtype == residual.dtype == weight.dtype
    if not same_dtype or x.shape != residual.shape or x.shape[-1:] != weight.shape:
        found = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in (x, residual, weight))
        raise ValueError(
            f"x, residual and weight are {found}, expected (..., D), (..., D) and (D,) of one dtype"
        )


def rmsnorm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`rmsnorm` in plain PyTorch, in fp64 if x is."""
    return F.rms_norm(x, weight.shape, weight, eps)


def add_rmsnorm_reference(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_rmsnorm` in plain PyTorch."""
    residual = x if residual is None else x + residual
    return rmsnorm_reference(residual, weight, eps), residual
