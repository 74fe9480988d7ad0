"""Translations: the documents of a corpus that share a key, in `alignment-{hash}.safetensors`.

The file holds a table with a line for each key that two or more languages share. Its columns are
the tensors `documents.{language}`, I64 [num_keys]: the number of the document with that key among
the documents of the language, or -1. Lines are in the order of the first language's documents. The
table is built by sorting the hashes of keys, without a Python object per document.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tresse.data.store.shards import Shard
from tresse.data.store.tensor_file import open_tensors, take_tensors, write_tensors

FORMAT, VERSION = "tresse-alignment", "1"
PREFIX = "documents."
MISSING = -1
NUM_LISTED = 10
BLOCK_LINES = 1 << 20

Shards = Mapping[str, Sequence[Shard]]


@dataclass(frozen=True)
class Misaligned:
    """A key whose documents differ in their number of sentences."""

    key: str
    sentences: dict[str, int]
    """Number of sentences of the document in each language."""


class Listed(Protocol):
    """A recording or a text of a manifest; its `str` names its language and key."""

    @property
    def key(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def sentences(self) -> Sequence[Any]: ...
    @property
    def where(self) -> str: ...


def check_translations(documents: Iterable[Listed], advice: str = "") -> None:
    """Check documents before the work on them begins; `write_corpus` checks the same at its end.

    ValueError names the lines of the manifest: a key occurs twice in a language, or documents that
    share a key differ in their number of sentences. advice: end of the latter message, what the
    user can do.
    """
    seen: dict[tuple[str, str], Listed] = {}
    first: dict[str, Listed] = {}
    for document in documents:
        former = seen.setdefault((document.language, document.key), document)
        if former is not document:
            raise ValueError(
                f"{document.where}: key {document.key!r} is in {document.language} already "
                f"({former.where})"
            )
        other = first.setdefault(document.key, document)
        if len(other.sentences) != len(document.sentences):
            raise ValueError(
                f"{document.where}: {document} has {len(document.sentences)} sentences, its "
                f"translation {other} ({other.where}) has {len(other.sentences)}{advice}"
            )


def build_table(shards: Shards) -> np.ndarray:
    """Return the table, int64 [num_keys, languages]; MISSING where a language lacks the key.

    ValueError for a key that occurs twice in a language, and for two keys with the same hash.
    """
    hashes = [np.concatenate([s.key_hash for s in shards[language]]) for language in shards]
    order = np.argsort(np.concatenate(hashes), kind="stable")
    ordered = np.concatenate(hashes)[order]
    sizes = np.array([h.size for h in hashes])
    column = np.repeat(np.arange(len(hashes)), sizes)[order]
    document = order - (np.cumsum(sizes) - sizes)[column]
    same = ordered[1:] == ordered[:-1]
    for i in np.flatnonzero(same & (column[1:] == column[:-1])):
        language = list(shards)[column[i]]
        first, second = (_key(shards[language], int(document[j])) for j in (i, i + 1))
        raise ValueError(repeated_key(language, first, second))
    number = np.cumsum(np.append(True, ~same)) - 1
    shared = np.append(False, same) | np.append(same, False)
    lines = np.unique(number[shared], return_inverse=True)[1]
    table = np.full((int(lines.max()) + 1 if lines.size else 0, len(hashes)), MISSING)
    table[lines, column[shared]] = document[shared]
    table = table[np.lexsort(np.where(table == MISSING, np.iinfo(np.int64).max, table).T[::-1])]
    _check_keys(shards, table)
    return table


def repeated_key(language: str, first: str, second: str) -> str:
    """Return the message for two documents of a language whose keys have the same hash."""
    if first == second:
        return f"language {language}: two documents have the key {first!r}; keys must be unique"
    return (
        f"language {language}: keys {first!r} and {second!r} have the same 64-bit hash; rename one"
    )


def find_misaligned(shards: Shards, table: np.ndarray) -> list[Misaligned]:
    """Return the keys of the table whose documents differ in their number of sentences."""
    least = np.full(len(table), np.iinfo(np.int64).max)
    most = np.zeros(len(table), np.int64)
    counts = {}
    for column, language in enumerate(shards):
        own = np.concatenate([np.diff(s.document_sentences) for s in shards[language]])
        counts[language] = np.where(table[:, column] == MISSING, 0, own[table[:, column]])
        least = np.minimum(least, np.where(table[:, column] == MISSING, least, counts[language]))
        most = np.maximum(most, counts[language])
    result = []
    for line in np.flatnonzero(least != most):
        column = int(np.argmax(table[line] != MISSING))
        key = _key(list(shards.values())[column], int(table[line, column]))
        sentences = {name: int(counts[name][line]) for name in shards if counts[name][line]}
        result.append(Misaligned(key, sentences))
    return result


def check_aligned(misaligned: Sequence[Misaligned]) -> None:
    """Raise ValueError that lists the misaligned keys, if there are any."""
    if misaligned:
        raise ValueError(
            f"{len(misaligned)} keys have documents that differ in their number of sentences; "
            f"correct or leave them out (--skip-misaligned):\n{describe_misaligned(misaligned)}"
        )


def describe_misaligned(misaligned: Sequence[Misaligned]) -> str:
    """Return a line of text for each of the first keys, and the number of further ones."""
    lines = [
        f"  {m.key!r}: " + ", ".join(f"{name} {count}" for name, count in m.sentences.items())
        for m in misaligned[:NUM_LISTED]
    ]
    if len(misaligned) > NUM_LISTED:
        lines.append(f"  ... and {len(misaligned) - NUM_LISTED} more")
    return "\n".join(lines)


def write_translations(
    folder: Path, languages: Sequence[str], table: np.ndarray
) -> tuple[Path, dict[str, str]]:
    """Write the table; return the file and the hashes of its tensors."""
    columns = {
        PREFIX + language: np.ascontiguousarray(table[:, i]) for i, language in enumerate(languages)
    }
    return write_tensors(folder, "alignment", columns, {"format": FORMAT, "version": VERSION})


def open_translations(
    path: Path, num_bytes: int, hashes: Mapping[str, str], num_documents: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Return language -> column of the table; check its size, hashes and numbers of documents."""
    file = open_tensors(path)
    if file.num_bytes != num_bytes:
        raise ValueError(f"{path}: {file.num_bytes} bytes, expected {num_bytes}")
    if file.metadata != {"format": FORMAT, "version": VERSION}:
        raise ValueError(f"{path}: metadata {file.metadata}, expected {FORMAT} version {VERSION}")
    names = {PREFIX + language: ("I64",) for language in num_documents}
    columns = take_tensors(file, names, {})
    file.check_hashes(hashes)
    if len({column.size for column in columns.values()}) > 1:
        raise ValueError(f"{path}: the tensors differ in length")
    for language, size in num_documents.items():
        column = columns[PREFIX + language]
        if column.size and (column.min() < MISSING or column.max() >= size):
            raise ValueError(f"{path}: a document number of {language} is outside 0 to {size - 1}")
    return {language: columns[PREFIX + language] for language in num_documents}


def _key(shards: Sequence[Shard], document: int) -> str:
    for shard in shards:
        if document < shard.num_documents:
            return shard.key(document)
        document -= shard.num_documents
    raise AssertionError("a document beyond the last shard")


def _check_keys(shards: Shards, table: np.ndarray) -> None:
    """Compare the keys of each line with that of its first language: equal hashes are no proof."""
    texts = [_KeyTable(list(own)) for own in shards.values()]
    for start in range(0, len(table), BLOCK_LINES):
        block = table[start : start + BLOCK_LINES]
        first = np.argmax(block != MISSING, axis=1)
        for a in range(len(texts)):
            for b in range(a + 1, len(texts)):
                lines = np.flatnonzero((first == a) & (block[:, b] != MISSING))
                bad = texts[a].first_difference(block[lines, a], texts[b], block[lines, b])
                if bad is not None:
                    keys = [texts[i].key(int(block[lines[bad], i])) for i in (a, b)]
                    raise ValueError(
                        f"keys {keys[0]!r} ({list(shards)[a]}) and {keys[1]!r} ({list(shards)[b]}) "
                        "have the same 64-bit hash; rename one"
                    )


class _KeyTable:
    """The keys of a language in one buffer."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.text = np.concatenate([shard.keys for shard in shards])
        self.lengths = np.concatenate([np.diff(shard.key_offsets) for shard in shards])
        self.starts = np.cumsum(self.lengths) - self.lengths

    def key(self, document: int) -> str:
        start = self.starts[document]
        return self.text[start : start + self.lengths[document]].tobytes().decode()

    def first_difference(
        self, documents: np.ndarray, other: "_KeyTable", others: np.ndarray
    ) -> int | None:
        """Return the position of the first pair of documents whose keys differ."""
        lengths = self.lengths[documents]
        unequal = lengths != other.lengths[others]
        if unequal.any():
            return int(np.argmax(unequal))
        ends = np.cumsum(lengths)
        inside = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
        mine = self.text[np.repeat(self.starts[documents], lengths) + inside]
        theirs = other.text[np.repeat(other.starts[others], lengths) + inside]
        bad = np.flatnonzero(mine != theirs)
        return int(np.searchsorted(ends, bad[0], side="right")) if bad.size else None
