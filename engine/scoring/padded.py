"""Batches of sequences of unequal length, padded on the right: the same for any number of ranks.

The content of a batch depends only on the lengths of the sequences, so results do not depend on the
number of ranks, bit for bit. A causal model never reads padding on the right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from tresse.engine.run.ranks import Ranks
from tresse.kernels.cross_entropy import IGNORE_INDEX


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Padded sequences on the device."""

    tokens: torch.Tensor
    """(B, T) int64, zeros past the end of a sequence."""
    lengths: torch.Tensor
    """(B,) int64: lengths of the sequences."""
    indices: torch.Tensor
    """(B,) int64: positions of the sequences in the list that was given."""
    is_own: bool
    """False for a batch of another rank: this rank runs it to keep step and ignores its results."""

    def inside(self) -> torch.Tensor:
        """Return True at the positions that hold a token, False in the padding: (B, T) bool."""
        positions = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return positions < self.lengths[:, None]

    def losses(self, model: nn.Module) -> torch.Tensor:
        """Return the loss of each token but the first in nats, 0 in the padding: (B, T - 1) fp64.

        model: a Transformer or an engine around one.
        """
        labels = self.tokens.masked_fill(~self.inside(), IGNORE_INDEX)[:, 1:].contiguous()
        _, losses = model(self.tokens[:, :-1].contiguous(), labels)
        return losses.double()


def padded_batches(
    sequences: Sequence[np.ndarray], batch_tokens: int, ranks: Ranks, what: str
) -> Iterator[PaddedBatch]:
    """Yield this rank's batches, one of every world_size; the same number on every rank.

    batch_tokens: positions of a batch, padding included. what: name of the work, for the progress
    bar. ZeRO-3 gathers weights in every forward pass, so all ranks must take the same number of
    passes.
    """
    planned = plan_batches([len(sequence) for sequence in sequences], batch_tokens)
    rounds = range(0, len(planned), ranks.world_size)
    for start in tqdm(rounds, desc=what, leave=False, disable=None if ranks.is_first else True):
        ranks.watch.enter("scoring")
        own = start + ranks.rank
        width, indices = planned[own % len(planned)]
        tokens = np.zeros((len(indices), width), np.int64)
        for position, index in enumerate(indices):
            tokens[position, : len(sequences[index])] = sequences[index]
        lengths = [len(sequences[index]) for index in indices]
        arrays = (torch.as_tensor(each).to(ranks.device) for each in (tokens, lengths, indices))
        yield PaddedBatch(*arrays, is_own=own < len(planned))


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[tuple[int, list[int]]]:
    """Return the width and the members of each batch, longest sequences first.

    A batch has at most `batch_tokens` positions, padding included; a longer sequence is a batch of
    its own. Widths are rounded up to one of eight per octave, so that few shapes occur.
    """
    batches: list[tuple[int, list[int]]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1][1]) + 1) * batches[-1][0] <= batch_tokens:
            batches[-1][1].append(index)
        else:
            step = 1 << max(0, lengths[index].bit_length() - 4)
            batches.append((-(-lengths[index] // step) * step, [index]))
    return batches
