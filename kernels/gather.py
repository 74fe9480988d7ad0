"""Gather the rows of a batch, with their labels, out of a pool of tokens in device memory.

    place(b, t)    = b * (T + 1) + t                      of a token in the batch, 0 <= t <= T
    copy(p)        = the last copy that starts at or before p
    token(p)       = pool[source + p - start], or -1 - source where source < 0, of copy(p)
    tokens[b, t]   = token(place(b, t)), labels[b, t] = token(place(b, t + 1))

The packer (csrc/packer.hpp) lists the copies, which cover the B * (T + 1) tokens in order. A
negative source stands for the special token -1 - source, repeated to fill the copy. A label is
IGNORE_INDEX in columns num_valid[b] and above, in copies that are ignored and, where documents are
masked, at the first token of a document. All values are integers, so a batch has the same bits on
every device. On a GPU one Triton launch gathers it, elsewhere PyTorch.

A copy is two int64: its source, and start + language * 2^32 + begins * 2^40 + ignored * 2^41, where
begins is 1 if its first token begins a document, and ignored is 1 if its tokens are no targets. The
kernel writes 17 bytes per token and reads 2 or 4 of the pool, and 16 per copy. Every token finds
its copy by binary search in the list, which stays in the cache.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from tresse.kernels.cross_entropy import IGNORE_INDEX

BLOCK = 256
POOL_DTYPES = (torch.uint16, torch.uint32)


@triton.jit
def _start(word):
    return word & 0xFFFFFFFF


@triton.jit
def _find(copies_ptr, place, inside, num_copies, top):
    """Find the last copy that starts at or before each place, by binary search.

    top: the largest power of two that is at most num_copies.
    """
    copy = tl.zeros_like(place)
    step = top
    while step > 0:
        probe = copy + step
        word = tl.load(
            copies_ptr + (2 * probe + 1), mask=inside & (probe < num_copies), other=0xFFFFFFFF
        )
        copy = tl.where(_start(word) <= place, probe, copy)
        step = step // 2
    return copy


@triton.jit
def _token(pool_ptr, copies_ptr, copy, place, inside):
    """Read the token at each place, and the second word of its copy."""
    source = tl.load(copies_ptr + 2 * copy, mask=inside, other=-1)
    word = tl.load(copies_ptr + (2 * copy + 1), mask=inside, other=0)
    offset = source + (place - _start(word))
    token = tl.load(pool_ptr + offset, mask=inside & (source >= 0), other=0).to(tl.int64)
    return tl.where(source < 0, -1 - source, token), word


@triton.jit(do_not_specialize=["num_copies", "top"])  # new in every batch; 1 would be a constant
def _gather_kernel(
    pool_ptr,
    copies_ptr,
    num_valid_ptr,
    tokens_ptr,
    labels_ptr,
    languages_ptr,
    num_copies,
    top,
    T: tl.constexpr,
    MASK_DOCUMENTS: tl.constexpr,
    IGNORE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK columns of one row per program."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < T
    place = row * (T + 1) + cols
    copy = _find(copies_ptr, place, inside, num_copies, top)
    token, _ = _token(pool_ptr, copies_ptr, copy, place, inside)

    # The label is the next token: of the same copy, or the first one of the next.
    place += 1
    after = tl.load(
        copies_ptr + (2 * copy + 3), mask=inside & (copy + 1 < num_copies), other=0xFFFFFFFF
    )
    copy = tl.where(_start(after) <= place, copy + 1, copy)
    label, word = _token(pool_ptr, copies_ptr, copy, place, inside)
    counts = (cols < tl.load(num_valid_ptr + row)) & (word >> 41 & 1 == 0)
    if MASK_DOCUMENTS:
        begins = (word >> 40 & 1 != 0) & (_start(word) == place)
        counts = counts & (begins == 0)

    out = row * T + cols
    tl.store(tokens_ptr + out, token, mask=inside)
    tl.store(labels_ptr + out, tl.where(counts, label, IGNORE), mask=inside)
    tl.store(languages_ptr + out, (word >> 32 & 0xFF).to(tl.uint8), mask=inside)


def launch_options(T: int, mask_documents: bool) -> dict[str, Any]:
    """Constants of the kernel; two tokens a thread are 16 bytes."""
    constants = {"T": T, "MASK_DOCUMENTS": mask_documents, "IGNORE": IGNORE_INDEX}
    return {**constants, "BLOCK": BLOCK, "num_warps": BLOCK // 64}


Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@torch.library.custom_op("tresse::gather_rows", mutates_args=())
def _gather(
    pool: torch.Tensor,
    copies: torch.Tensor,
    num_valid: torch.Tensor,
    T: int,
    mask_documents: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    B, num_copies = len(num_valid), len(copies)
    outputs = _empty_rows(copies, B, T)
    if B:
        top = 1 << (num_copies.bit_length() - 1)
        options = launch_options(T, mask_documents)
        grid = B, triton.cdiv(T, BLOCK)
        _gather_kernel[grid](pool, copies, num_valid, *outputs, num_copies, top, **options)
    return outputs


@_gather.register_fake
def _(pool, copies, num_valid, T, mask_documents):  # noqa: ARG001
    return _empty_rows(copies, len(num_valid), T)


def _empty_rows(copies: torch.Tensor, B: int, T: int) -> Three:
    tokens = copies.new_empty(B, T)
    return tokens, torch.empty_like(tokens), copies.new_empty(B, T, dtype=torch.uint8)


def gather_rows(
    pool: torch.Tensor,
    copies: torch.Tensor,
    num_valid: torch.Tensor,
    T: int,
    mask_documents: bool,
) -> Three:
    """Return tokens and labels, (B, T) int64, and the language of each label, (B, T) uint8.

    pool: (size,) uint16 or uint32; copies: (C, 2) int64; num_valid: (B,) int32. Raises ValueError
    for another dtype or shape. Sources are not checked: a copy beyond the pool reads other memory.
    """
    _check(pool, copies, num_valid)
    function = gather_rows_triton if pool.is_cuda else gather_rows_reference
    return function(pool, copies, num_valid, T, mask_documents)


def gather_rows_triton(
    pool: torch.Tensor,
    copies: torch.Tensor,
    num_valid: torch.Tensor,
    T: int,
    mask_documents: bool,
) -> Three:
    """`gather_rows` by the kernel."""
    contiguous = pool.contiguous(), copies.contiguous(), num_valid.contiguous()
    return _gather(*contiguous, T, mask_documents)


def gather_rows_reference(
    pool: torch.Tensor,
    copies: torch.Tensor,
    num_valid: torch.Tensor,
    T: int,
    mask_documents: bool,
) -> Three:
    """`gather_rows` in plain PyTorch."""
    B, (sources, words) = len(num_valid), copies.unbind(1)
    starts = words & 0xFFFFFFFF
    places = torch.arange(B * (T + 1), device=pool.device)
    copy = torch.searchsorted(starts, places, right=True) - 1
    source, start = sources[copy], starts[copy]
    read = pool[torch.where(source < 0, 0, source + places - start)].long()
    tokens = torch.where(source < 0, -1 - source, read).view(B, T + 1)
    counts = torch.arange(T, device=pool.device) < num_valid[:, None]
    counts = counts & (words[copy] >> 41 & 1 == 0).view(B, T + 1)[:, 1:]
    if mask_documents:
        begins = (words[copy] >> 40 & 1 != 0) & (start == places)
        counts &= ~begins.view(B, T + 1)[:, 1:]
    languages = (words[copy] >> 32 & 0xFF).to(torch.uint8).view(B, T + 1)
    labels = torch.where(counts, tokens[:, 1:], IGNORE_INDEX)
    return tokens[:, :-1].contiguous(), labels, languages[:, 1:].contiguous()


def _check(pool: torch.Tensor, copies: torch.Tensor, num_valid: torch.Tensor) -> None:
    dtypes = pool.dtype, copies.dtype, num_valid.dtype
    if pool.dtype not in POOL_DTYPES or dtypes[1:] != (torch.int64, torch.int32):
        raise ValueError(
            f"pool, copies and num_valid are {', '.join(map(str, dtypes))}, expected uint16 or "
            "uint32, int64, int32"
        )
    shapes = tuple(pool.shape), tuple(copies.shape), tuple(num_valid.shape)
    if [len(shape) for shape in shapes] != [1, 2, 1] or copies.shape[1] != 2 or not len(copies):
        raise ValueError(
            f"pool, copies and num_valid are {', '.join(map(str, shapes))}, expected (size,), "
            "(C, 2) with one copy or more, (B,)"
        )
