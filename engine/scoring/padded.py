"""Sequences of unequal length as batches, the same ones for any number of ranks.

What a batch holds is a pure function of the sequences' lengths, so a result that is computed from
it does not depend on how many ranks there were, bit for bit. A causal model never reads the padding
on the right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from tresse.engine.run.ranks import Ranks


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Sequences side by side, on the device."""

    tokens: torch.Tensor
    """(B, T) int64, zeros past the end of a sequence."""
    lengths: torch.Tensor
    """(B,) int64."""
    indices: torch.Tensor
    """(B,) int64, which sequences these are."""
    is_own: bool
    """False: another rank's batch, run only to keep the ranks in step; its results are not used."""

    def inside(self) -> torch.Tensor:
        """Whether a position is part of its sequence, (B, T)."""
        positions = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return positions < self.lengths[:, None]


def padded_batches(
    sequences: Sequence[np.ndarray], batch_tokens: int, ranks: Ranks
) -> Iterator[PaddedBatch]:
    """Yield the batches of this rank, every world_size-th of them.

    batch_tokens: positions of a batch, padding included. Every rank has as many batches, for ZeRO-3
    gathers weights in each.
    """
    planned = plan_batches([len(sequence) for sequence in sequences], batch_tokens)
    rounds = range(0, len(planned), ranks.world_size)
    for start in tqdm(rounds, desc="scoring", leave=False, disable=not ranks.is_first):
        own = start + ranks.rank
        width, indices = planned[own % len(planned)]
        tokens = np.zeros((len(indices), width), np.int64)
        for row, index in enumerate(indices):
            tokens[row, : len(sequences[index])] = sequences[index]
        lengths = [len(sequences[index]) for index in indices]
        arrays = (torch.as_tensor(each).to(ranks.device) for each in (tokens, lengths, indices))
        yield PaddedBatch(*arrays, is_own=own < len(planned))


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[tuple[int, list[int]]]:
    """Width and members of each batch: the longest first, at most `batch_tokens` with the padding.

    Widths are rounded up to one of eight per octave, so that few shapes occur. A sequence that is
    longer than `batch_tokens` is a batch of its own.
    """
    batches: list[tuple[int, list[int]]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1][1]) + 1) * batches[-1][0] <= batch_tokens:
            batches[-1][1].append(index)
        else:
            step = 1 << max(0, lengths[index].bit_length() - 4)
            batches.append((-(-lengths[index] // step) * step, [index]))
    return batches
