"""The corpora that a stage reads, and what each of them gives to a stream."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tresse.data.packing.settings import Stream
from tresse.data.store.corpus import Corpus, check_tokenizers
from tresse.data.store.tokenizer import Tokenizer, join_tokenizers


@dataclass(frozen=True, slots=True)
class Part:
    """What one corpus gives to a stream."""

    corpus: Corpus
    stream: Stream
    """The stream, with the weight that this part has in the stage."""
    documents: list[np.ndarray]
    """Documents of the keys that all the stream's languages share, int64 [keys] for each language;
    no columns for a stream of one language, which takes all documents."""

    @property
    def num_documents(self) -> int:
        """Number of documents in an epoch; translations count as one document."""
        if self.documents:
            return len(self.documents[0])
        return self.corpus.num_documents(self.stream.languages[0])

    def num_tokens(self) -> list[int]:
        """Return the number of tokens in the documents of each language."""
        columns = self.documents or [None]
        return [
            _num_tokens(self.corpus, language, column)
            for language, column in zip(self.stream.all_languages, columns, strict=True)
        ]


@dataclass(frozen=True, eq=False, slots=True)
class Sources:
    """Corpora whose languages have the same tokenizers. Translations are found within a corpus."""

    corpora: tuple[Corpus, ...]
    weights: tuple[float, ...] = ()
    """Share of each corpus in the targets of a stream, relative to the others that the stream can
    read. Empty: by their numbers of tokens, so that a pass takes equally long in each."""

    def __post_init__(self) -> None:
        number = len(self.corpora)
        check_tokenizers(self.corpora)
        if len({corpus.id for corpus in self.corpora}) < number:
            raise ValueError(f"{self.name}: a corpus is named twice; give it a weight instead")
        if self.weights and len(self.weights) != number:
            raise ValueError(f"{len(self.weights)} weights for {number} corpora: {self.name}")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise ValueError(f"weights of corpora are {self.weights}; expected numbers above 0")

    @property
    def name(self) -> str:
        """Folders of the corpora."""
        return ", ".join(str(corpus.path) for corpus in self.corpora)

    def label(self, corpus: Corpus) -> str:
        """Return a short name of a corpus among the others; empty if there is but one."""
        if len(self.corpora) == 1:
            return ""
        paths = [each.path.absolute() for each in self.corpora]
        return str(corpus.path.absolute().relative_to(os.path.commonpath(paths)))

    @property
    def id(self) -> str:
        """Ids of the corpora, joined with a plus sign."""
        return "+".join(corpus.id for corpus in self.corpora)

    @property
    def tokenizers(self) -> tuple[Tokenizer, ...]:
        """The tokenizer of speech, that of text, or both in this order."""
        return join_tokenizers(each for corpus in self.corpora for each in corpus.tokenizers)

    @property
    def languages(self) -> tuple[str, ...]:
        """Names of the languages that any corpus has, sorted."""
        return tuple(sorted({name for corpus in self.corpora for name in corpus.languages}))

    def parts(self, stream: Stream) -> list[Part]:
        """Return what each corpus gives to a stream, without those that have nothing for it.

        ValueError if there is none.
        """
        found = [
            Part(corpus, stream, documents)
            for corpus in self.corpora
            if set(stream.all_languages) <= set(corpus.languages)
            and (documents := _documents(corpus, stream)) is not None
        ]
        if not found:
            raise ValueError(f"{self.name}: {self._lacks(stream)}")
        weights = self._weights(found)
        return [
            replace(part, stream=replace(stream, weight=stream.weight * weight))
            for part, weight in zip(found, weights, strict=True)
        ]

    def _weights(self, found: Sequence[Part]) -> list[float]:
        """Return the shares of a stream's parts, which sum to 1."""
        if len(found) == 1:
            return [1.0]
        if not self.weights:
            sizes = [float(sum(part.num_tokens())) for part in found]
        else:
            sizes = [self.weights[self.corpora.index(part.corpus)] for part in found]
        return [size / sum(sizes) for size in sizes]

    def _lacks(self, stream: Stream) -> str:
        """Return why a stream has no documents."""
        named = ", ".join(stream.all_languages)
        for language in stream.all_languages:
            if language not in self.languages:
                return f"no language {language!r}; there are {', '.join(self.languages)}"
        if not any(set(stream.all_languages) <= set(corpus.languages) for corpus in self.corpora):
            return f"no corpus has all of {named}; `tresse merge` makes one of several"
        return f"no key is in all of {named}; interleaving needs translations"


def _documents(corpus: Corpus, stream: Stream) -> list[np.ndarray] | None:
    """Return the columns of a part's documents; None if no key is in all languages."""
    if len(stream.all_languages) == 1:
        return []
    columns = corpus.aligned_columns(stream.all_languages)
    return columns if columns[0].size else None


def _num_tokens(corpus: Corpus, language: str, documents: np.ndarray | None) -> int:
    """Return the number of tokens in documents of a language; None stands for all of them."""
    if documents is None or documents.size == corpus.num_documents(language):
        return corpus.num_tokens(language)
    lengths = np.concatenate([shard.document_lengths for shard in corpus.shards[language]])
    return int(lengths[documents].sum(dtype=np.int64))
