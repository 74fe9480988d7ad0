"""The identity of what made the units of a corpus: name, weights, frame rate, vocabulary."""

import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Tokenizer:
    """What made the units of a corpus; corpora merge only when it is the same."""

    name: str
    """Such as "mimi" or "kmeans"."""
    hash: str
    """Hash of its weights, empty when unknown."""
    frame_rate: str
    """Units per second as a fraction: "25/2" is 12.5 Hz."""
    vocab_size: int
    """Units are 0 to vocab_size - 1."""

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
        """uint16, or uint32 when the vocabulary needs it."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def hours(self, num_tokens: int) -> float:
        """Length of `num_tokens` units of speech."""
        return float(num_tokens / Fraction(self.frame_rate) / 3600)
