"""Rows of tokens for a training stage, packed in C++ from the memory-mapped shards of corpora.

A stage mixes streams. A stream is an endless sequence of documents, epoch after epoch, and packing
cuts it into rows of T + 1 tokens: T inputs and their labels. A row depends on (corpora, streams,
packing, seed, stage, row number) and on nothing else. `reference.py` defines the same rows in plain
Python.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tresse.data import _packer
from tresse.data.packing.settings import (
    Packing,
    Stream,
    split_targets,
    thresholds,
)
from tresse.data.packing.sources import Part, Sources
from tresse.data.packing.table_cache import table_cache_prefix
from tresse.data.packing.templates import template_ids
from tresse.data.packing.vocabulary import Specials, Vocabulary
from tresse.data.store.corpus import Corpus
from tresse.data.store.text_tokenizer import open_text_tokenizer

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
MAX_LANGUAGES = 255
NO_WORDS, NO_DOCUMENTS = np.empty(0, np.uint16), np.empty(0, np.int64)


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
    row, where the language changes, and where tokens begin or cease to be targets."""
    span_languages: np.ndarray
    """uint8 [spans], indices into `Plan.languages`. Padding has the language before it; rows past
    the end have language 0."""
    span_counted: np.ndarray
    """uint8 [spans], 1 if the tokens are targets, 0 if not (`Stream.loss_on`)."""

    def language_ids(self) -> np.ndarray:
        """Return the language of every token, uint8 [B, T + 1]."""
        return self._spread(self.span_languages)

    def counted(self) -> np.ndarray:
        """Return whether each token is a target where its row counts it, bool [B, T + 1]."""
        return self._spread(self.span_counted.astype(bool))

    def _spread(self, values: np.ndarray) -> np.ndarray:
        return np.repeat(values, np.diff(self.span_starts)).reshape(self.tokens.shape)


@dataclass
class Copies:
    """B rows of T + 1 tokens as copies from a pool, which holds all tokens of the corpora.

    The pool is all shards laid end to end: corpora in order, the languages of each in order, and
    the shards of each in order. The copies cover the B * (T + 1) tokens of the rows in order; each
    ends where the next one starts.
    """

    row_length: int
    """T."""
    copies: np.ndarray
    """int64 [copies, 2]: the source, an index into the pool, and start + language * 2^32 + begins *
    2^40 + ignored * 2^41. A negative source stands for the token -1 - source, special or padding,
    repeated to fill the gap. `begins` is 1 where a document or padding begins within a row,
    `ignored` where tokens are not targets."""
    num_valid: np.ndarray
    """int32 [B], as in Batch."""
    cu_seqlens: np.ndarray
    """int32 [segments + 1], as in Batch."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """The part of a stage that one stream fills from one corpus."""

    stream: Stream
    corpus: str
    """Short name of the corpus; empty if there is but one."""
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
    num_cut: int = 0
    """Documents that are longer than a row, so that `best_fit` cuts them."""

    @property
    def name(self) -> str:
        """Languages, mode and corpus."""
        return f"{self.stream.name}{f' of {self.corpus}' if self.corpus else ''}"

    def __str__(self) -> str:
        split = ", ".join(f"{name} {count:,.0f}" for name, count in self.targets.items())
        left_out = ", ".join(
            f"{name} {count:,}" for name, count in self.num_left_out.items() if count
        )
        line = (
            f"{self.name}: {self.num_rows:,} rows, "
            f"{self.num_targets:,} targets ({split}), {self.epochs:.2f} epochs of "
            f"{self.num_documents:,} documents"
        )
        line += f"; without a translation, left out: {left_out}" if left_out else ""
        return f"{line}; {self.num_cut:,} longer than a row are cut" if self.num_cut else line


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
    vocabulary: Vocabulary | None = None,
) -> Plan:
    """Plan rows of one corpus, as `plan_mixed_rows` does."""
    how = {"tokens": tokens, "seed": seed, "stage": stage}
    return plan_mixed_rows(Sources((corpus,)), streams, packing, vocabulary=vocabulary, **how)


def plan_mixed_rows(
    sources: Sources,
    streams: Sequence[Stream],
    packing: Packing,
    *,
    tokens: int,
    seed: int,
    stage: int,
    vocabulary: Vocabulary | None = None,
) -> Plan:
    """Plan rows with exactly `tokens` counted labels, shared among the streams by their weights.

    vocabulary: the ids of the run; by default those of the corpora, which may lack speech or text.
    A stream shares its own among the corpora; what one corpus gives to it is a stream by itself.
    ValueError for a language that no corpus has, languages without a common key, translations that
    differ in their number of sentences (or of words, or have none, where these are the units), and
    a stream whose share is less than one target.
    """
    parts = [part for stream in streams for part in sources.parts(stream)]
    shares = split_targets(tokens, [part.stream for part in parts])
    vocabulary = vocabulary or Vocabulary.of(sources.tokenizers, packing)
    specials = vocabulary.specials(packing)
    packer, views = _open_packer(sources, vocabulary, packing)
    planned = []
    for index, (part, targets) in enumerate(zip(parts, shares, strict=True)):
        corpus, stream, documents = part.corpus, part.stream, part.documents
        own_views = [views[corpus.id, language] for language in stream.all_languages]
        braided = slice(len(stream.given), None)
        _check_words(part)
        cache_prefix = table_cache_prefix(
            corpus, stream, packing, part.num_documents, seed=seed, stage=stage, index=index
        )
        if stream.mode != "mono" and stream.unit != "document":
            divided = own_views[braided], documents[braided], stream.unit, cache_prefix
            if (uneven := packer.find_uneven(*divided)) >= 0:
                raise ValueError(_describe_uneven(part, uneven))
        num_rows = packer.add_stream(
            views=own_views,
            mode=stream.mode,
            random_order=stream.language_order == "random",
            thresholds=thresholds(stream),
            documents=documents,
            seed=seed,
            stage=stage,
            index=index,
            num_given=len(stream.given),
            unit=stream.unit,
            words=stream.words,
            templates=template_ids(
                stream, vocabulary, partial(open_text_tokenizer, corpus.path, corpus.tokenizers)
            ),
            counted=_counted(stream),
            targets=targets,
            table_cache_prefix=cache_prefix,
        )
        label = sources.label(corpus)
        num_cut = packer.num_cut(index) if packing.mode == "best_fit" else 0
        planned.append(_describe(part, label, packing, specials, targets, num_rows, num_cut))
    return Plan(packer, sources.languages, vocabulary, packing, tuple(planned))


def _open_packer(
    sources: Sources, vocabulary: Vocabulary, packing: Packing
) -> tuple[_packer.Packer, dict[tuple[str, str], int]]:
    """Hand the shards' arrays to the packer, which keeps them alive.

    Returns the packer, and its view of each corpus, by its id, and language.
    """
    named = [(corpus, name) for corpus in sources.corpora for name in corpus.languages]
    if len(named) > MAX_LANGUAGES:
        raise ValueError(
            f"{sources.name}: {len(named)} languages, the packer takes {MAX_LANGUAGES}"
        )
    view, specials = _packer.Corpus(), vocabulary.specials(packing)
    for corpus, name in named:
        tokenizer = corpus.tokenizer(name)
        index = view.add_view(
            language=sources.languages.index(name),
            token_bytes=tokenizer.dtype.itemsize,
            first_id=vocabulary.first_id(tokenizer),
        )
        for shard in corpus.shards[name]:
            view.add_shard(
                index,
                shard.tokens,
                shard.sentence_lengths,
                shard.document_lengths,
                shard.document_tokens,
                shard.document_sentences,
                shard.key_hash,
                NO_WORDS if shard.word_lengths is None else shard.word_lengths,
                NO_DOCUMENTS if shard.document_words is None else shard.document_words,
            )
    packer = _packer.Packer(
        view,
        row_length=packing.row_length,
        mode=packing.mode,
        eos=-1 if specials.eos is None else specials.eos,
        bos=-1 if specials.bos is None else specials.bos,
        language_switch=-1 if specials.switch is None else specials.switch,
        mask_documents=packing.mask_documents,
    )
    return packer, {(corpus.id, name): index for index, (corpus, name) in enumerate(named)}


def _describe_uneven(part: Part, key: int) -> str:
    corpus = part.corpus
    columns = [int(column[key]) for column in part.documents[len(part.stream.given) :]]
    named = list(zip(part.stream.languages, columns, strict=True))
    numbers = [len(corpus.document(*place)) for place in named]
    if len(set(numbers)) == 1:
        return _describe_uneven_words(corpus, named)
    counts = [
        f"{number} sentences in {place[0]}" for number, place in zip(numbers, named, strict=True)
    ]
    return (
        f"{corpus.path}: key {corpus.key(*named[0])!r} has {', '.join(counts)}; translations need "
        "equally many sentences (tresse verify lists all such keys)"
    )


def _describe_uneven_words(corpus: Corpus, places: list[tuple[str, int]]) -> str:
    words = [corpus.words(*place) or [] for place in places]
    counts = zip(*([len(own) for own in sentences] for sentences in words), strict=True)
    sentence, found = next((i, own) for i, own in enumerate(counts) if len(set(own)) > 1)
    each = [f"{n} words in {place[0]}" for n, place in zip(found, places, strict=True)]
    return (
        f"{corpus.path}: key {corpus.key(*places[0])!r}, sentence {sentence} has "
        f"{', '.join(each)}; the unit `words` needs equally many in each sentence"
    )


def _check_words(part: Part) -> None:
    """Raise ValueError if units are words and a shard has none."""
    if part.stream.unit != "words":
        return
    for language in part.stream.languages:
        for shard in part.corpus.shards[language]:
            if shard.word_lengths is None:
                raise ValueError(
                    f"{part.corpus.path}: documents of {language} have no words, which the unit "
                    "`words` needs; prepare them with words (docs/data.md) or take sentences"
                )


def _counted(stream: Stream) -> list[bool]:
    """Return which languages of a stream are targets; empty for all."""
    if not stream.loss_on:
        return []
    return [language in stream.loss_on for language in stream.all_languages]


def _describe(
    part: Part,
    corpus: str,
    packing: Packing,
    specials: Specials,
    targets: int,
    num_rows: int,
    num_cut: int,
) -> StreamPlan:
    """Sum up a stream; the split of its targets by language ignores tokens that are inserted."""
    stream = part.stream
    totals = {name: part.corpus.num_documents(name) for name in stream.all_languages}
    L = len(stream.languages)
    share = stream.probabilities or (1 / L if stream.mode == "sample" else 1.0,) * L
    tokens = np.array([1.0] * len(stream.given) + list(share)) * part.num_tokens()
    tokens *= _counted(stream) or 1.0
    per_epoch = tokens.sum() + part.num_documents * specials.num_separators
    if packing.mode == "best_fit":
        epochs = (targets + num_rows) / per_epoch
    else:
        counts_first = not stream.loss_on or stream.all_languages[0] in stream.loss_on
        is_masked = packing.mask_documents and counts_first
        epochs = targets / (per_epoch - part.num_documents * is_masked)
    split = targets * tokens / tokens.sum()
    return StreamPlan(
        stream=stream,
        corpus=corpus,
        num_rows=num_rows,
        num_targets=targets,
        epochs=float(epochs),
        targets=dict(zip(stream.all_languages, split.tolist(), strict=True)),
        num_documents=part.num_documents,
        num_left_out={name: total - part.num_documents for name, total in totals.items()},
        num_cut=num_cut,
    )
