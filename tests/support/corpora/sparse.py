"""Corpora of billions of tokens that take no space: the tokens are a hole in the file, all zero."""

from pathlib import Path

import numpy as np

from tresse.data.store.corpus import Corpus
from tresse.data.store.documents import key_hash
from tresse.data.store.index import AlignmentEntry, CorpusIndex, write_index
from tresse.data.store.shards import Shard, ShardEntry, shard_metadata
from tresse.data.store.tensor_file import checksum, encode_header, open_tensors
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.store.translations import build_table, write_translations


def write_sparse_shard(
    folder: Path,
    name: str,
    language: str,
    keys: list[str],
    lengths: list[int],
    tokenizer: Tokenizer,
) -> ShardEntry:
    """A shard with the documents `keys`, each of sentences of `lengths` tokens."""
    D, S, N = len(keys), len(keys) * len(lengths), len(keys) * sum(lengths)
    encoded = [key.encode() for key in keys]
    index = {
        "sentence_lengths": np.tile(np.array(lengths, "<u2"), D),
        "document_lengths": np.full(D, sum(lengths), "<u4"),
        "document_tokens": np.arange(D + 1) * sum(lengths),
        "document_sentences": np.arange(D + 1) * len(lengths),
        "key_hash": np.array([key_hash(key) for key in keys], "<u8"),
        "keys": np.frombuffer(b"".join(encoded), np.uint8),
        "key_offsets": np.cumsum([0, *map(len, encoded)]),
    }
    layout = {name: (array.dtype, array.size) for name, array in index.items()}
    layout["tokens"] = (tokenizer.dtype, N)
    header, order = encode_header(layout, shard_metadata(language, tokenizer, D, S, N))
    path = folder / f"{language}-{name}.safetensors"
    with path.open("wb") as file:
        file.write(header)
        for tensor in order:
            if tensor == "tokens":
                file.seek(N * tokenizer.dtype.itemsize, 1)
            else:
                file.write(index[tensor].tobytes())
        file.truncate()
    hashes = {tensor: checksum(array) for tensor, array in index.items()}
    hashes["tokens"] = "0" * 16  # not hashed, as that takes long: `verify` would fail
    return ShardEntry(path.name, path.stat().st_size, D, S, N, hashes)


def write_sparse_corpus(
    folder: Path, languages: dict[str, list[list[str]]], lengths: list[int], tokenizer: Tokenizer
) -> Corpus:
    """A corpus with one shard per list of keys; equal keys of several languages are aligned."""
    folder.mkdir(parents=True)
    entries = {
        language: tuple(
            write_sparse_shard(folder, str(i), language, keys, lengths, tokenizer)
            for i, keys in enumerate(shards)
        )
        for language, shards in sorted(languages.items())
    }
    alignment = None
    if len(entries) > 1:
        shards = {name: [Shard.open(folder / e.file) for e in own] for name, own in entries.items()}
        path, hashes = write_translations(folder, tuple(entries), build_table(shards))
        alignment = AlignmentEntry(path.name, path.stat().st_size, hashes)
    write_index(folder, CorpusIndex(dict.fromkeys(entries, tokenizer), entries, alignment))
    return Corpus.open(folder)


def poke(path: Path, position: int, tokens: list[int]) -> None:
    """Write tokens into a shard at a position, so that a test can recognise the place."""
    found = open_tensors(path).tensors
    keys_start = path.stat().st_size - found["keys"].nbytes  # the keys are the last array
    start = keys_start - (found["keys"].ctypes.data - found["tokens"].ctypes.data)
    values = np.array(tokens, found["tokens"].dtype)
    with path.open("r+b") as file:
        file.seek(start + position * values.itemsize)
        file.write(values.tobytes())
