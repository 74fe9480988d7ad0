"""Cross-entropy per token over the used columns of padded logits.

    loss[n]      = logsumexp(logits[n, :num_classes]) - logits[n, labels[n]]
    dlogits[n,v] = grad[n] * (softmax(logits[n, :num_classes])[v] - (v == labels[n]))

logits are (..., V) with V >= num_classes: the vocabulary's width is padded for the sake of matmul
and loads, and the columns from num_classes on take no part, so their gradient is exactly zero.
Computed in fp32, dlogits rounded once. On a GPU a Triton kernel does it, elsewhere PyTorch.

The kernels move 3 V values and 40 bytes per token, 12,328 bytes in bf16 at V = 2048: the forward
reads the logits, the backward reads them and writes dlogits, with the softmax made again from each
row's saved maximum and sum. A forward that also wrote softmax minus one-hot would move 4 V values,
once a gradient per token has scaled them, and round twice. Of ignored rows no logits are read.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

IGNORE_INDEX = -100
HALF_OR_FP32 = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _add_to_sum(x, largest, total):
    """Take the values x into total, the sum of exp(value - largest)."""
    larger = tl.maximum(largest, tl.max(x, 0))
    return larger, total * tl.exp(largest - larger) + tl.sum(tl.exp(x - larger), 0)


@triton.jit
def _load(row_ptr, cols, counts, NUM_CLASSES: tl.constexpr, NUM_READ: tl.constexpr):
    x = tl.load(row_ptr + cols, mask=(cols < NUM_READ) & counts, other=0.0).to(tl.float32)
    return tl.where(cols < NUM_CLASSES, x, -float("inf"))


@triton.jit
def _forward_kernel(
    logits_ptr,
    labels_ptr,
    losses_ptr,
    largest_ptr,
    total_ptr,
    NUM_CLASSES: tl.constexpr,
    NUM_READ: tl.constexpr,
    V: tl.constexpr,
    IGNORE: tl.constexpr,
    BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
):
    """One row per program: loss, largest logit and sum of exp(logit - largest).

    An ignored row has loss 0 and is not read; a label that is no class has loss NaN.
    """
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    counts = label != IGNORE
    logits_ptr += row * V

    largest = -float("inf")
    total = 0.0
    for start in range(0, NUM_READ // BLOCK * BLOCK, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        x = _load(logits_ptr, cols, counts, NUM_CLASSES, NUM_READ)
        largest, total = _add_to_sum(x, largest, total)
    if TAIL:
        cols = NUM_READ // BLOCK * BLOCK + tl.arange(0, TAIL)
        x = _load(logits_ptr, cols, counts, NUM_CLASSES, NUM_READ)
        largest, total = _add_to_sum(x, largest, total)

    valid = (label >= 0) & (label < NUM_CLASSES)
    target = tl.load(logits_ptr + label, mask=valid, other=float("nan")).to(tl.float32)
    tl.store(losses_ptr + row, tl.where(counts, largest - target + tl.log(total), 0.0))
    tl.store(largest_ptr + row, largest)
    tl.store(total_ptr + row, total)


@triton.jit
def _store_dlogits(
    logits_ptr,
    dlogits_ptr,
    cols,
    label,
    counts,
    largest,
    scale,
    grad,
    NUM_CLASSES: tl.constexpr,
    V: tl.constexpr,
):
    x = tl.load(logits_ptr + cols, mask=(cols < V) & counts, other=0.0).to(tl.float32)
    dlogits = tl.exp(x - largest) * scale - tl.where(cols == label, grad, 0.0)
    dlogits = tl.where(cols < NUM_CLASSES, dlogits, 0.0)
    tl.store(dlogits_ptr + cols, dlogits.to(dlogits_ptr.dtype.element_ty), mask=cols < V)


@triton.jit
def _backward_kernel(
    logits_ptr,
    labels_ptr,
    largest_ptr,
    total_ptr,
    grad_losses_ptr,
    dlogits_ptr,
    NUM_CLASSES: tl.constexpr,
    V: tl.constexpr,
    IGNORE: tl.constexpr,
    BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
):
    """One row per program: dlogits, 0 in padded columns and ignored rows."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    counts = label != IGNORE
    largest = tl.load(largest_ptr + row, mask=counts, other=0.0)
    grad = tl.load(grad_losses_ptr + row, mask=counts, other=0.0)
    scale = grad / tl.load(total_ptr + row, mask=counts, other=1.0)
    logits_ptr += row * V
    dlogits_ptr += row * V

    for start in range(0, V // BLOCK * BLOCK, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        _store_dlogits(
            logits_ptr, dlogits_ptr, cols, label, counts, largest, scale, grad, NUM_CLASSES, V
        )
    if TAIL:
        cols = V // BLOCK * BLOCK + tl.arange(0, TAIL)
        _store_dlogits(
            logits_ptr, dlogits_ptr, cols, label, counts, largest, scale, grad, NUM_CLASSES, V
        )


def forward_options(num_classes: int, V: int) -> dict[str, int]:
    """Constexprs and warps of the forward, which leaves out the padding but for whole vectors."""
    num_read = min(V, -(-num_classes // 16) * 16)
    return {"NUM_CLASSES": num_classes, "NUM_READ": num_read, "V": V, **_blocks(num_read)}


def backward_options(num_classes: int, V: int) -> dict[str, int]:
    """Constexprs and warps of the backward."""
    return {"NUM_CLASSES": num_classes, "V": V, **_blocks(V)}


def _blocks(num_columns: int) -> dict[str, int]:
    """Blocks of up to 2048 columns and a last, narrower one: 4096 lanes for 2176 would idle."""
    block = min(2048, 1 << (num_columns.bit_length() - 1))
    rest = num_columns % block
    tail = 1 << (rest - 1).bit_length() if rest else 0
    num_warps = max(1, block // 512)
    return {"BLOCK": block, "TAIL": tail, "IGNORE": IGNORE_INDEX, "num_warps": num_warps}


@torch.library.custom_op("tresse::cross_entropy", mutates_args=())
def _forward(
    logits: torch.Tensor, labels: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, V), (N,) int64 -> losses, largest logits, sums of exp(logit - largest): (N,) fp32."""
    N, V = logits.shape
    losses, largest, total = (torch.empty_like(labels, dtype=torch.float32) for _ in range(3))
    if N:
        options: dict[str, Any] = forward_options(num_classes, V)
        _forward_kernel[(N,)](logits, labels, losses, largest, total, **options)
    return losses, largest, total


@_forward.register_fake
def _(logits: torch.Tensor, labels: torch.Tensor, num_classes: int):  # noqa: ARG001
    losses, largest, total = (torch.empty_like(labels, dtype=torch.float32) for _ in range(3))
    return losses, largest, total


@torch.library.custom_op("tresse::cross_entropy_backward", mutates_args=())
def _backward(
    logits: torch.Tensor,
    labels: torch.Tensor,
    largest: torch.Tensor,
    total: torch.Tensor,
    grad_losses: torch.Tensor,
    num_classes: int,
) -> torch.Tensor:
    """dlogits, (N, V) like logits; grad_losses, and `_forward`'s largest and total: (N,) fp32."""
    N, V = logits.shape
    dlogits = torch.empty_like(logits)
    if N:
        options: dict[str, Any] = backward_options(num_classes, V)
        _backward_kernel[(N,)](logits, labels, largest, total, grad_losses, dlogits, **options)
    return dlogits


@_backward.register_fake
def _(logits, labels, largest, total, grad_losses, num_classes):  # noqa: ARG001
    return torch.empty_like(logits)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    logits, labels, ctx.num_classes = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(logits, labels, *output[1:])


def _differentiate(ctx: Any, grad_losses: torch.Tensor, *_: torch.Tensor):
    dlogits = _backward(*ctx.saved_tensors, grad_losses.contiguous(), ctx.num_classes)
    return dlogits, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Loss of each token in nats, (...) fp32; where a label is IGNORE_INDEX, 0 with gradient 0.

    logits: (..., V); labels: (...) int64, each in [0, num_classes) or IGNORE_INDEX.
    """
    function = cross_entropy_triton if logits.is_cuda else cross_entropy_reference
    return function(logits, labels, num_classes)


def cross_entropy_triton(
    logits: torch.Tensor, labels: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """`cross_entropy` by the kernels, for bf16, fp16 and fp32; an invalid label's loss is NaN.

    Raises ValueError for another dtype and for sizes that do not fit together.
    """
    V = logits.shape[-1]
    if logits.dtype not in HALF_OR_FP32 or labels.dtype != torch.int64:
        raise ValueError(
            f"logits are {logits.dtype} and labels {labels.dtype}, expected bf16, fp16 or fp32 "
            "and int64: cast them"
        )
    if logits.shape[:-1] != labels.shape or not 0 < num_classes <= V:
        raise ValueError(
            f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}, {num_classes=}: expected "
            "(..., V), (...) and 1 to V classes"
        )
    flat = logits.reshape(-1, V).contiguous(), labels.reshape(-1).contiguous()
    return _forward(*flat, num_classes)[0].view(labels.shape)


def cross_entropy_reference(
    logits: torch.Tensor, labels: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """`cross_entropy` in plain PyTorch, in fp64 if the logits are."""
    used = logits[..., :num_classes].flatten(0, -2)
    used = used.to(torch.promote_types(used.dtype, torch.float32))
    losses = F.cross_entropy(used, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
    return losses.view(labels.shape)
