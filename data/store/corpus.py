"""A corpus: a folder of immutable shards, their alignment, and the `corpus.json` that commits them.

The sha256 of `corpus.json` is the corpus' id: it covers the hash of every tensor, so a checkpoint
that names the id names every token. A corpus is built in a folder `{out}.{random}.tmp` that gets
its name when it is complete.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tresse.data.durable import link_or_copy, staged_folder
from tresse.data.store.cloze import merge_items
from tresse.data.store.documents import Document, key_hash
from tresse.data.store.index import (
    FILE,
    AlignmentEntry,
    CorpusIndex,
    read_index,
    write_index,
)
from tresse.data.store.shard_checks import verify_keys, verify_tokens
from tresse.data.store.shards import Shard, ShardEntry, ShardWriter
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.store.translations import (
    MISSING,
    build_table,
    describe_misaligned,
    find_misaligned,
    open_alignment,
    write_alignment,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Corpus:
    """An open corpus. Documents of a language are numbered through its shards."""

    path: Path
    id: str
    """sha256 of `corpus.json`, 64 hex digits."""
    index: CorpusIndex
    tokenizer: Tokenizer
    languages: tuple[str, ...]
    """Sorted."""
    shards: Mapping[str, tuple[Shard, ...]]
    alignment: Mapping[str, np.ndarray]
    """Per language, documents of the keys that two or more languages have; -1 for none."""
    _orders: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    @staticmethod
    def open(path: str | Path) -> "Corpus":
        """Open a folder and check all but the tokens: sizes, counts, offsets, the indices' hashes.

        ValueError names the file and the place.
        """
        folder = Path(path)
        index, content = read_index(folder)
        shards = {
            language: tuple(
                _open_shard(folder / entry.file, language, index.tokenizer, entry)
                for entry in entries
            )
            for language, entries in sorted(index.languages.items())
        }
        alignment = {}
        if index.alignment is not None:
            sizes = {name: sum(s.num_documents for s in own) for name, own in shards.items()}
            entry = index.alignment
            alignment = open_alignment(folder / entry.file, entry.bytes, entry.xxh3, sizes)
        id_ = hashlib.sha256(content).hexdigest()
        return Corpus(folder, id_, index, index.tokenizer, tuple(shards), shards, alignment)

    def num_documents(self, language: str) -> int:
        """Documents of a language."""
        return sum(shard.num_documents for shard in self._own(language))

    def num_sentences(self, language: str) -> int:
        """Sentences of a language."""
        return sum(shard.sentence_lengths.size for shard in self._own(language))

    def num_tokens(self, language: str) -> int:
        """Tokens of a language."""
        return sum(shard.tokens.size for shard in self._own(language))

    def aligned(self, languages: Sequence[str]) -> np.ndarray:
        """Documents of the keys that all of these languages have, int64 [num_keys, languages].

        Rows are in the order of the first language's documents.
        """
        return np.stack(self.aligned_columns(languages), axis=1)

    def aligned_columns(self, languages: Sequence[str]) -> list[np.ndarray]:
        """The columns of `aligned`; views of the file where they are as it has them."""
        sizes = [self.num_documents(language) for language in languages]
        if not languages or len(set(languages)) < len(languages):
            raise ValueError(f"languages {tuple(languages)}: expected one or more, each once")
        if len(languages) == 1:
            return [np.arange(sizes[0])]
        columns = [self.alignment[language] for language in languages]
        shared = np.logical_and.reduce([column != MISSING for column in columns])
        if shared.all() and (columns[0][1:] > columns[0][:-1]).all():
            return columns
        rows = np.flatnonzero(shared)
        rows = rows[np.argsort(columns[0][rows], kind="stable")]
        return [column[rows] for column in columns]

    def key(self, language: str, document: int) -> str:
        """Key of a document."""
        shard, local = self._locate(language, document)
        return shard.key(local)

    def document(self, language: str, document: int) -> list[np.ndarray]:
        """Sentences of a document, views of its shard's tokens."""
        shard, local = self._locate(language, document)
        return shard.document(local)

    def words(self, language: str, document: int) -> list[list[int]] | None:
        """Offsets of the words in each sentence of a document, or None where they are not known."""
        shard, local = self._locate(language, document)
        return shard.words(local)

    def find(self, language: str, key: str) -> int:
        """Number of the document with a key; the first call of a language sorts its hashes."""
        if language not in self._orders:
            hashes = np.concatenate([shard.key_hash for shard in self._own(language)])
            order = np.argsort(hashes, kind="stable")
            self._orders[language] = (hashes[order], order)
        hashes, order = self._orders[language]
        place = int(np.searchsorted(hashes, np.uint64(key_hash(key))))
        if place < order.size and self.key(language, int(order[place])) == key:
            return int(order[place])
        raise ValueError(f"{self.path}: language {language} has no document with the key {key!r}")

    def _own(self, language: str) -> tuple[Shard, ...]:
        if language not in self.shards:
            raise ValueError(
                f"{self.path}: no language {language!r}; it has {', '.join(self.languages)}"
            )
        return self.shards[language]

    def _locate(self, language: str, document: int) -> tuple[Shard, int]:
        local = document
        for shard in self._own(language):
            if 0 <= local < shard.num_documents:
                return shard, local
            local -= shard.num_documents
        raise ValueError(
            f"{self.path}: no document {document} in {language}, of {self.num_documents(language)}"
        )


def write_corpus(
    out: str | Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    skip_misaligned: bool = False,
) -> Corpus:
    """Write documents of any languages, in any order, as a corpus; they are not held in memory.

    ValueError for a bad document (says where), a key that occurs twice in a language, or documents
    that share a key but not their number of sentences; with `skip_misaligned` these are left out in
    every language, with a warning. Nothing is left at `out` unless all went well.
    """
    _check_free(out)
    with staged_folder(out) as folder:
        languages = _write_shards(folder, documents, tokenizer)
        if skip_misaligned:
            languages = _drop_misaligned(folder, languages, tokenizer)
        _finish(folder, languages, tokenizer)
    return Corpus.open(out)


def merge_corpora(
    inputs: Sequence[str | Path], out: str | Path, *, skip_misaligned: bool = False
) -> Corpus:
    """A corpus of all the shards of several, in that order; hard links where there can be.

    ValueError when tokenizers differ, a language has a key twice, or documents that share a key do
    not have equally many sentences; with `skip_misaligned` the latter are left out in every
    language, with a warning, and their shards are written anew. Cloze items of the inputs are asked
    in the languages that they were asked in.
    """
    if not inputs:
        raise ValueError("no corpora to merge")
    corpora = [Corpus.open(path) for path in inputs]
    for corpus in corpora[1:]:
        if corpus.tokenizer != corpora[0].tokenizer:
            raise ValueError(
                f"{corpus.path} has {corpus.tokenizer}; {corpora[0].path} has "
                f"{corpora[0].tokenizer}; corpora of different tokenizers do not merge"
            )
    _check_free(out)
    languages: dict[str, list[ShardEntry]] = {}
    with staged_folder(out) as folder:
        for corpus in corpora:
            for language, entries in corpus.index.languages.items():
                for entry in entries:
                    if (folder / entry.file).exists():
                        raise ValueError(
                            f"{corpus.path / entry.file} is in an earlier input too; give each once"
                        )
                    link_or_copy(corpus.path / entry.file, folder / entry.file)
                languages.setdefault(language, []).extend(entries)
        if skip_misaligned:
            languages = _drop_misaligned(folder, languages, corpora[0].tokenizer)
        _finish(folder, languages, corpora[0].tokenizer)
        merge_items({corpus.path: corpus.languages for corpus in corpora}, folder)
    return Corpus.open(out)


def verify_corpus(path: str | Path) -> Corpus:
    """Open a corpus, then read all of it: every token's hash and range, every key, the alignment.

    ValueError names the file and what is wrong with it.
    """
    corpus = Corpus.open(path)
    vocab_size = corpus.tokenizer.vocab_size
    total = sum(corpus.num_tokens(language) for language in corpus.languages)
    with tqdm(total=total, unit="tok", unit_scale=True, desc="verify", disable=None) as bar:
        for language in corpus.languages:
            entries = corpus.index.languages[language]
            for shard, entry in zip(corpus.shards[language], entries, strict=True):
                verify_tokens(shard.file, vocab_size, entry.xxh3["tokens"], bar)
                verify_keys(shard.file)
    try:
        table = _aligned_table(corpus.shards)
    except ValueError as error:
        raise ValueError(f"{corpus.path}: {error}") from None
    for column, language in enumerate(corpus.alignment):
        if not np.array_equal(table[:, column], corpus.alignment[language]):
            raise ValueError(
                f"{corpus.path}: the alignment of {language} does not follow from the keys"
            )
    return corpus


def _check_free(out: str | Path) -> None:
    if (Path(out) / FILE).exists():
        raise ValueError(f"{out} already holds a corpus; remove it or choose another folder")


def _write_shards(
    folder: Path, documents: Iterable[Document], tokenizer: Tokenizer
) -> dict[str, list[ShardEntry]]:
    writers: dict[str, ShardWriter] = {}
    with ExitStack() as stack:
        for document in documents:
            try:
                if document.language not in writers:
                    writer = ShardWriter(folder, document.language, tokenizer)
                    writers[document.language] = stack.enter_context(writer)
                writers[document.language].add(document.key, document.sentences, document.words)
            except ValueError as error:
                where = f"{document.where}: " if document.where else ""
                raise ValueError(f"{where}{error}") from None
        return {language: writer.close() for language, writer in sorted(writers.items())}


def _drop_misaligned(
    folder: Path, languages: dict[str, list[ShardEntry]], tokenizer: Tokenizer
) -> dict[str, list[ShardEntry]]:
    """Write the shards that have documents which do not match their translations without them."""
    shards = _open_shards(folder, languages)
    misaligned = find_misaligned(shards, build_table(shards))
    if misaligned:
        logger.warning(
            "left out %d keys, whose documents differ in their number of sentences:\n%s",
            len(misaligned), describe_misaligned(misaligned),
        )  # fmt: skip
    dropped = {key_hash(m.key) for m in misaligned}
    kept: dict[str, list[ShardEntry]] = {}
    for language, own in shards.items():
        for shard, entry in zip(own, languages[language], strict=True):
            if dropped.isdisjoint(shard.key_hash.tolist()):
                kept.setdefault(language, []).append(entry)
                continue
            shard.path.unlink()  # stays mapped while we read it
            written = _write_shards(folder, _documents(shard, dropped), tokenizer)
            kept.setdefault(language, []).extend(written.get(language, []))
    return {language: entries for language, entries in kept.items() if entries}


def _documents(shard: Shard, dropped: set[int]) -> Iterator[Document]:
    for i, hash_ in enumerate(shard.key_hash.tolist()):
        if hash_ not in dropped:
            yield Document(shard.key(i), shard.language, shard.document(i), shard.words(i))


def _finish(folder: Path, languages: Mapping[str, list[ShardEntry]], tokenizer: Tokenizer) -> None:
    """Align the shards in a folder and write `corpus.json`."""
    if not languages:
        raise ValueError("no documents: a corpus needs at least one")
    shards, alignment = _open_shards(folder, languages), None
    if len(shards) > 1:
        path, hashes = write_alignment(folder, tuple(shards), _aligned_table(shards))
        alignment = AlignmentEntry(path.name, path.stat().st_size, hashes)
    else:
        build_table(shards)  # a merge may bring a key twice
    entries = {language: tuple(languages[language]) for language in shards}
    write_index(folder, CorpusIndex(tokenizer, entries, alignment))


def _aligned_table(shards: Mapping[str, Sequence[Shard]]) -> np.ndarray:
    table = build_table(shards)
    misaligned = find_misaligned(shards, table)
    if misaligned:
        raise ValueError(
            f"{len(misaligned)} keys have documents that differ in their number of sentences; "
            f"correct or leave them out (--skip-misaligned):\n{describe_misaligned(misaligned)}"
        )
    return table


def _open_shards(
    folder: Path, languages: Mapping[str, list[ShardEntry]]
) -> dict[str, tuple[Shard, ...]]:
    return {
        language: tuple(Shard.open(folder / entry.file) for entry in languages[language])
        for language in sorted(languages)
    }


def _open_shard(path: Path, language: str, tokenizer: Tokenizer, entry: ShardEntry) -> Shard:
    shard = Shard.open(path)
    found = {
        "language": shard.language,
        "tokenizer": shard.tokenizer,
        "bytes": shard.file.num_bytes,
        "documents": shard.num_documents,
        "sentences": shard.sentence_lengths.size,
        "tokens": shard.tokens.size,
    }
    expected = {"language": language, "tokenizer": tokenizer}
    for name, value in found.items():
        wanted = expected[name] if name in expected else getattr(entry, name)
        if value != wanted:
            raise ValueError(f"{path}: {name} is {value}, {FILE} says {wanted}")
    shard.file.check_hashes(entry.xxh3, skip="tokens")
    return shard
