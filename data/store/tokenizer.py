"""The identity of the tokenizer that made the units of a corpus."""

import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as a corpus names it; corpora merge only if their tokenizers are equal."""

    name: str
    """Name of the tokenizer, such as "mimi" or "kmeans"."""
    hash: str
    """Hash of the tokenizer's weights; empty if unknown."""
    frame_rate: str
    """Units per second as a fraction: "25/2" is 12.5 Hz."""
    vocab_size: int
    """Number of different units; units are 0 to vocab_size - 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.vocab_size <= 1 << 32:
            raise ValueError(f"vocab_size is {self.vocab_size}, expected 1 to 2**32")
        if not re.fullmatch(r"[1-9][0-9]{0,8}(/[1-9][0-9]{0,8})?", self.frame_rate):
            raise ValueError(f"frame_rate is {self.frame_rate!r}, expected a fraction like '25/2'")

    def __str__(self) -> str:
        hash_ = self.hash or "(no hash)"
        return f"{self.name} {hash_}, {self.vocab_size} units at {self.frame_rate} Hz"

    @property
    def dtype(self) -> np.dtype:
        """Type of a unit in a shard: uint16, or uint32 if the vocabulary needs it."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def hours(self, num_tokens: int) -> float:
        """Return the duration of `num_tokens` units in hours."""
        return float(num_tokens / Fraction(self.frame_rate) / 3600)
