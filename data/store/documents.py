"""Documents on their way into a shard: sentences of units, checked and laid out in flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import xxhash

from tresse.data.store.tokenizer import Tokenizer

MAX_SENTENCE_TOKENS = (1 << 16) - 1
MAX_DOCUMENT_TOKENS = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Document:
    """One document in one language; documents that share a key are translations of each other."""

    key: str
    language: str
    sentences: Sequence[Sequence[int] | np.ndarray]
    words: Sequence[Sequence[int]] | None = None
    """For each sentence, the offsets in tokens where its words start (the first is 0); None if the
    words are not known."""
    where: str = ""
    """Place of the document for messages, such as "fr.jsonl:12"."""


class Packed(NamedTuple):
    """Flat arrays of one document."""

    tokens: np.ndarray  # the tokenizer's dtype [num_tokens]
    sentence_lengths: np.ndarray  # uint16 [num_sentences], each at least 1
    word_lengths: np.ndarray  # uint16 [num_words], partition every sentence; empty without words


def key_hash(key: str) -> int:
    """Return xxh3_64 of the UTF-8 key, which identifies a document across languages and corpora."""
    return xxhash.xxh3_64_intdigest(key.encode())


def pack(
    sentences: Sequence[Sequence[int] | np.ndarray],
    words: Sequence[Sequence[int]] | None,
    tokenizer: Tokenizer,
) -> Packed:
    """Check a document and flatten it.

    ValueError names sentence, position and value: there is no sentence, a sentence is empty or too
    long, a unit is not an integer of the vocabulary, or the word offsets of a sentence do not start
    at 0 and increase.
    """
    lengths = [len(sentence) for sentence in sentences]
    if not lengths:
        raise ValueError("no sentences")
    for sentence, length in enumerate(lengths):
        if not 1 <= length <= MAX_SENTENCE_TOKENS:
            raise ValueError(
                f"sentence {sentence} has {length} tokens, expected 1 to {MAX_SENTENCE_TOKENS}"
            )
    if sum(lengths) > MAX_DOCUMENT_TOKENS:
        raise ValueError(
            f"{sum(lengths)} tokens, at most {MAX_DOCUMENT_TOKENS}; split the document"
        )
    tokens = _flatten(sentences, sum(lengths), "token")
    if tokens.min() < 0 or tokens.max() >= tokenizer.vocab_size:
        first = int(np.argmax((tokens < 0) | (tokens >= tokenizer.vocab_size)))
        sentence, position = _locate(lengths, first)
        raise ValueError(
            f"sentence {sentence}, token {position} is {tokens[first]}, "
            f"outside the vocabulary 0 to {tokenizer.vocab_size - 1} (--vocab-size)"
        )
    word_lengths = np.empty(0, np.uint16) if words is None else _word_lengths(words, lengths)
    return Packed(tokens.astype(tokenizer.dtype), np.array(lengths, "<u2"), word_lengths)


def _word_lengths(words: Sequence[Sequence[int]], lengths: list[int]) -> np.ndarray:
    if len(words) != len(lengths):
        raise ValueError(f"words of {len(words)} sentences, expected {len(lengths)}")
    offsets = _flatten(words, sum(len(w) for w in words), "word offset")
    pieces, start = [], 0
    for sentence, length in enumerate(lengths):
        own = offsets[start : start + len(words[sentence])]
        ends = np.append(own[1:], length)
        if own.size == 0 or own[0] != 0 or not np.all(ends > own):
            raise ValueError(
                f"sentence {sentence}: word offsets {own[:8].tolist()}... of {length} tokens; "
                "they must start at 0 and increase within the sentence"
            )
        pieces.append(ends - own)
        start += own.size
    return np.concatenate(pieces).astype("<u2")


def _flatten(lists: Sequence[Sequence[int] | np.ndarray], size: int, name: str) -> np.ndarray:
    """Return int64 [size]; refuse values that numpy would round (1.5) or convert (True)."""
    arrays = [values for values in lists if isinstance(values, np.ndarray)]
    if len(arrays) == len(lists) and all(a.dtype.kind in "iu" and a.ndim == 1 for a in arrays):
        return np.concatenate(arrays).astype(np.int64) if arrays else np.empty(0, np.int64)
    for kind in set(map(type, chain.from_iterable(lists))) - {int}:
        if issubclass(kind, bool) or not issubclass(kind, (int, np.integer)):
            flat = list(chain.from_iterable(lists))
            first = next(i for i, value in enumerate(flat) if type(value) is kind)
            sentence, position = _locate([len(values) for values in lists], first)
            raise ValueError(
                f"sentence {sentence}, {name} {position} is {flat[first]!r}, expected an integer"
            )
    try:
        return np.fromiter(chain.from_iterable(lists), np.int64, size)
    except OverflowError:
        raise ValueError(f"a {name} is beyond 64 bits") from None


def _locate(lengths: Sequence[int], position: int) -> tuple[int, int]:
    """Return the sentence of a flat position, and the position in the sentence."""
    ends = np.cumsum(lengths)
    sentence = int(np.searchsorted(ends, position, side="right"))
    return sentence, position - int(ends[sentence] - lengths[sentence])
