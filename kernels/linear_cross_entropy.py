"""The head and its cross-entropy in one: loss and gradients, with the logits of a chunk at a time.

    logits  = hidden @ weight.T                        (N, D) times (V, D), in their dtype
    losses  = cross-entropy of each row, fp32          kernels/cross_entropy.py
    loss    = scale * sum(losses)
    dhidden = dlogits @ weight        dweight = dlogits.T @ hidden, summed in fp32, rounded once

On a GPU the forward takes a chunk of rows at a time: a matmul gives its logits, a Triton kernel the
losses and, in the memory of the logits, dlogits, and two matmuls its dhidden and its part of
dweight. The backward only multiplies by the gradient of the loss; in training that is 1, and
nothing is moved. Elsewhere PyTorch computes the same from whole logits.

In values per token, the matmuls write V logits and read 2 V, as without chunks; the kernel moves
2 V, where separate kernels for the forward and the backward move 3 V. A chunk adds 12 D V bytes:
the sum of dweight is read and written in fp32, and the weight is read twice. At N = 153,600, D =
2048, in bf16:

                V = 2048, 38 chunks                V = 128,256, 38 chunks
    moved       3.1 GB + 1.9 GB, whole: 3.8 GB     236 GB + 120 GB, whole: 236 GB
    held        34 MB, whole: 1,258 MB             2.1 GB, whole: 79 GB

Chunks save memory, not traffic. "moved" is without chunks plus what they add. "held" is the fp32
sum, 4 D V bytes, and one chunk, besides hidden, weight and their gradients; "whole" is the logits
and dlogits of all rows. At V = 2048 a chunk and the sum, 34 MB, fit into Hopper's 50 MB of L2, so
that much of the traffic stays there; the kernel reads a row of 128,256 logits twice. No time has
been measured.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch.torch_version import TorchVersion

from tresse.kernels.cross_entropy import HALF_OR_FP32, IGNORE_INDEX, cross_entropy_

# Rows of a wave of matmul tiles: at V = D = 2048, 128 tiles of 128 x 256 for 132 multiprocessors.
WAVE = 2048
TILE = 128
MAX_CHUNK_BYTES = 2**30
# Older versions require the factors' dtype for the sum (pytorch/pytorch#167931).
ADDMM_WIDENS = TorchVersion(torch.__version__) >= "2.10"
SCALE_OPTIONS: dict[str, Any] = {"BLOCK": 4096, "num_warps": 8}
MAX_SCALE_PROGRAMS = 1024


def rows_per_chunk(N: int, row_bytes: int) -> int:
    """Return the rows of a chunk: N / 32 in whole waves, at least one wave, at most 1 GiB.

    row_bytes: size of the logits of one row. Where 1 GiB is less than a wave, the rows are whole
    tiles, at least one.
    """
    waves = max(N // 32 // WAVE, 1) * WAVE
    return max(min(waves, MAX_CHUNK_BYTES // row_bytes // TILE * TILE), TILE)


def working_bytes(N: int, D: int, V: int, itemsize: int) -> int:
    """Return the memory that loss and gradients need beside hidden and weight, at their peak.

    The logits of a chunk, dhidden, the sum of dweight and, unless that is fp32 too, dweight, in the
    place of which older versions of torch hold a chunk's part of the sum.
    """
    logits = min(N, rows_per_chunk(N, V * itemsize)) * V * itemsize
    rounded = (itemsize if ADDMM_WIDENS else 4) if itemsize < 4 else 0
    return logits + N * D * itemsize + (4 + rounded) * D * V


@triton.jit
def _scale_kernel(x_ptr, factor_ptr, numel, BLOCK: tl.constexpr):
    """Multiply x by factor in place, every num_programs-th block per program; do nothing for 1."""
    factor = tl.load(factor_ptr).to(tl.float32)
    if factor != 1.0:
        first = tl.program_id(0).to(tl.int64) * BLOCK
        for start in range(first, numel, tl.num_programs(0) * BLOCK):
            inside = start + tl.arange(0, BLOCK) < numel
            ptrs = x_ptr + start + tl.arange(0, BLOCK)
            x = tl.load(ptrs, mask=inside, other=0.0).to(tl.float32)
            tl.store(ptrs, (x * factor).to(x_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("tresse::scale_", mutates_args={"x"})
def _scale_(x: torch.Tensor, factor: torch.Tensor) -> None:
    """Multiply x, contiguous, by factor, () in any dtype; leave x untouched where that is 1."""
    num_programs = min(MAX_SCALE_PROGRAMS, triton.cdiv(x.numel(), SCALE_OPTIONS["BLOCK"]))
    if num_programs:
        _scale_kernel[(num_programs,)](x, factor, x.numel(), **SCALE_OPTIONS)


def _add_product_(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add a @ b to total, in its dtype, fp32."""
    if total.device.type == "cpu" or a.dtype == total.dtype:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))
    elif ADDMM_WIDENS:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += torch.mm(a, b, out_dtype=total.dtype)


def _chunks(hidden: torch.Tensor, weight: torch.Tensor):
    """Yield slices of the rows, each with memory for its logits, which all of them share."""
    N, V = hidden.shape[0], weight.shape[0]
    num_rows = min(N, rows_per_chunk(N, V * weight.itemsize))
    logits = hidden.new_empty(num_rows, V)
    for start in range(0, N, max(num_rows, 1)):
        rows = slice(start, min(start + num_rows, N))
        yield rows, logits[: rows.stop - start]


def _losses(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """(N, D), (V, D), (N,) int64 -> (N,) fp32."""
    losses = torch.empty_like(labels, dtype=torch.float32)
    for rows, logits in _chunks(hidden, weight):
        torch.mm(hidden[rows], weight.T, out=logits)
        cross_entropy_(logits, labels[rows], num_classes, losses[rows])
    return losses


def _losses_and_gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    scale: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, D), (V, D), (N,) int64, () fp32 -> loss (), losses (N,), both fp32, dhidden, dweight."""
    losses = torch.empty_like(labels, dtype=torch.float32)
    dhidden = torch.empty_like(hidden)
    dweight = torch.zeros_like(weight, dtype=torch.float32)
    for rows, dlogits in _chunks(hidden, weight):
        torch.mm(hidden[rows], weight.T, out=dlogits)
        cross_entropy_(dlogits, labels[rows], num_classes, losses[rows], scale)
        torch.mm(dlogits, weight, out=dhidden[rows])
        _add_product_(dweight, dlogits.T, hidden[rows])
    return losses.sum() * scale, losses, dhidden, dweight.to(weight.dtype)


_losses_op = torch.library.custom_op("tresse::linear_losses", _losses, mutates_args=())
_gradients_op = torch.library.custom_op(
    "tresse::linear_cross_entropy", _losses_and_gradients, mutates_args=()
)


@_losses_op.register_fake
def _(hidden, weight, labels, num_classes):  # noqa: ARG001
    return torch.empty_like(labels, dtype=torch.float32)


@_gradients_op.register_fake
def _(hidden, weight, labels, num_classes, scale):  # noqa: ARG001
    losses = torch.empty_like(labels, dtype=torch.float32)
    return torch.empty_like(scale), losses, torch.empty_like(hidden), torch.empty_like(weight)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, num_classes, scale):
        loss, losses, *gradients = _gradients_op(hidden, weight, labels, num_classes, scale)
        ctx.mark_non_differentiable(losses)
        ctx.save_for_backward(*gradients)
        return loss, losses

    @staticmethod
    def backward(ctx, *grad_outputs):
        """Scale the forward's gradients in place; autograd refuses a second backward."""
        gradients = ctx.saved_tensors
        for gradient in gradients:
            _scale_(gradient, grad_outputs[0])
        return *gradients, None, None, None


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    scale: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss, scale times the sum of all losses, and each token's loss in nats, fp32.

    hidden: (N, D); weight: (V, D), whose first num_classes rows are classes; labels: (N,) int64,
    each a class, or IGNORE_INDEX for a loss of 0; scale: () fp32. The loss can be differentiated
    once, by hidden and weight; the losses (N,) and scale have no gradient.
    """
    function = linear_cross_entropy_triton if hidden.is_cuda else linear_cross_entropy_reference
    return function(hidden, weight, labels, num_classes, scale)


def linear_cross_entropy_triton(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    scale: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`linear_cross_entropy` by chunks, for bf16, fp16 and fp32.

    The loss of a label that is no class is NaN. Raises ValueError for another dtype and for sizes
    that do not fit together.
    """
    _check(hidden, weight, labels, num_classes, scale)
    hidden, weight, labels = hidden.contiguous(), weight.contiguous(), labels.contiguous()
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(hidden, weight, labels, num_classes, scale)
    losses = _losses_op(hidden, weight, labels, num_classes)
    return losses.sum() * scale, losses


def _check(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    scale: torch.Tensor,
) -> None:
    found = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in (hidden, weight, labels, scale))
    if hidden.dtype not in HALF_OR_FP32 or hidden.dtype != weight.dtype:
        raise ValueError(f"{found}: expected hidden and weight both bf16, fp16 or fp32")
    if labels.dtype != torch.int64 or scale.dtype != torch.float32 or scale.ndim:
        raise ValueError(f"{found}: expected int64 labels and a scale () in fp32")
    fits = hidden.shape[:1] == labels.shape and hidden.shape[1:] == weight.shape[1:]
    if hidden.ndim != 2 or not fits or not 0 < num_classes <= weight.shape[0]:
        raise ValueError(
            f"{found}, {num_classes=}: expected (N, D), (V, D), (N,), () and 1 to V classes"
        )


def linear_cross_entropy_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    scale: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`linear_cross_entropy` in plain PyTorch, in fp64 if hidden and weight are."""
    logits = F.linear(hidden, weight)[:, :num_classes]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
    return losses.sum() * scale, losses.detach()
