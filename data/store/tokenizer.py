"""The identity of a tokenizer: of speech, which makes units, or of text.

Each language of a corpus has one tokenizer. A corpus has one of speech, one of text, or both: the
tokens of its shards count from 0, and a vocabulary joins them (`packing/vocabulary.py`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as a corpus names it; corpora merge only if their tokenizers are equal."""

    name: str
    """Name of the tokenizer, such as "mimi" or "kmeans"."""
    hash: str
    """Hash of the tokenizer's weights; empty if unknown."""
    frame_rate: str
    """Units per second as a fraction: "25/2" is 12.5 Hz. Empty for text."""
    vocab_size: int
    """Number of different tokens; tokens are 0 to vocab_size - 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.vocab_size <= 1 << 32:
            raise ValueError(f"vocab_size is {self.vocab_size}, expected 1 to 2**32")
        if not re.fullmatch(r"([1-9][0-9]{0,8}(/[1-9][0-9]{0,8})?)?", self.frame_rate):
            raise ValueError(f"frame_rate is {self.frame_rate!r}, expected a fraction like '25/2'")

    def __str__(self) -> str:
        hash_ = self.hash or "(no hash)"
        size = "text tokens" if self.is_text else f"units at {self.frame_rate} Hz"
        return f"{self.name} {hash_}, {self.vocab_size} {size}"

    @property
    def is_text(self) -> bool:
        """True for a tokenizer of text, whose tokens have no duration."""
        return not self.frame_rate

    @property
    def dtype(self) -> np.dtype:
        """Type of a unit in a shard: uint16, or uint32 if the vocabulary needs it."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def hours(self, num_tokens: int) -> float:
        """Return the duration of `num_tokens` units in hours."""
        return float(num_tokens / Fraction(self.frame_rate) / 3600)


def join_tokenizers(tokenizers: Iterable[Tokenizer]) -> tuple[Tokenizer, ...]:
    """Return the different ones of some tokenizers, that of speech before that of text.

    ValueError for two of speech or two of text: their tokens with equal numbers are not the same.
    """
    joined = sorted(dict.fromkeys(tokenizers), key=lambda each: each.is_text)
    for one, other in pairwise(joined):
        if one.is_text == other.is_text:
            kind = "texts" if one.is_text else "units"
            raise ValueError(f"{kind} of {other}, but others of {one}; tokenise all alike")
    return tuple(joined)
