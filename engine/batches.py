"""Packed rows as tensors on the device: inputs, labels and the document mask.

B rows, T tokens in a row. A batch that was packed on the host is copied to the device in the
shards' 16 or 32 bits and widened there. For rows that are packed on the device only the list of
copies is sent; the tokens come from a pool in device memory. Both ways give the same bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tresse.data.packing.packer import Batch, Copies
from tresse.data.packing.sources import Sources
from tresse.data.packing.vocabulary import Vocabulary
from tresse.kernels.cross_entropy import IGNORE_INDEX
from tresse.kernels.gather import gather_rows

CUTS = 256  # length of cu_seqlens, rounded up to a multiple of it
SLICE_TOKENS = 1 << 24  # tokens copied to the pool at once


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """A micro-batch in the form that the model takes."""

    tokens: Tensor
    """(B, T) int64."""
    labels: Tensor
    """(B, T) int64: the next tokens; IGNORE_INDEX where there is no target."""
    languages: Tensor
    """(B, T) uint8: the language of each label."""
    cu_seqlens: Tensor | None
    """(num_documents + 1,) int32: offsets of the documents in the flattened tokens, with empty
    documents at the end; None if documents are not masked."""


def to_device(
    batch: Batch | Copies,
    device: torch.device,
    mask_documents: bool,
    pool: Tensor | None = None,
) -> DeviceBatch:
    """Copy a batch to the device, or pack it there from the pool; shift and mask the labels."""
    num_valid = _copy(batch.num_valid, device)
    cu_seqlens = _copy(_padded(batch.cu_seqlens), device) if mask_documents else None
    if isinstance(batch, Copies):
        assert pool is not None
        copies = _copy(batch.copies, device)
        rows = gather_rows(pool, copies, num_valid, batch.row_length, mask_documents)
        return DeviceBatch(*rows, cu_seqlens)
    tokens = _copy(batch.tokens, device).long()
    labels = _labels(tokens, num_valid, cu_seqlens)
    if not batch.span_counted.all():
        labels[~_copy(batch.counted(), device)[:, 1:]] = IGNORE_INDEX
    languages = _copy(batch.language_ids(), device)[:, 1:]
    return DeviceBatch(tokens[:, :-1].contiguous(), labels, languages, cu_seqlens)


def to_host(tensor: Tensor) -> Tensor:
    """Copy a tensor to host memory: from a GPU into page-locked memory, without waiting for it."""
    on_gpu = tensor.is_cuda
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=on_gpu)
    return host.copy_(tensor, non_blocking=on_gpu)


def upload_pool(sources: Sources, device: torch.device, *, show_progress: bool = False) -> Tensor:
    """Copy the ids of all tokens of all corpora to the device, in the order of `Copies`.

    Returns (size,) uint16 or uint32. Raises ValueError if the device has not so much memory free.
    """
    vocabulary = Vocabulary(sources.tokenizers)
    shards = [
        (shard.tokens, vocabulary.first_id(corpus.tokenizer(name)))
        for corpus in sources.corpora
        for name in corpus.languages
        for shard in corpus.shards[name]
    ]
    size = sum(tokens.size for tokens, _ in shards)
    # Tokens of one tokenizer stay as they are; those of several become ids, as wide as the widest.
    joined = len(vocabulary.tokenizers) > 1
    dtype = np.dtype(vocabulary.dtype) if joined else shards[0][0].dtype
    _check_fits(size, dtype.itemsize, device)
    pool = torch.empty(size, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=device)
    # The staging buffer avoids torch's warning about read-only shards; page-locked, it is faster.
    pin = device.type == "cuda"
    staging = torch.empty(min(size, SLICE_TOKENS), dtype=pool.dtype, pin_memory=pin)
    total, start = size * dtype.itemsize, 0
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="token pool", disable=not show_progress
    ) as bar:
        for tokens, first_id in _slices(shards):
            part = staging[: tokens.size]
            part.numpy()[:] = tokens
            if first_id:
                part.numpy()[:] += first_id
            pool[start : start + tokens.size].copy_(part)
            start += tokens.size
            bar.update(part.nbytes)
    return pool


def pinned(shape: Any, dtype: Any) -> np.ndarray:
    """Allocate page-locked memory like `numpy.empty`: its copies to the GPU are asynchronous."""
    torch_dtype = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=torch_dtype, pin_memory=True).numpy()


def _padded(cu_seqlens: np.ndarray) -> np.ndarray:
    """Repeat the last offset up to a multiple of CUTS: every new length compiles another graph."""
    return np.pad(cu_seqlens, (0, -len(cu_seqlens) % CUTS), mode="edge")


def _copy(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy to the device; to a GPU from page-locked memory, since else the host would wait."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _labels(tokens: Tensor, num_valid: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Shift the tokens, (B, T + 1); mask labels past num_valid and labels that start a document."""
    T = tokens.shape[1] - 1
    labels = tokens[:, 1:].clone()
    labels[torch.arange(T, device=tokens.device) >= num_valid[:, None]] = IGNORE_INDEX
    if cu_seqlens is not None:
        cuts = cu_seqlens[1:-1].long()
        within_row = cuts % T != 0  # a cut between rows lies after the last label
        flat = labels.view(-1)
        flat[cuts - 1] = torch.where(within_row, IGNORE_INDEX, flat[cuts - 1])
    return labels


def _slices(shards: list[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
    for tokens, first_id in shards:
        for start in range(0, tokens.size, SLICE_TOKENS):
            yield tokens[start : start + SLICE_TOKENS], first_id


def _check_fits(size: int, token_bytes: int, device: torch.device) -> None:
    needed, free = size * token_bytes, _free_bytes(device)
    if free is not None and needed > free:
        raise ValueError(
            f"the {size:,} tokens of the training corpus need {needed:,} bytes of device memory, "
            f"{free:,} are free; pack rows on the host with --data.pack-on host"
        )


def _free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU in bytes; None on a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
