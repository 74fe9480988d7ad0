"""Rows of tokens for a training stage, packed in C++ from the memory-mapped shards of a corpus.

A stage mixes streams. A stream is an endless sequence of documents, epoch after epoch, and packing
cuts it into rows of T + 1 tokens: T inputs and their labels. A row depends on (corpus, streams,
packing, seed, stage, row number) and on nothing else. `reference.py` defines the same rows in plain
Python.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tresse.data import _packer
from tresse.data.packing.settings import (
    Packing,
    Specials,
    Stream,
    Vocabulary,
    split_targets,
    thresholds,
)
from tresse.data.packing.table_cache import table_cache_prefix
from tresse.data.store.corpus import Corpus

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
MAX_LANGUAGES = 255


@dataclass
class Batch:
    """B rows of T + 1 tokens."""

    tokens: np.ndarray
    """uint16 or uint32 [B, T + 1]; inputs are [:, :-1], labels are [:, 1:]."""
    num_valid: np.ndarray
    """int32 [B], the number of valid labels of each row: those after them are past the row's last
    document or past the stage's targets."""
    cu_seqlens: np.ndarray
    """int32 [segments + 1], offsets into the flattened B * T inputs: a segment begins with every
    row, document and padding."""
    span_starts: np.ndarray
    """int32 [spans + 1], offsets into the flattened B * (T + 1) tokens: a span begins with every
    row and where the language changes."""
    span_languages: np.ndarray
    """uint8 [spans], indices into `Plan.languages`. Padding has the language before it; rows past
    the end have language 0."""

    def language_ids(self) -> np.ndarray:
        """Return the language of every token, uint8 [B, T + 1]."""
        ids = np.repeat(self.span_languages, np.diff(self.span_starts))
        return ids.reshape(self.tokens.shape)


@dataclass
class Copies:
    """B rows of T + 1 tokens as copies from a pool, which holds all tokens of the corpus.

    The pool is all shards laid end to end: languages in order, and the shards of each in order. The
    copies cover the B * (T + 1) tokens of the rows in order; each ends where the next one starts.
    """

    row_length: int
    """T."""
    copies: np.ndarray
    """int64 [copies, 2]: the source, an index into the pool, and start + language * 2^32 + begins *
    2^40. A negative source stands for the token -1 - source, special or padding, repeated to fill
    the gap. `begins` is 1 where a document or padding begins within a row."""
    num_valid: np.ndarray
    """int32 [B], as in Batch."""
    cu_seqlens: np.ndarray
    """int32 [segments + 1], as in Batch."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """The part of a stage that one stream fills."""

    stream: Stream
    num_rows: int
    """Number of rows that hold the targets."""
    num_targets: int
    """Number of counted labels."""
    epochs: float
    """Approximate passes over the stream's documents; draws, switches and padding are ignored."""
    targets: dict[str, float]
    """Expected targets of each language."""
    num_documents: int
    """Number of documents in an epoch; translations count as one document."""
    num_left_out: dict[str, int]
    """Documents of each language that are left out, since another language lacks their key."""

    def __str__(self) -> str:
        split = ", ".join(f"{name} {count:,.0f}" for name, count in self.targets.items())
        left_out = ", ".join(
            f"{name} {count:,}" for name, count in self.num_left_out.items() if count
        )
        line = (
            f"{'+'.join(self.stream.languages)} {self.stream.mode}: {self.num_rows:,} rows, "
            f"{self.num_targets:,} targets ({split}), {self.epochs:.2f} epochs of "
            f"{self.num_documents:,} documents"
        )
        return f"{line}; without a translation, left out: {left_out}" if left_out else line


class Plan:
    """The rows of a stage, from `plan_rows`. Several threads may use it."""

    def __init__(
        self,
        packer: _packer.Packer,
        languages: tuple[str, ...],
        vocabulary: Vocabulary,
        packing: Packing,
        streams: tuple[StreamPlan, ...],
    ) -> None:
        self._packer = packer
        self.languages = languages
        self.vocabulary = vocabulary
        self.packing = packing
        self.streams = streams

    @property
    def num_rows(self) -> int:
        """Number of rows that hold the stage's targets."""
        return self._packer.num_rows

    @property
    def row_length(self) -> int:
        """T, the number of inputs in a row."""
        return self.packing.row_length

    @property
    def num_targets(self) -> int:
        """Number of counted labels in all rows."""
        return sum(stream.num_targets for stream in self.streams)

    def summary(self) -> str:
        """Return a line of text per stream."""
        return "\n".join(f"  {stream}" for stream in self.streams)

    def fill(
        self, first_row: int, num_rows: int, *, threads: int = 1, allocate: Allocate = np.empty
    ) -> Batch:
        """Pack `num_rows` rows from row `first_row`; the same for any number of threads.

        Rows past the end are zero, with `num_valid` 0. `allocate(shape, dtype)` returns the memory.
        """
        tokens = allocate((num_rows, self.row_length + 1), self.vocabulary.dtype)
        num_valid = allocate((num_rows,), np.int32)
        boundaries = self._packer.fill(first_row, tokens, num_valid, threads)
        return Batch(tokens, num_valid, *boundaries)

    def copies(
        self, first_row: int, num_rows: int, *, threads: int = 1, allocate: Allocate = np.empty
    ) -> Copies:
        """Return the places of the tokens that `fill` would copy, without reading the tokens."""
        num_valid = allocate((num_rows,), np.int32)
        found, cu_seqlens = self._packer.copies(first_row, num_valid, threads)
        copies = allocate((len(found) // 2, 2), np.int64)
        copies.reshape(-1)[:] = found
        return Copies(self.row_length, copies, num_valid, cu_seqlens)


def plan_rows(
    corpus: Corpus,
    streams: Sequence[Stream],
    packing: Packing,
    *,
    tokens: int,
    seed: int,
    stage: int,
) -> Plan:
    """Plan rows with exactly `tokens` counted labels, shared among the streams by their weights.

    ValueError for a language that the corpus lacks, languages without a common key, translations
    that differ in their number of sentences, and a stream whose share is less than one target.
    """
    shares = split_targets(tokens, streams)
    vocabulary = Vocabulary(corpus.tokenizer.vocab_size, packing.uses_specials)
    specials = vocabulary.specials(packing)
    packer = _open_packer(corpus, packing, specials)
    planned = []
    for index, (stream, targets) in enumerate(zip(streams, shares, strict=True)):
        documents = _documents(corpus, stream)
        languages = [corpus.languages.index(language) for language in stream.languages]
        cache_prefix = table_cache_prefix(
            corpus, stream, packing, _num_documents(corpus, stream, documents),
            seed=seed, stage=stage, index=index,
        )  # fmt: skip
        if documents and (uneven := packer.find_uneven(languages, documents, cache_prefix)) >= 0:
            raise ValueError(_describe_uneven(corpus, stream, documents, uneven))
        num_rows = packer.add_stream(
            languages=languages,
            mode=stream.mode,
            random_order=stream.language_order == "random",
            thresholds=thresholds(stream),
            documents=documents,
            seed=seed,
            stage=stage,
            index=index,
            targets=targets,
            table_cache_prefix=cache_prefix,
        )
        planned.append(_describe(corpus, stream, packing, specials, documents, targets, num_rows))
    return Plan(packer, tuple(corpus.languages), vocabulary, packing, tuple(planned))


def _open_packer(corpus: Corpus, packing: Packing, specials: Specials) -> _packer.Packer:
    """Hand the shards' arrays to the packer, which keeps them alive."""
    if len(corpus.languages) > MAX_LANGUAGES:
        raise ValueError(
            f"{corpus.path}: {len(corpus.languages)} languages, the packer takes {MAX_LANGUAGES}"
        )
    shards = [(i, s) for i, name in enumerate(corpus.languages) for s in corpus.shards[name]]
    view = _packer.Corpus(shards[0][1].tokens.itemsize, len(corpus.languages))
    for language, shard in shards:
        view.add_shard(
            language,
            shard.tokens,
            shard.sentence_lengths,
            shard.document_lengths,
            shard.document_tokens,
            shard.document_sentences,
            shard.key_hash,
        )
    return _packer.Packer(
        view,
        row_length=packing.row_length,
        mode=packing.mode,
        eos=-1 if specials.eos is None else specials.eos,
        bos=-1 if specials.bos is None else specials.bos,
        language_switch=-1 if specials.switch is None else specials.switch,
        mask_documents=packing.mask_documents,
    )


def _documents(corpus: Corpus, stream: Stream) -> list[np.ndarray]:
    """Return the documents of the keys that a stream's languages share, int64 [keys] per language.

    A mono stream takes all documents: no column is returned.
    """
    for language in stream.languages:
        if language not in corpus.languages:
            raise ValueError(
                f"{corpus.path}: no language {language!r}; it has {', '.join(corpus.languages)}"
            )
    if stream.mode == "mono":
        return []
    documents = corpus.aligned_columns(stream.languages)
    if not documents[0].size:
        raise ValueError(
            f"{corpus.path}: no key is in all of {', '.join(stream.languages)}; "
            "interleaving needs translations"
        )
    return documents


def _describe_uneven(
    corpus: Corpus, stream: Stream, documents: Sequence[np.ndarray], key: int
) -> str:
    named = list(zip(stream.languages, (int(column[key]) for column in documents), strict=True))
    counts = [f"{len(corpus.document(*place))} sentences in {place[0]}" for place in named]
    return (
        f"{corpus.path}: key {corpus.key(*named[0])!r} has {', '.join(counts)}; translations need "
        "equally many sentences (tresse verify lists all such keys)"
    )


def _num_documents(corpus: Corpus, stream: Stream, documents: Sequence[np.ndarray]) -> int:
    return len(documents[0]) if documents else corpus.num_documents(stream.languages[0])


def _num_tokens(corpus: Corpus, language: str, documents: np.ndarray | None) -> int:
    """Return the number of tokens in documents of a language; None stands for all of them."""
    if documents is None or documents.size == corpus.num_documents(language):
        return corpus.num_tokens(language)
    lengths = np.concatenate([shard.document_lengths for shard in corpus.shards[language]])
    return int(lengths[documents].sum(dtype=np.int64))


def _describe(
    corpus: Corpus,
    stream: Stream,
    packing: Packing,
    specials: Specials,
    documents: Sequence[np.ndarray],
    targets: int,
    num_rows: int,
) -> StreamPlan:
    """Sum up a stream; the split of its targets by language ignores special tokens."""
    totals = {name: corpus.num_documents(name) for name in stream.languages}
    num_documents = _num_documents(corpus, stream, documents)
    L = len(stream.languages)
    share = stream.probabilities or (1 / L if stream.mode == "sample" else 1.0,) * L
    tokens = np.array(share) * [
        _num_tokens(corpus, language, column)
        for language, column in zip(stream.languages, documents or [None], strict=True)
    ]
    per_epoch = tokens.sum() + num_documents * specials.num_separators
    if packing.mode == "best_fit":
        epochs = (targets + num_rows) / per_epoch
    else:
        epochs = targets / (per_epoch - num_documents * packing.mask_documents)
    split = targets * tokens / tokens.sum()
    return StreamPlan(
        stream=stream,
        num_rows=num_rows,
        num_targets=targets,
        epochs=float(epochs),
        targets=dict(zip(stream.languages, split.tolist(), strict=True)),
        num_documents=num_documents,
        num_left_out={name: total - num_documents for name, total in totals.items()},
    )
