"""Cross-entropy per token over the used columns of padded logits, and its gradient in their place.

    loss[n]      = logsumexp(logits[n, :num_classes]) - logits[n, labels[n]]
    dlogits[n,v] = scale * (softmax(logits[n, :num_classes])[v] - (v == labels[n]))

logits are (N, V) with V >= num_classes: the vocabulary's width is padded for faster products and
loads. The padding, columns num_classes and above, takes no part, so its gradient is exactly zero.
Everything is computed in fp32, and dlogits are rounded once. scale is read from the device, without
a wait.

With the gradient a kernel moves 2 V values and 12 bytes per token, 8,204 bytes in bf16 at V = 2048:
a row of up to 8,192 columns stays in registers between its one read and its one write. A longer one
is read twice, 3 V values; a program of 1,024 threads then has a multiprocessor to itself, so that
the rows in flight (132 of 257 KB at V = 128,256, 34 MB) are still in Hopper's 50 MB of L2. The
losses alone take one read. The logits of ignored tokens are not read.
"""

from typing import Any

import torch
import triton
import triton.language as tl

IGNORE_INDEX = -100
HALF_OR_FP32 = (torch.bfloat16, torch.float16, torch.float32)
MAX_HELD = 8192  # columns of the longest row in registers, 32 a thread


@triton.jit
def _load(row_ptr, cols, counts, NUM_CLASSES: tl.constexpr, NUM_READ: tl.constexpr):
    x = tl.load(row_ptr + cols, mask=(cols < NUM_READ) & counts, other=0.0).to(tl.float32)
    return tl.where(cols < NUM_CLASSES, x, -float("inf"))


@triton.jit
def _sum_others(cols, x, label, largest):
    """Sum exp(x - largest) over all but the label."""
    return tl.sum(tl.where(cols == label, 0.0, tl.exp(x - largest)), 0)


@triton.jit
def _store_loss(losses_ptr, label, counts, largest, total, target, NUM_CLASSES: tl.constexpr):
    valid = (label >= 0) & (label < NUM_CLASSES)
    loss = tl.where(valid, largest - target + tl.log(total), float("nan"))
    tl.store(losses_ptr, tl.where(counts, loss, 0.0))


@triton.jit
def _store_dlogits(
    row_ptr, cols, x, label, largest, others, factor, NUM_CLASSES: tl.constexpr, V: tl.constexpr
):
    """Write dlogits; factor is scale over the row's sum.

    The label's dlogit is minus the share of the others: softmax - 1 would lose its digits where it
    is small.
    """
    dlogits = tl.where(cols == label, -others, tl.exp(x - largest)) * factor
    dlogits = tl.where(cols < NUM_CLASSES, dlogits, 0.0)
    tl.store(row_ptr + cols, dlogits.to(row_ptr.dtype.element_ty), mask=cols < V)


@triton.jit
def _cross_entropy_held_kernel(
    logits_ptr,
    labels_ptr,
    losses_ptr,
    scale_ptr,  # None: write losses alone and leave the logits
    NUM_CLASSES: tl.constexpr,
    NUM_READ: tl.constexpr,
    V: tl.constexpr,
    IGNORE: tl.constexpr,
    BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
):
    """One row per program, in registers as a block and a narrower tail."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    counts = label != IGNORE
    logits_ptr += row * V

    cols = tl.arange(0, BLOCK)
    x = _load(logits_ptr, cols, counts, NUM_CLASSES, NUM_READ)
    largest = tl.max(x, 0)
    if TAIL:
        tail_cols = BLOCK + tl.arange(0, TAIL)
        tail = _load(logits_ptr, tail_cols, counts, NUM_CLASSES, NUM_READ)
        largest = tl.maximum(largest, tl.max(tail, 0))
    others = _sum_others(cols, x, label, largest)
    target = tl.sum(tl.where(cols == label, x, 0.0), 0)
    if TAIL:
        others += _sum_others(tail_cols, tail, label, largest)
        target += tl.sum(tl.where(tail_cols == label, tail, 0.0), 0)
    total = others + tl.exp(target - largest)
    _store_loss(losses_ptr + row, label, counts, largest, total, target, NUM_CLASSES)

    if scale_ptr is not None:
        factor = tl.where(counts, tl.load(scale_ptr) / total, 0.0)
        _store_dlogits(logits_ptr, cols, x, label, largest, others, factor, NUM_CLASSES, V)
        if TAIL:
            _store_dlogits(
                logits_ptr, tail_cols, tail, label, largest, others, factor, NUM_CLASSES, V
            )


@triton.jit
def _add_to_sum(cols, x, label, largest, others):
    """Add the values x to others, the sum of exp(value - largest) over all but the label."""
    larger = tl.maximum(largest, tl.max(x, 0))
    return larger, others * tl.exp(largest - larger) + _sum_others(cols, x, label, larger)


@triton.jit
def _cross_entropy_long_kernel(
    logits_ptr,
    labels_ptr,
    losses_ptr,
    scale_ptr,  # None: write losses alone and leave the logits
    NUM_CLASSES: tl.constexpr,
    NUM_READ: tl.constexpr,
    V: tl.constexpr,
    IGNORE: tl.constexpr,
    BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
):
    """One row per program, read by blocks for the sum and once more for the gradient."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    counts = label != IGNORE
    logits_ptr += row * V
    # Read it before the barriers of the sums: after them other threads overwrite the logits.
    valid = (label >= 0) & (label < NUM_CLASSES)
    target = tl.load(logits_ptr + label, mask=valid, other=0.0).to(tl.float32)

    largest = target
    others = 0.0
    for start in range(0, V // BLOCK * BLOCK, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        x = _load(logits_ptr, cols, counts, NUM_CLASSES, NUM_READ)
        largest, others = _add_to_sum(cols, x, label, largest, others)
    if TAIL:
        tail_cols = V // BLOCK * BLOCK + tl.arange(0, TAIL)
        tail = _load(logits_ptr, tail_cols, counts, NUM_CLASSES, NUM_READ)
        largest, others = _add_to_sum(tail_cols, tail, label, largest, others)
    total = others + tl.exp(target - largest)
    _store_loss(losses_ptr + row, label, counts, largest, total, target, NUM_CLASSES)

    if scale_ptr is not None:
        factor = tl.where(counts, tl.load(scale_ptr) / total, 0.0)
        for start in range(0, V // BLOCK * BLOCK, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            x = _load(logits_ptr, cols, counts, NUM_CLASSES, NUM_READ)
            _store_dlogits(logits_ptr, cols, x, label, largest, others, factor, NUM_CLASSES, V)
        if TAIL:
            tail = _load(logits_ptr, tail_cols, counts, NUM_CLASSES, NUM_READ)
            _store_dlogits(
                logits_ptr, tail_cols, tail, label, largest, others, factor, NUM_CLASSES, V
            )


def kernel_for(num_classes: int, V: int) -> tuple[Any, dict[str, int]]:
    """Return the kernel for rows of V columns, with its constants and warps.

    A row is cut into blocks of a power of two and a last, narrower one: of one block of 4096 for
    2176 columns half would idle. The padding is read only up to the next multiple of 16 columns.
    """
    held = V <= MAX_HELD
    block = min(16384, 1 << (V.bit_length() - 1))
    rest = V % block
    constants = {
        "NUM_CLASSES": num_classes,
        "NUM_READ": min(V, -(-num_classes // 16) * 16),
        "V": V,
        "IGNORE": IGNORE_INDEX,
        "BLOCK": block,
        "TAIL": 1 << (rest - 1).bit_length() if rest else 0,
        "num_warps": max(1, block // 512),
    }
    return _cross_entropy_held_kernel if held else _cross_entropy_long_kernel, constants


def cross_entropy_(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    losses: torch.Tensor,
    scale: torch.Tensor | None = None,
) -> None:
    """Write each token's loss in nats and, given a scale, dlogits over the logits.

    logits: (N, V) in bf16, fp16 or fp32; labels: (N,) int64; losses: (N,) fp32; scale: one fp32
    value; all contiguous. Where a label is IGNORE_INDEX, the loss and dlogits are 0; where it is no
    class, the loss is NaN.
    """
    N, V = logits.shape
    if N:
        kernel, constants = kernel_for(num_classes, V)
        kernel[(N,)](logits, labels, losses, scale, **constants)
