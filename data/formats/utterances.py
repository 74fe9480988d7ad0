"""Utterances as other tools write them, a name and units each, made into documents.

A name, mostly the path of an audio file, gives the document's key, and with a pattern its language
and the number of the sentence. Sentences of a document may come in any order and anywhere in the
files (SlamKit sorts its files by duration): they are spooled to disk and gathered.
"""

import logging
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np
from tqdm import tqdm

from tresse.data.documents import (
    MAX_SENTENCE_TOKENS,
    Document,
    Tokenizer,
    check_language,
    pack,
)

GROUPS = ("key", "lang", "sentence")
NUM_LISTED = 10
logger = logging.getLogger(__name__)


class Utterance(NamedTuple):
    """Units of one audio file."""

    name: str
    """As the file has it."""
    key: str
    """What it is called when no pattern says otherwise."""
    units: np.ndarray | list[int]
    where: str
    """Where it comes from, for messages."""
    lengths: list[int] | None = None
    """Units of each sentence, where the file says."""
    language: str = ""
    """Where the file says."""


class Name(NamedTuple):
    """What the name of a file says."""

    key: str
    language: str
    sentence: int | None


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How names become keys, languages and sentences: flags of every import."""

    lang: str = ""
    """Language of all of it, unless the key pattern finds languages."""
    key_pattern: str = ""
    r"""Regular expression that is searched in each name, with a group `key` and, if need be, groups
    `lang` and `sentence`: '(?P<lang>en|fr)/(?P<key>.+)_(?P<sentence>\d+)\.flac'. With `sentence`,
    which counts from 0 or from 1, the files of a document are gathered in that order, wherever they
    stand. Without a pattern a file is a document of one sentence."""
    split_long: bool = False
    """Cut files of more than 65,535 units, the most that a sentence has, into several sentences;
    good for one language only. Otherwise such a file is an error."""
    skip_incomplete: bool = False
    """Leave out documents in which a sentence is empty or missing, and list them. Otherwise they
    are an error."""

    def __post_init__(self) -> None:
        groups = set(self.pattern.groupindex) if self.pattern else set()
        if self.pattern and ("key" not in groups or groups - set(GROUPS)):
            raise ValueError(
                f"--key-pattern {self.key_pattern!r} has the groups {sorted(groups)}; expected "
                "(?P<key>...) and perhaps (?P<lang>...) and (?P<sentence>...)"
            )
        if self.lang:
            check_language(self.lang)
        if self.lang and "lang" in groups:
            raise ValueError("--lang and the group `lang` of --key-pattern; give one of them")
        if self.split_long and self.has_sentences:
            raise ValueError("--split-long would cut sentences that --key-pattern numbers")

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """The key pattern, compiled."""
        try:
            return re.compile(self.key_pattern) if self.key_pattern else None
        except re.error as error:
            raise ValueError(f"--key-pattern {self.key_pattern!r}: {error}") from error

    @property
    def has_sentences(self) -> bool:
        """Whether a file is a sentence rather than a document."""
        return self.pattern is not None and "sentence" in self.pattern.groupindex

    @property
    def has_languages(self) -> bool:
        """Whether every document has a language."""
        return bool(self.lang) or (self.pattern is not None and "lang" in self.pattern.groupindex)

    def parse(self, utterance: Utterance) -> Name:
        """Read the name of an utterance."""
        found = {"key": utterance.key, "lang": utterance.language or self.lang}
        if self.pattern:
            match = self.pattern.search(utterance.name)
            if match is None:
                raise ValueError(
                    f"name {utterance.name!r} does not match --key-pattern {self.key_pattern!r}"
                )
            found |= match.groupdict()
        for group, value in found.items():
            if value is None:
                raise ValueError(f"name {utterance.name!r}: --key-pattern finds no {group} in it")
        sentence = found.get("sentence")
        if sentence is not None and not re.fullmatch("[0-9]{1,9}", sentence):
            raise ValueError(
                f"name {utterance.name!r}: sentence is {sentence!r}, expected a number"
            )
        if not found["lang"]:
            raise ValueError("no language; give --lang or a group `lang` in --key-pattern")
        language = check_language(found["lang"])
        return Name(found["key"], language, None if sentence is None else int(sentence))


def stem(name: str) -> str:
    """The file name without folder and ending: the usual key."""
    return PurePosixPath(name).stem


def read_documents(
    utterances: Iterable[Utterance], naming: Naming, tokenizer: Tokenizer, spool: Path
) -> Iterator[Document]:
    """Documents of the utterances; with numbered sentences by way of a file in the folder `spool`.

    ValueError says where: a name without a key or language, a unit out of range, a sentence that is
    empty, missing, there twice or too long.
    """
    if naming.has_sentences:
        return _gather(utterances, naming, tokenizer, spool)
    return _one_by_one(utterances, naming)


def _one_by_one(utterances: Iterable[Utterance], naming: Naming) -> Iterator[Document]:
    """A document of every utterance."""
    left_out = LeftOut()
    for utterance in utterances:
        name = _parse(naming, utterance)
        where = f"{utterance.where} ({utterance.name})"
        lengths = utterance.lengths or [len(utterance.units)]
        if naming.skip_incomplete and not all(lengths):
            left_out.add(name.key, name.language, f"sentence {lengths.index(0)} is empty")
            continue
        yield Document(name.key, name.language, _cut(utterance, naming), None, where)
    left_out.report()


def _cut(utterance: Utterance, naming: Naming) -> list[list[int] | np.ndarray]:
    units, lengths = utterance.units, utterance.lengths
    if lengths is not None:
        ends = np.cumsum(lengths).tolist()
        return [units[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    if len(units) <= MAX_SENTENCE_TOKENS:
        return [units]
    if not naming.split_long:
        raise ValueError(
            f"{utterance.where} ({utterance.name}): {len(units)} units, a sentence has at most "
            f"{MAX_SENTENCE_TOKENS}; cut the audio at sentences, or use --split-long if this is "
            "for one language only"
        )
    starts = range(0, len(units), MAX_SENTENCE_TOKENS)
    return [units[start : start + MAX_SENTENCE_TOKENS] for start in starts]


def _parse(naming: Naming, utterance: Utterance) -> Name:
    try:
        return naming.parse(utterance)
    except ValueError as error:
        raise ValueError(f"{utterance.where}: {error}") from error


@dataclass
class _Sentences:
    """What is known of the spooled sentences, 28 bytes each, and of their documents."""

    spool: IO[bytes]
    document: array = field(default_factory=lambda: array("q"))
    number: array = field(default_factory=lambda: array("q"))
    length: array = field(default_factory=lambda: array("I"))
    documents: dict[tuple[str, str], int] = field(default_factory=dict)
    """Key and language, in order of their first sentence."""
    wheres: list[str] = field(default_factory=list)
    """Where the first sentence is."""

    def add(self, name: Name, tokens: np.ndarray, where: str) -> None:
        index = self.documents.setdefault((name.key, name.language), len(self.documents))
        if index == len(self.wheres):
            self.wheres.append(where)
        assert name.sentence is not None
        self.document.append(index)
        self.number.append(name.sentence)
        self.length.append(tokens.size)
        self.spool.write(tokens.data)


def _gather(
    utterances: Iterable[Utterance], naming: Naming, tokenizer: Tokenizer, folder: Path
) -> Iterator[Document]:
    """Documents in the order of their first sentence."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as spool:
        sentences = _Sentences(spool)
        for utterance in utterances:
            name = _parse(naming, utterance)
            tokens = _pack(utterance, tokenizer, naming.skip_incomplete)
            sentences.add(name, tokens, f"{utterance.where} ({utterance.name})")
        spool.flush()
        if sentences.documents:
            yield from _gathered(sentences, tokenizer, naming.skip_incomplete)


def _pack(utterance: Utterance, tokenizer: Tokenizer, skip_empty: bool) -> np.ndarray:
    if utterance.lengths is not None:
        raise ValueError(f"{utterance.where}: has sentences; --key-pattern must not number them")
    if skip_empty and not len(utterance.units):
        return np.empty(0, tokenizer.dtype)
    try:
        return pack([utterance.units], None, tokenizer).tokens
    except ValueError as error:
        raise ValueError(f"{utterance.where} ({utterance.name}): {error}") from None


def _gathered(
    sentences: _Sentences, tokenizer: Tokenizer, skip_incomplete: bool
) -> Iterator[Document]:
    document, number = np.array(sentences.document), np.array(sentences.number)
    length = np.array(sentences.length, np.int64)
    starts = np.cumsum(length) - length
    order = np.lexsort((number, document))
    ends = np.cumsum(np.bincount(document))
    empty = length.sum() == 0
    tokens = np.empty(0) if empty else np.memmap(sentences.spool, tokenizer.dtype, mode="r")
    first = min(int(number.min()), 1)  # counted from 0 or from 1, in all documents alike
    left_out = LeftOut()
    for index, (key, language) in enumerate(tqdm(sentences.documents, "gather", disable=None)):
        own = order[ends[index - 1] if index else 0 : ends[index]]
        fault = find_fault(number[own], length[own], first)
        if fault and skip_incomplete and "twice" not in fault:
            left_out.add(key, language, fault)
        elif fault:
            raise ValueError(
                f"{sentences.wheres[index]}: document {key!r} ({language}): {fault}; correct the "
                "files or --key-pattern, or leave such documents out (--skip-incomplete)"
            )
        else:
            pieces = [np.array(tokens[starts[i] : starts[i] + length[i]]) for i in own]
            yield Document(key, language, pieces, None, sentences.wheres[index])
    left_out.report()


def find_fault(numbers: np.ndarray, lengths: np.ndarray, first: int) -> str:
    """What is wrong with the sorted sentences of a document, if anything."""
    expected = first + np.arange(numbers.size)
    if not np.array_equal(numbers, expected):
        place = int(np.argmax(numbers != expected))
        if place and numbers[place] == numbers[place - 1]:
            return f"sentence {numbers[place]} is there twice"
        return f"sentence {expected[place]} is missing (numbers start at {first} and go on by 1)"
    if not lengths.all():
        return f"sentence {numbers[np.argmin(lengths)]} is empty"
    return ""


class LeftOut:
    """Counts what is left out, and lists the first."""

    def __init__(self) -> None:
        self.count = 0
        self.lines: list[str] = []

    def add(self, key: str, language: str, fault: str) -> None:
        """Note a document."""
        self.count += 1
        if self.count <= NUM_LISTED:
            self.lines.append(f"  {key!r} ({language}): {fault}")

    def report(self) -> None:
        """Warn of them."""
        if self.count > NUM_LISTED:
            self.lines.append(f"  ... and {self.count - NUM_LISTED} more")
        if self.count:
            logger.warning("left out %d documents:\n%s", self.count, "\n".join(self.lines))
