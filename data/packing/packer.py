"""Rows of tokens for a training stage, packed in C++ from the memory-mapped shards of a corpus.

A stage mixes streams; a stream is an endless sequence of documents, epoch after epoch; packing cuts
it into rows of T + 1 tokens, T inputs and their labels. A row is a function of (corpus, streams,
packing, seed, stage, row) alone. `reference.py` defines the same rows in plain Python.
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
from tresse.data.packing.table_cache import table_cache
from tresse.data.store.corpus import Corpus

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
MAX_LANGUAGES = 255


@dataclass
class Batch:
    """B rows of T + 1 tokens."""

    tokens: np.ndarray
    """uint16 or uint32 [B, T + 1]; inputs are [:, :-1], labels [:, 1:]."""
    num_valid: np.ndarray
    """int32 [B]: labels of each row that are not past its end or the budget."""
    cu_seqlens: np.ndarray
    """int32 [segments + 1] over the flattened B * T inputs: cut at every row, at every start of a
    document and before padding."""
    span_starts: np.ndarray
    """int32 [spans + 1] over the flattened B * (T + 1) tokens: cut at rows and where the language
    changes."""
    span_languages: np.ndarray
    """uint8 [spans], indices into `Plan.languages`. Padding has the language before it, rows past
    the end have language 0."""

    def language_ids(self) -> np.ndarray:
        """Language of every token, uint8 [B, T + 1]."""
        ids = np.repeat(self.span_languages, np.diff(self.span_starts))
        return ids.reshape(self.tokens.shape)


@dataclass
class Copies:
    """B rows of T + 1 tokens as copies out of a pool, all of the corpus' tokens laid end to end.

    The pool has the corpus' languages in order, and the shards of each. The copies cover the
    B * (T + 1) tokens of the rows in order, each up to the start of the next.
    """

    row_length: int
    """T."""
    copies: np.ndarray
    """int64 [copies, 2]: source, and start + language * 2^32 + begins * 2^40. A source below zero
    is no place in the pool but the token -1 - source, repeated; begins is 1 where a document or
    padding begins within a row."""
    num_valid: np.ndarray
    """int32 [B], as in Batch."""
    cu_seqlens: np.ndarray
    """int32 [segments + 1], as in Batch."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What a stage takes from one stream."""

    stream: Stream
    num_rows: int
    num_targets: int
    epochs: float
    """Passes over the stream's documents, about: draws, switches and padding are not counted."""
    targets: dict[str, float]
    """Expected targets of each language."""
    num_documents: int
    num_left_out: dict[str, int]
    """Documents of each language whose key is not in all the stream's languages."""

    def __str__(self) -> str:
        """One line, more if documents are left out."""
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
    """The rows of a stage; made by `plan_rows`. Safe to use from several threads."""

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
        """Rows that hold the stage's targets."""
        return self._packer.num_rows

    @property
    def row_length(self) -> int:
        """T, inputs of a row."""
        return self.packing.row_length

    @property
    def num_targets(self) -> int:
        """Labels that count, over all rows."""
        return sum(stream.num_targets for stream in self.streams)

    def summary(self) -> str:
        """One line per stream."""
        return "\n".join(f"  {stream}" for stream in self.streams)

    def fill(
        self, first_row: int, num_rows: int, *, threads: int = 1, allocate: Allocate = np.empty
    ) -> Batch:
        """Pack rows `first_row` .. `first_row + num_rows`; the same for any number of threads.

        Rows past the end are zero, with `num_valid` 0. `allocate(shape, dtype)` gives the memory.
        """
        tokens = allocate((num_rows, self.row_length + 1), self.vocabulary.dtype)
        num_valid = allocate((num_rows,), np.int32)
        boundaries = self._packer.fill(first_row, tokens, num_valid, threads)
        return Batch(tokens, num_valid, *boundaries)

    def copies(
        self, first_row: int, num_rows: int, *, threads: int = 1, allocate: Allocate = np.empty
    ) -> Copies:
        """Say where the tokens of the rows that `fill` packs are, without reading any."""
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
    """Plan the rows whose counted labels are exactly `tokens`, shared by the streams' weights.

    ValueError for a language that the corpus lacks, languages without a common key, documents whose
    sentences do not match, and a share of less than one target.
    """
    shares = split_targets(tokens, streams)
    vocabulary = Vocabulary(corpus.tokenizer.vocab_size, packing.uses_specials)
    specials = vocabulary.specials(packing)
    packer = _open_packer(corpus, packing, specials)
    planned = []
    for index, (stream, targets) in enumerate(zip(streams, shares, strict=True)):
        documents = _documents(corpus, stream)
        languages = [corpus.languages.index(language) for language in stream.languages]
        kept = table_cache(
            corpus, stream, packing, _num_documents(corpus, stream, documents),
            seed=seed, stage=stage, index=index,
        )  # fmt: skip
        if documents and (uneven := packer.find_uneven(languages, documents, kept)) >= 0:
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
            table_cache=kept,
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
    """Keys of an interleaved stream: int64 [n] per language, documents numbered through the shards.

    A mono stream takes all documents and needs no columns.
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
    corpus: Corpus, stream: Stream, documents: Sequence[np.ndarray], row: int
) -> str:
    named = list(zip(stream.languages, (int(column[row]) for column in documents), strict=True))
    counts = [f"{len(corpus.document(*place))} sentences in {place[0]}" for place in named]
    return (
        f"{corpus.path}: key {corpus.key(*named[0])!r} has {', '.join(counts)}; translations have "
        "equally many (tresse verify lists all such keys)"
    )


def _num_documents(corpus: Corpus, stream: Stream, documents: Sequence[np.ndarray]) -> int:
    return len(documents[0]) if documents else corpus.num_documents(stream.languages[0])


def _num_tokens(corpus: Corpus, language: str, documents: np.ndarray | None) -> int:
    """Tokens of all documents of a language, or of some, each named once."""
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
    """Sum up a stream; separators and switches are left out of the split by language."""
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
