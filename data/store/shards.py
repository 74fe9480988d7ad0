"""Shards: documents of one language in a safetensors file, written as a stream, memory-mapped.

For D documents, S sentences and N tokens (`docs/format.md` explains why):

    tokens            U16 [N], or U32 if the vocabulary needs it
    sentence_lengths  U16 [S]       tokens of each sentence
    document_lengths  U32 [D]       tokens of each document
    document_tokens, document_sentences   I64 [D+1]   offsets of the documents in the two above
    key_hash          U64 [D]       xxh3_64 of the key
    keys, key_offsets               U8, I64 [D+1]     the keys in UTF-8, for messages
    word_lengths, document_words    U16, I64 [D+1]    optional: the words partition their sentence
"""

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from tresse.data.left_out import ContradictionError
from tresse.data.naming import check_language, normal_key
from tresse.data.store.documents import key_hash, pack
from tresse.data.store.shard_checks import check_index
from tresse.data.store.tensor_file import TensorFile, open_tensors, take_tensors, write_tensors
from tresse.data.store.tokenizer import Tokenizer

FORMAT, VERSION = "tresse-shard", "1"
MAX_SHARD_BYTES = 1 << 32
BYTES_PER_HEADER, BYTES_PER_DOCUMENT = 4096, 44  # upper bounds, to know when a shard is full
TENSORS = {
    "tokens": ("U16", "U32"),
    "sentence_lengths": ("U16",),
    "document_lengths": ("U32",),
    "document_tokens": ("I64",),
    "document_sentences": ("I64",),
    "key_hash": ("U64",),
    "keys": ("U8",),
    "key_offsets": ("I64",),
}
WORD_TENSORS = {"word_lengths": ("U16",), "document_words": ("I64",)}


@dataclass(frozen=True)
class ShardEntry:
    """The entry of a shard in `corpus.json`."""

    file: str
    bytes: int
    documents: int
    sentences: int
    tokens: int
    xxh3: dict[str, str]
    """Hash of every tensor."""


def shard_metadata(
    language: str, tokenizer: Tokenizer, documents: int, sentences: int, tokens: int
) -> dict[str, str]:
    """Return the metadata of a shard's header; safetensors allows only strings."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "language": language,
        **{f"tokenizer_{name}": str(value) for name, value in asdict(tokenizer).items()},
        "num_documents": str(documents),
        "num_sentences": str(sentences),
        "num_tokens": str(tokens),
    }


@dataclass
class _Index:
    """The arrays but `tokens` of a shard that is being written, a few dozen bytes a document."""

    sentence_lengths: array = field(default_factory=lambda: array("H"))
    document_lengths: array = field(default_factory=lambda: array("I"))
    document_tokens: array = field(default_factory=lambda: array("q", [0]))
    document_sentences: array = field(default_factory=lambda: array("q", [0]))
    key_hash: array = field(default_factory=lambda: array("Q"))
    keys: bytearray = field(default_factory=bytearray)
    key_offsets: array = field(default_factory=lambda: array("q", [0]))
    word_lengths: array = field(default_factory=lambda: array("H"))
    document_words: array = field(default_factory=lambda: array("q", [0]))

    def tensors(self) -> dict[str, np.ndarray]:
        words = self.word_lengths
        skipped = () if words else WORD_TENSORS
        return {
            name: np.frombuffer(value, np.uint8 if name == "keys" else f"<{value.typecode}")
            for name, value in vars(self).items()
            if name not in skipped
        }


class ShardWriter:
    """Writes the documents of one language into shards of at most `max_bytes`.

    Tokens are spooled to a temporary file until a shard is full. Call `close` at the end: leaving
    the `with` block without it drops the documents of the last shard. A killed writer leaves only
    files that end in `.tmp`.
    """

    def __init__(
        self, folder: Path, language: str, tokenizer: Tokenizer, max_bytes: int = MAX_SHARD_BYTES
    ) -> None:
        self.folder, self.language = Path(folder), check_language(language)
        self.tokenizer, self.max_bytes = tokenizer, max_bytes
        self.entries: list[ShardEntry] = []
        self._hashes: set[int] = set()
        self._has_words: bool | None = None
        self._spool = self.folder / f"{language}.tokens.tmp"
        self._start()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._spool.unlink(missing_ok=True)

    def add(
        self,
        key: str,
        sentences: Sequence[Sequence[int] | np.ndarray],
        words: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Append a document, its key in NFC; ValueError names key, language, sentence, position."""
        key = normal_key(key)
        try:
            name, hash_ = key.encode(), key_hash(key)
            if hash_ in self._hashes:
                raise ContradictionError(
                    "this key is taken in this language (or, very rarely, another key with the "
                    "same 64-bit hash); keys must be unique in Unicode's normal form NFC"
                )
            packed = pack(sentences, words, self.tokenizer)
            if self._has_words not in (None, words is not None):
                raise ContradictionError(
                    "some documents have words, some do not; prepare them apart and merge"
                )
        except ValueError as error:
            kind = ContradictionError if isinstance(error, ContradictionError) else ValueError
            raise kind(f"document {key!r} ({self.language}): {error}") from error
        self._has_words = words is not None
        self._hashes.add(hash_)
        growth = sum(values.nbytes for values in packed) + len(name) + BYTES_PER_DOCUMENT
        if self._index.key_hash and self._num_bytes + growth > self.max_bytes:
            self._finish()
            self._start()
        self._num_bytes += growth
        self._file.write(packed.tokens.data)
        index, num_tokens = self._index, packed.tokens.size
        index.sentence_lengths.frombytes(packed.sentence_lengths.tobytes())
        index.word_lengths.frombytes(packed.word_lengths.tobytes())
        index.document_lengths.append(num_tokens)
        index.document_tokens.append(index.document_tokens[-1] + num_tokens)
        index.document_sentences.append(len(index.sentence_lengths))
        index.document_words.append(len(index.word_lengths))
        index.key_hash.append(hash_)
        index.keys += name
        index.key_offsets.append(len(index.keys))

    def close(self) -> list[ShardEntry]:
        """Finish the last shard; return the entries of all shards in the order of the documents."""
        if self._index.key_hash:
            self._finish()
        else:
            self._file.close()
            self._spool.unlink()
        return self.entries

    def _start(self) -> None:
        self._index = _Index()
        self._num_bytes = BYTES_PER_HEADER
        self._file = self._spool.open("wb")

    def _finish(self) -> None:
        self._file.close()
        tensors = self._index.tensors()
        tensors["tokens"] = np.memmap(self._spool, self.tokenizer.dtype, mode="r").view(np.ndarray)
        counts = {
            "documents": tensors["key_hash"].size,
            "sentences": tensors["sentence_lengths"].size,
            "tokens": tensors["tokens"].size,
        }
        metadata = shard_metadata(self.language, self.tokenizer, **counts)
        path, hashes = write_tensors(self.folder, self.language, tensors, metadata)
        self._spool.unlink()
        self.entries.append(ShardEntry(path.name, path.stat().st_size, **counts, xxh3=hashes))


@dataclass(frozen=True)
class Shard:
    """An open shard. All arrays are read-only views of the mapped file."""

    file: TensorFile
    language: str
    tokenizer: Tokenizer
    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_lengths: np.ndarray
    document_tokens: np.ndarray
    document_sentences: np.ndarray
    key_hash: np.ndarray
    keys: np.ndarray
    key_offsets: np.ndarray
    word_lengths: np.ndarray | None = None
    document_words: np.ndarray | None = None

    @staticmethod
    def open(path: Path) -> "Shard":
        """Map a shard and check all but its tokens; ValueError names the file and the place."""
        shard = Shard.map(path)
        check_index(shard.file)
        return shard

    @staticmethod
    def map(path: Path) -> "Shard":
        """Map a shard whose content is known to be sound; only its header is checked."""
        file = open_tensors(Path(path))
        language, tokenizer = _read_metadata(file)
        tensors = take_tensors(file, TENSORS, WORD_TENSORS)
        if file.tensors["tokens"].dtype != tokenizer.dtype:
            raise ValueError(
                f"{path}: tokens are {file.tensors['tokens'].dtype}, a vocabulary of "
                f"{tokenizer.vocab_size} needs {tokenizer.dtype}"
            )
        if len(tensors.keys() & WORD_TENSORS.keys()) == 1:
            raise ValueError(f"{path}: word_lengths and document_words come together")
        return Shard(file, language, tokenizer, **tensors)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.file.path

    @cached_property
    def num_documents(self) -> int:
        """Number of documents D."""
        return self.key_hash.size

    def key(self, document: int) -> str:
        """Return the key of a document."""
        start, end = self.key_offsets[document : document + 2]
        try:
            return self.keys[start:end].tobytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: document {document}: its key is not UTF-8") from error

    def document(self, document: int) -> list[np.ndarray]:
        """Return the sentences of a document, views of the file."""
        content = self.tokens[slice(*self.document_tokens[document : document + 2])]
        ends = np.cumsum(self._lengths(document), dtype=np.int64).tolist()
        return [content[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]

    def words(self, document: int) -> list[list[int]] | None:
        """Return the offsets of the words in each sentence, or None if the shard has no words."""
        if self.word_lengths is None or self.document_words is None:
            return None
        lengths = self.word_lengths[slice(*self.document_words[document : document + 2])]
        starts = np.append(0, np.cumsum(lengths[:-1], dtype=np.int64))
        cuts = np.append(0, np.cumsum(self._lengths(document), dtype=np.int64))
        first = np.searchsorted(starts, cuts)
        return [(starts[first[i] : first[i + 1]] - cuts[i]).tolist() for i in range(cuts.size - 1)]

    def _lengths(self, document: int) -> np.ndarray:
        return self.sentence_lengths[slice(*self.document_sentences[document : document + 2])]


def _read_metadata(file: TensorFile) -> tuple[str, Tokenizer]:
    found = file.metadata
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        raise ValueError(
            f"{file.path}: format {found.get('format')!r} version {found.get('version')!r}, "
            f"expected {FORMAT!r} version {VERSION!r}"
        )
    try:
        vocab_size = int(found["tokenizer_vocab_size"])
        name, hash_, rate = (
            found[f"tokenizer_{field}"] for field in ("name", "hash", "frame_rate")
        )
        language = check_language(found["language"])
        counts = [int(found[f"num_{name}"]) for name in ("documents", "sentences", "tokens")]
        tokenizer = Tokenizer(name, hash_, rate, vocab_size)
    except KeyError as error:
        raise ValueError(f"{file.path}: metadata lacks {error}") from error
    except ValueError as error:
        raise ValueError(f"{file.path}: metadata: {error}") from error
    if found != shard_metadata(language, tokenizer, *counts):
        raise ValueError(f"{file.path}: metadata has fields or forms beyond version {VERSION}")
    return language, tokenizer
