"""The identity of a tokenizer: of speech, which makes units, or of text.

Each language of a corpus has one tokenizer. A corpus has one of speech, one of text, or both: the
tokens of its shards count from 0, and a vocabulary joins them (`packing/vocabulary.py`). Documents
in which text and units are mixed, as in dialogues, have tokens of both: units first, then text.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np

MIXED = "speech+text"
"""Name of what makes units and text; its hash names both tokenizers as JSON."""


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
        if self.is_mixed and sum(each.vocab_size for each in self.parts) != self.vocab_size:
            raise ValueError(f"{MIXED} of {self.vocab_size} tokens: not the sum of its parts")

    def __str__(self) -> str:
        if self.is_mixed:
            return f"{self.parts[0]} and {self.parts[1]}, mixed"
        hash_ = self.hash or "(no hash)"
        size = "text tokens" if self.is_text else f"units at {self.frame_rate} Hz"
        return f"{self.name} {hash_}, {self.vocab_size} {size}"

    @property
    def is_text(self) -> bool:
        """True for a tokenizer of text, mixed with units or not: its tokens have no duration."""
        return not self.frame_rate

    @property
    def is_mixed(self) -> bool:
        """True if some tokens are units and some are text."""
        return self.name == MIXED

    @cached_property
    def parts(self) -> tuple["Tokenizer", ...]:
        """The tokenizers of units and of text where they are mixed, else this one."""
        if not self.is_mixed:
            return (self,)
        try:
            speech, text = (Tokenizer(*values) for values in json.loads(self.hash))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{MIXED} of {self.hash!r}: {error}") from None
        if speech.is_text or not text.is_text or text.is_mixed:
            raise ValueError(f"{MIXED} of {speech} and {text}: expected units, then text")
        return speech, text

    @property
    def first_text(self) -> int:
        """The number of the first token of text."""
        return self.parts[0].vocab_size if self.is_mixed else 0

    @property
    def dtype(self) -> np.dtype:
        """Type of a unit in a shard: uint16, or uint32 if the vocabulary needs it."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def hours(self, num_tokens: int) -> float:
        """Return the duration of `num_tokens` units in hours."""
        return float(num_tokens / Fraction(self.frame_rate) / 3600)


def mixed(speech: Tokenizer, text: Tokenizer) -> Tokenizer:
    """Return the tokenizer of documents of units and text: units first, then text."""
    names = json.dumps([astuple(speech), astuple(text)])
    return Tokenizer(MIXED, names, "", speech.vocab_size + text.vocab_size)


def join_tokenizers(tokenizers: Iterable[Tokenizer]) -> tuple[Tokenizer, ...]:
    """Return the different ones of some tokenizers and their parts, speech before text.

    ValueError for two of speech or two of text: their tokens with equal numbers are not the same.
    """
    parts = dict.fromkeys(part for each in tokenizers for part in each.parts)
    joined = sorted(parts, key=lambda each: each.is_text)
    for one, other in pairwise(joined):
        if one.is_text == other.is_text:
            kind = "texts" if one.is_text else "units"
            raise ValueError(f"{kind} of {other}, but others of {one}; tokenise all alike")
    return tuple(joined)
