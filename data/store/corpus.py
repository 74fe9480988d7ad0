"""A corpus: a folder of immutable shards, a table of their translations, and `corpus.json`.

`corpus.json` commits the corpus: its sha256 is the corpus' id and covers the hash of every tensor,
so a checkpoint that names the id names every token. `corpus_writer.py` writes corpora.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tresse.data.naming import normal_key
from tresse.data.store.cloze import ITEMS, verify_items
from tresse.data.store.documents import key_hash
from tresse.data.store.index import FILE, CorpusIndex, read_index
from tresse.data.store.shard_checks import verify_keys, verify_tokens
from tresse.data.store.shards import Shard, ShardEntry
from tresse.data.store.text_tokenizer import verify_text_tokenizer
from tresse.data.store.tokenizer import Tokenizer, join_tokenizers
from tresse.data.store.translations import (
    MISSING,
    build_table,
    check_aligned,
    find_misaligned,
    open_translations,
)


@dataclass(frozen=True, eq=False)
class Corpus:
    """An open corpus. Documents of a language are numbered through its shards."""

    path: Path
    id: str
    """sha256 of `corpus.json`, 64 hex digits."""
    index: CorpusIndex
    languages: tuple[str, ...]
    """Names of the languages, sorted."""
    shards: Mapping[str, tuple[Shard, ...]]
    """Shards of each language, in the order of its documents."""
    translations: Mapping[str, np.ndarray]
    """Columns of the table of translations, int64 [num_keys] per language: the document with each
    key that two or more languages share, or -1. Empty for a corpus of one language."""
    _orders: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    @staticmethod
    def open(path: str | Path) -> "Corpus":
        """Open a folder and check sizes, counts, offsets and all hashes but those of the tokens.

        ValueError names the file and the place.
        """
        folder = Path(path)
        index, content = read_index(folder)
        shards = {
            language: tuple(
                _open_shard(folder / entry.file, language, index.tokenizers[language], entry)
                for entry in entries
            )
            for language, entries in sorted(index.languages.items())
        }
        translations = {}
        if index.alignment is not None:
            sizes = {name: sum(s.num_documents for s in own) for name, own in shards.items()}
            entry = index.alignment
            translations = open_translations(folder / entry.file, entry.bytes, entry.xxh3, sizes)
        id_ = hashlib.sha256(content).hexdigest()
        return Corpus(folder, id_, index, tuple(shards), shards, translations)

    @property
    def tokenizers(self) -> tuple[Tokenizer, ...]:
        """The tokenizer of its speech, that of its text, or both in this order."""
        return join_tokenizers(self.index.tokenizers.values())

    def tokenizer(self, language: str) -> Tokenizer:
        """Return the tokenizer of a language."""
        self._own(language)
        return self.index.tokenizers[language]

    def num_documents(self, language: str) -> int:
        """Number of documents of a language."""
        return sum(shard.num_documents for shard in self._own(language))

    def num_sentences(self, language: str) -> int:
        """Number of sentences of a language."""
        return sum(shard.sentence_lengths.size for shard in self._own(language))

    def num_tokens(self, language: str) -> int:
        """Number of tokens of a language."""
        return sum(shard.tokens.size for shard in self._own(language))

    def aligned(self, languages: Sequence[str]) -> np.ndarray:
        """Return the documents of the keys that all these languages share, int64 [keys, languages].

        The keys are in the order of the first language's documents.
        """
        return np.stack(self.aligned_columns(languages), axis=1)

    def aligned_columns(self, languages: Sequence[str]) -> list[np.ndarray]:
        """Return the columns of `aligned`, as views of the file where no key is left out."""
        sizes = [self.num_documents(language) for language in languages]
        if not languages or len(set(languages)) < len(languages):
            raise ValueError(f"languages {tuple(languages)}: expected one or more, each once")
        if len(languages) == 1:
            return [np.arange(sizes[0])]
        columns = [self.translations[language] for language in languages]
        shared = np.logical_and.reduce([column != MISSING for column in columns])
        if shared.all() and (columns[0][1:] > columns[0][:-1]).all():
            return columns
        keys = np.flatnonzero(shared)
        keys = keys[np.argsort(columns[0][keys], kind="stable")]
        return [column[keys] for column in columns]

    def key(self, language: str, document: int) -> str:
        """Return the key of a document."""
        shard, local = self._locate(language, document)
        return shard.key(local)

    def document(self, language: str, document: int) -> list[np.ndarray]:
        """Return the sentences of a document, views of its shard's tokens."""
        shard, local = self._locate(language, document)
        return shard.document(local)

    def words(self, language: str, document: int) -> list[list[int]] | None:
        """Return the offsets of the words in each sentence, or None if the shard has no words."""
        shard, local = self._locate(language, document)
        return shard.words(local)

    def find(self, language: str, key: str) -> int:
        """Return the number of the document with a key.

        The first call for a language sorts its hashes. ValueError when no document has the key.
        """
        if language not in self._orders:
            hashes = np.concatenate([shard.key_hash for shard in self._own(language)])
            order = np.argsort(hashes, kind="stable")
            self._orders[language] = (hashes[order], order)
        hashes, order = self._orders[language]
        key = normal_key(key)
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


def check_tokenizers(corpora: Sequence[Corpus]) -> dict[str, Tokenizer]:
    """Return the tokenizer of each language of several corpora.

    ValueError names the corpus whose tokens are not those of the ones before it: another tokenizer
    of speech, another one of text, or a language that is speech here and text there.
    """
    found: dict[str, Tokenizer] = {}
    for corpus in corpora:
        for language in corpus.languages:
            tokenizer = corpus.tokenizer(language)
            try:
                if (former := found.setdefault(language, tokenizer)) != tokenizer:
                    raise ValueError(f"{tokenizer}, but others of {former}; tokenise all alike")
                join_tokenizers(found.values())
            except ValueError as error:
                raise ValueError(f"{corpus.path}: {language} has {error}") from None
    return found


def verify_corpus(path: str | Path) -> Corpus:
    """Open a corpus and check the rest: every token's range and hash, every key, all translations.

    The cloze items are checked too, if it has any. ValueError names the file and the fault.
    """
    corpus = Corpus.open(path)
    total = sum(corpus.num_tokens(language) for language in corpus.languages)
    with tqdm(total=total, unit="tok", unit_scale=True, desc="verify", disable=None) as bar:
        for language in corpus.languages:
            vocab_size = corpus.tokenizer(language).vocab_size
            entries = corpus.index.languages[language]
            for shard, entry in zip(corpus.shards[language], entries, strict=True):
                verify_tokens(shard.file, vocab_size, entry.xxh3["tokens"], bar)
                verify_keys(shard.file)
    try:
        table = build_table(corpus.shards)
        check_aligned(find_misaligned(corpus.shards, table))
    except ValueError as error:
        raise ValueError(f"{corpus.path}: {error}") from None
    for column, language in enumerate(corpus.translations):
        if not np.array_equal(table[:, column], corpus.translations[language]):
            raise ValueError(
                f"{corpus.path}: the alignment of {language} does not follow from the keys"
            )
    verify_text_tokenizer(corpus.path, corpus.tokenizers)
    if (corpus.path / ITEMS).exists():
        verify_items(corpus.path / ITEMS, corpus.languages, corpus.find)
    return corpus


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
