"""All tokens of a corpus in device memory, for rows that are put together there."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tresse.data.corpus import Corpus

SLICE_TOKENS = 1 << 24


def upload_pool(corpus: Corpus, device: torch.device, *, show_progress: bool = False) -> Tensor:
    """Copy the tokens to the device: (size,) uint16 or uint32, in the order that `Copies` names.

    Raises ValueError if the device has not that much memory free.
    """
    shards = [shard.tokens for name in corpus.languages for shard in corpus.shards[name]]
    size, dtype = sum(tokens.size for tokens in shards), shards[0].dtype
    _check_fits(size, dtype.itemsize, device)
    pool = torch.empty(size, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=device)
    # Shards are mapped read-only, which torch warns of; and page-locked memory crosses faster.
    pin = device.type == "cuda"
    staging = torch.empty(min(size, SLICE_TOKENS), dtype=pool.dtype, pin_memory=pin)
    total, start = size * dtype.itemsize, 0
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="token pool", disable=not show_progress
    ) as bar:
        for tokens in _slices(shards):
            part = staging[: tokens.size]
            part.numpy()[:] = tokens
            pool[start : start + tokens.size].copy_(part)
            start += tokens.size
            bar.update(tokens.nbytes)
    return pool


def _slices(shards: list[np.ndarray]) -> Iterator[np.ndarray]:
    for tokens in shards:
        for start in range(0, tokens.size, SLICE_TOKENS):
            yield tokens[start : start + SLICE_TOKENS]


def _check_fits(size: int, token_bytes: int, device: torch.device) -> None:
    needed, free = size * token_bytes, _free_bytes(device)
    if free is not None and needed > free:
        raise ValueError(
            f"the {size:,} tokens of the training corpus need {needed:,} bytes of device memory, "
            f"{free:,} are free; pack rows on the host with --data.pack-on host"
        )


def _free_bytes(device: torch.device) -> int | None:
    """Memory of a GPU that nobody has; of a CPU it is not asked."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
