"""Utterances of other tools, each a name and its units, become documents.

The name, mostly the path of an audio file, gives the key of the document; with a pattern it also
gives the language and the number of the sentence. Numbered sentences may come in any order and in
any of the files (SlamKit sorts by duration), so they are first collected in a temporary file.
"""

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from tqdm import tqdm

from tresse.data.left_out import LeftOut
from tresse.data.naming import Name, Naming, find_fault
from tresse.data.store.documents import MAX_SENTENCE_TOKENS, Document, pack
from tresse.data.store.tokenizer import Tokenizer


class Utterance(NamedTuple):
    """Units of one audio file."""

    name: str
    """Name in the file, which the key pattern is searched in."""
    key: str
    """Key when there is no pattern."""
    units: np.ndarray | list[int]
    where: str
    """File and place in it, for messages."""
    lengths: list[int] | None = None
    """Number of units in each sentence; None when the file does not know sentences."""
    language: str = ""
    """Language; empty when the file does not name it."""
    words: list[list[int]] | None = None
    """For each sentence, the units at which its words begin; None when the file does not know."""


def read_documents(
    utterances: Iterable[Utterance],
    naming: Naming,
    tokenizer: Tokenizer,
    spool: Path,
    left_out: LeftOut | None = None,
) -> Iterator[Document]:
    """Yield the documents; numbered sentences go through a temporary file in the folder `spool`.

    ValueError names the place, or `left_out` gets it: of a name without key or language, of a unit
    out of range, and of a sentence that is empty, missing or too long. A sentence that occurs twice
    is always an error.
    """
    left_out = left_out or LeftOut()
    if naming.has_sentences:
        return _gather(utterances, naming, tokenizer, spool, left_out)
    return _one_by_one(utterances, naming, left_out)


def _one_by_one(
    utterances: Iterable[Utterance], naming: Naming, left_out: LeftOut
) -> Iterator[Document]:
    """Yield a document for every utterance."""
    for utterance in utterances:
        try:
            name = naming.parse(utterance.name, utterance.key, utterance.language)
            sentences = _cut(utterance, naming)
        except ValueError as error:
            left_out.add(_where(utterance), str(error))
        else:
            yield Document(name.key, name.language, sentences, utterance.words, _where(utterance))


def _where(utterance: Utterance) -> str:
    return f"{utterance.where} ({utterance.name})"


def _cut(utterance: Utterance, naming: Naming) -> list[list[int] | np.ndarray]:
    """Cut an utterance into its sentences."""
    units, lengths = utterance.units, utterance.lengths
    if lengths is not None:
        ends = np.cumsum(lengths).tolist()
        return [units[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    if len(units) <= MAX_SENTENCE_TOKENS:
        return [units]
    if not naming.split_long:
        raise ValueError(
            f"{len(units)} units, a sentence has at most {MAX_SENTENCE_TOKENS}; cut the audio at "
            "sentences, or use --split-long if the corpus is for one language only"
        )
    starts = range(0, len(units), MAX_SENTENCE_TOKENS)
    return [units[start : start + MAX_SENTENCE_TOKENS] for start in starts]


@dataclass
class _Sentences:
    """Index of the sentences in the temporary file, 28 bytes each, and of their documents."""

    spool: IO[bytes]
    document: array = field(default_factory=lambda: array("q"))
    number: array = field(default_factory=lambda: array("q"))
    length: array = field(default_factory=lambda: array("I"))
    documents: dict[tuple[str, str], int] = field(default_factory=dict)
    """Number of each document by key and language, in the order of the first sentences."""
    wheres: list[str] = field(default_factory=list)
    """File and place of each document's first sentence, for messages."""

    faults: dict[tuple[str, str], str] = field(default_factory=dict)
    """Why a sentence of a document cannot be used."""

    def spoil(self, name: Name, reason: str) -> None:
        """Note that a sentence of a document cannot be used."""
        self.faults.setdefault((name.key, name.language), reason)

    def add(self, name: Name, tokens: np.ndarray, where: str) -> None:
        """Append a sentence to the file and to the index."""
        index = self.documents.setdefault((name.key, name.language), len(self.documents))
        if index == len(self.wheres):
            self.wheres.append(where)
        assert name.sentence is not None
        self.document.append(index)
        self.number.append(name.sentence)
        self.length.append(tokens.size)
        self.spool.write(tokens.data)


def _gather(
    utterances: Iterable[Utterance],
    naming: Naming,
    tokenizer: Tokenizer,
    folder: Path,
    left_out: LeftOut,
) -> Iterator[Document]:
    """Yield the documents in the order of their first sentences."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as spool:
        sentences = _Sentences(spool)
        for utterance in utterances:
            try:
                name = naming.parse(utterance.name, utterance.key, utterance.language)
            except ValueError as error:
                left_out.add(_where(utterance), str(error))
                continue
            try:
                sentences.add(name, _pack(utterance, tokenizer), _where(utterance))
            except ValueError as error:
                if left_out.on_fault == "stop":
                    left_out.add(_where(utterance), str(error))
                sentences.spoil(name, f"{_where(utterance)}: {error}")
        spool.flush()
        if sentences.documents or sentences.faults:
            yield from _in_order(sentences, tokenizer, left_out)


def _pack(utterance: Utterance, tokenizer: Tokenizer) -> np.ndarray:
    if utterance.lengths is not None:
        raise ValueError("has sentences; --key-pattern must not number them")
    return pack([utterance.units], None, tokenizer).tokens


def _in_order(sentences: _Sentences, tokenizer: Tokenizer, left_out: LeftOut) -> Iterator[Document]:
    """Yield the documents that are whole, their sentences in the order of the numbers."""
    document, number = np.array(sentences.document), np.array(sentences.number)
    length = np.array(sentences.length, np.int64)
    starts = np.cumsum(length) - length
    order = np.lexsort((number, document))
    ends = np.cumsum(np.bincount(document))
    empty = length.sum() == 0
    tokens = np.empty(0) if empty else np.memmap(sentences.spool, tokenizer.dtype, mode="r")
    first = min(int(number.min(initial=1)), 1)  # all documents count from 0, or all from 1
    for index, (key, language) in enumerate(tqdm(sentences.documents, "gather", disable=None)):
        own = order[ends[index - 1] if index else 0 : ends[index]]
        fault = sentences.faults.pop((key, language), "")
        fault = fault or find_fault(number[own], length[own], first)
        if left_out.keeps(sentences.wheres[index], key, language, fault):
            pieces = [np.array(tokens[starts[i] : starts[i] + length[i]]) for i in own]
            yield Document(key, language, pieces, None, sentences.wheres[index])
    for (key, language), fault in sentences.faults.items():  # of documents without another sentence
        left_out.add(fault.partition(": ")[0], fault, key, language)
