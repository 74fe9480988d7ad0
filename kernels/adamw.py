"""AdamW (Loshchilov and Hutter 2019) over flat buffers, and the clip of its gradients.

    g = coefficient * grad                         coefficient = min(1, clip / (norm + 1e-6))
    m = m + (1 - beta1) * (g - m)                  norm = sqrt(sum of grad^2 over all buffers)
    v = beta2 * v + (1 - beta2) * g * g
    w = (1 - lr * weight_decay) * w - step_size * m / (sqrt(v) / correction + eps)

    step_size = lr / (1 - beta1^t)                 correction = sqrt(1 - beta2^t)

The order of operations is that of torch.optim.AdamW and torch.nn.utils.clip_grad_norm_, which are
the reference and run on a CPU. Buffers are contiguous, of any shape and alignment. w, m and v are
fp32, gradients fp32, bf16 or fp16. All arithmetic is fp32, correctly rounded except in fused
multiply-adds. The host computes the factors of lr and t in fp64.

The update is one launch per buffer: it moves 28 bytes per parameter (grad, w, m, v in; w, m, v
out), 30 with a bf16 copy of w; bf16 gradients take 2 less. The coefficient is read from the device,
so that a clip costs neither a pass over the gradients nor a wait of the host. The sum of squares
reads the gradients once: each program sums a chunk, and one more adds up the chunks in fp64.
Without atomics it has the same bits in every run and on every GPU.
"""

import itertools
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# A mask whose bound is no multiple of a vector would split the loads. So a buffer is taken up to
# its last whole 16 elements, and the rest by itself.
VECTOR = tl.constexpr(16)


@triton.jit
def _update(buffers, factors, start, cols, inside):
    grad_ptr, master_ptr, exp_avg_ptr, exp_avg_sq_ptr, copy_ptr = buffers
    coefficient, decay, weight1, beta2, weight2, step_size, correction, eps = factors
    grad = tl.load(grad_ptr + start + cols, mask=inside, other=0.0).to(tl.float32) * coefficient
    master = tl.load(master_ptr + start + cols, mask=inside, other=0.0) * decay
    exp_avg = tl.load(exp_avg_ptr + start + cols, mask=inside, other=0.0)
    exp_avg_sq = tl.load(exp_avg_sq_ptr + start + cols, mask=inside, other=0.0)

    exp_avg += weight1 * (grad - exp_avg)
    exp_avg_sq = exp_avg_sq * beta2 + weight2 * grad * grad
    denominator = tl.div_rn(tl.sqrt_rn(exp_avg_sq), correction) + eps
    master -= tl.div_rn(step_size * exp_avg, denominator)

    tl.store(master_ptr + start + cols, master, mask=inside)
    tl.store(exp_avg_ptr + start + cols, exp_avg, mask=inside)
    tl.store(exp_avg_sq_ptr + start + cols, exp_avg_sq, mask=inside)
    if copy_ptr is not None:
        tl.store(copy_ptr + start + cols, master.to(copy_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["numel"])
def _adamw_kernel(
    grad_ptr,
    master_ptr,
    exp_avg_ptr,
    exp_avg_sq_ptr,
    copy_ptr,  # in a lower precision; None: no copy of the master
    coefficient_ptr,  # None: no clip
    numel,
    decay,
    weight1,
    beta2,
    weight2,
    step_size,
    correction,
    eps,
    BLOCK: tl.constexpr,
):
    """One block per program; the first one also takes the rest after the last whole vector."""
    program = tl.program_id(0).to(tl.int64)
    coefficient = 1.0
    if coefficient_ptr is not None:
        coefficient = tl.load(coefficient_ptr)
        numel = tl.where(coefficient == coefficient, numel, 0)  # NaN: nothing is updated
    whole = numel // VECTOR * VECTOR
    buffers = (grad_ptr, master_ptr, exp_avg_ptr, exp_avg_sq_ptr, copy_ptr)
    factors = (coefficient, decay, weight1, beta2, weight2, step_size, correction, eps)

    start = program * BLOCK
    cols = tl.arange(0, BLOCK)
    _update(buffers, factors, start, cols, cols < whole - start)
    if program == 0:
        lanes = tl.arange(0, VECTOR)
        _update(buffers, factors, whole.to(tl.int64), lanes, lanes < numel - whole)


@triton.jit(do_not_specialize=["numel"])
def _squares_kernel(x_ptr, sums_ptr, numel, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of squares of one chunk per program; the first one also takes the rest."""
    program = tl.program_id(0).to(tl.int64)
    whole = numel // VECTOR * VECTOR
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, CHUNK, BLOCK):
        offset = program * CHUNK + start
        cols = tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offset + cols, mask=cols < whole - offset, other=0.0).to(tl.float32)
        squares += x * x
    lanes = tl.arange(0, VECTOR)
    rest = (lanes < numel - whole) & (program == 0)
    x = tl.load(x_ptr + whole.to(tl.int64) + lanes, mask=rest, other=0.0).to(tl.float32)
    tl.store(sums_ptr + program, tl.sum(squares, 0) + tl.sum(x * x, 0))


@triton.jit
def _total_kernel(sums_ptr, total_ptr, num_sums, BLOCK: tl.constexpr):
    """Sum of the chunks' sums, by a single program; num_sums is a multiple of BLOCK."""
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, num_sums, BLOCK):
        cols = tl.arange(0, BLOCK)
        row_ptr = sums_ptr + tl.cast(start, tl.int64)
        total += tl.load(row_ptr + cols, mask=cols < num_sums - start, other=0.0)
    tl.store(total_ptr, tl.sum(total, 0))


# 8 elements per thread are 16 bytes of bf16.
UPDATE_OPTIONS: dict[str, Any] = {"BLOCK": 1024, "num_warps": 4}
SQUARES_OPTIONS: dict[str, Any] = {"CHUNK": 65536, "BLOCK": 4096, "num_warps": 8}
TOTAL_OPTIONS: dict[str, Any] = {"BLOCK": 1024, "num_warps": 8}


@torch.library.custom_op(
    "tresse::adamw_", mutates_args=("master", "exp_avg", "exp_avg_sq", "low_precision")
)
def _adamw_(
    grad: Tensor,
    master: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    low_precision: Tensor | None,
    coefficient: Tensor | None,
    factors: Sequence[float],
) -> None:
    """Update in place; `factors` are decay, weight1, ... as the kernel takes them."""
    numel = master.numel()
    if numel:
        buffers: Any = (grad, master, exp_avg, exp_avg_sq, low_precision, coefficient)
        grid = (triton.cdiv(numel, UPDATE_OPTIONS["BLOCK"]),)
        _adamw_kernel[grid](*buffers, numel, *factors, **UPDATE_OPTIONS)  # type: ignore[arg-type]


@_adamw_.register_fake
def _(grad, master, exp_avg, exp_avg_sq, low_precision, coefficient, factors) -> None:  # noqa: ARG001
    return None


@torch.library.custom_op("tresse::sum_of_squares", mutates_args=())
def _sum_of_squares(gradients: Sequence[Tensor]) -> Tensor:
    """Sum over all gradients, contiguous, at least one: () fp64."""
    counts = [triton.cdiv(x.numel(), SQUARES_OPTIONS["CHUNK"]) for x in gradients]
    num_sums = max(1, triton.cdiv(sum(counts), TOTAL_OPTIONS["BLOCK"])) * TOTAL_OPTIONS["BLOCK"]
    sums = gradients[0].new_zeros(num_sums, dtype=torch.float32)
    starts = itertools.accumulate(counts, initial=0)
    for x, start, count in zip(gradients, starts, counts, strict=False):
        if count:
            _squares_kernel[(count,)](x, sums[start:], x.numel(), **SQUARES_OPTIONS)
    total = sums.new_empty((), dtype=torch.float64)
    _total_kernel[(1,)](sums, total, num_sums, **TOTAL_OPTIONS)
    return total


@_sum_of_squares.register_fake
def _(gradients: Sequence[Tensor]) -> Tensor:
    return gradients[0].new_empty((), dtype=torch.float64)


def sum_of_squares(gradients: Sequence[Tensor]) -> Tensor:
    """Return the sum of the squares of all gradients, () fp64 on their device.

    gradients: at least one, of any shapes; the kernel sums on a GPU, torch in fp64 on a CPU.
    """
    if gradients[0].is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        return _sum_of_squares([gradient.contiguous() for gradient in gradients])
    squares = [torch.linalg.vector_norm(x, dtype=torch.float64).square() for x in gradients]
    return torch.stack(squares).sum()


def clip_coefficient(total: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return the norm whose square is `total`, and the factor that brings it down to clip.

    Both are () fp32 and stay on the device. The factor is NaN where the norm is not finite; `AdamW`
    then changes nothing.
    """
    norm = total.sqrt().float()
    factor = (norm.new_full((), clip) / (norm + 1e-6)).clamp(max=1.0)
    return norm, torch.where(norm.isfinite(), factor, math.nan)


class AdamW(torch.optim.Optimizer):
    """`torch.optim.AdamW` by the kernel: fp32 parameters, one launch each, no wait of the host.

    The state of a parameter has the keys of torch's; "step" stays in host memory. DeepSpeed calls
    `step` without arguments, since it clips and writes low-precision copies itself.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        coefficient: Tensor | None = None,
        low_precision: Sequence[Tensor] | None = None,
    ) -> None:
        """Update every parameter that has a gradient.

        coefficient: factor of the gradients, () fp32 on the device; None is 1. NaN: nothing but
        the counters of steps changes.
        low_precision: the bf16 or fp16 copy of each parameter, in the order of the groups, which is
        written too; a parameter without a gradient takes the gradient of its copy.
        """
        pairs = [(group, p) for group in self.param_groups for p in group["params"]]
        copies = [None] * len(pairs) if low_precision is None else low_precision
        for (group, parameter), copy in zip(pairs, copies, strict=True):
            grad = parameter.grad
            if grad is None and copy is not None:
                grad = copy.grad
            if grad is not None:
                self._update(group, parameter, grad, copy, coefficient)

    def _update(
        self,
        group: dict[str, Any],
        parameter: Tensor,
        grad: Tensor,
        copy: Tensor | None,
        coefficient: Tensor | None,
    ) -> None:
        _check(parameter, grad, copy)
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        assert state["step"].device.type == "cpu", "reading it would wait for the device"
        state["step"] += 1
        factors = _factors(group, state["step"].item())
        moments = state["exp_avg"], state["exp_avg_sq"]
        _adamw_(grad.contiguous(), parameter, *moments, copy, coefficient, factors)


def _factors(group: dict[str, Any], step: float) -> list[float]:
    """The scalars of the kernel, computed in fp64."""
    lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
    decay, step_size = 1 - lr * group["weight_decay"], lr / (1 - beta1**step)
    return [decay, 1 - beta1, beta2, 1 - beta2, step_size, (1 - beta2**step) ** 0.5, eps]


def _check(parameter: Tensor, grad: Tensor, copy: Tensor | None) -> None:
    if parameter.dtype != torch.float32 or not parameter.is_contiguous():
        raise ValueError(
            f"a parameter is {parameter.dtype} with strides {parameter.stride()} for "
            f"{tuple(parameter.shape)}, expected fp32 and contiguous"
        )
    if grad.shape != parameter.shape:
        raise ValueError(f"a gradient is {tuple(grad.shape)}, expected {tuple(parameter.shape)}")
    if copy is not None and (copy.shape != parameter.shape or not copy.is_contiguous()):
        raise ValueError(
            f"a copy is {tuple(copy.shape)} with strides {copy.stride()}, expected "
            f"{tuple(parameter.shape)} and contiguous"
        )
