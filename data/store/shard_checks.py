"""Checks of a shard: its index, whenever it is opened; its tokens and keys, when it is verified."""

from itertools import pairwise

import numpy as np
import xxhash
from tqdm import tqdm

from tresse.data.naming import normal_key
from tresse.data.store.documents import key_hash
from tresse.data.store.tensor_file import TensorFile

BLOCK_DOCUMENTS = 1 << 20
BLOCK_TOKENS = 1 << 23


def check_index(file: TensorFile) -> None:
    """Check all but the tokens and the text of keys; ValueError names the file and the document."""
    _check_counts(file)
    num_documents = file.tensors["key_hash"].size
    for first in range(0, num_documents, BLOCK_DOCUMENTS):
        _check_documents(file, first, min(first + BLOCK_DOCUMENTS, num_documents))


def verify_tokens(file: TensorFile, vocab_size: int, expected: str, bar: tqdm) -> None:
    """Check the range of every token, and the hash of all tokens; `bar` counts tokens."""
    tokens, hasher = file.tensors["tokens"], xxhash.xxh3_64()
    for start in range(0, tokens.size, BLOCK_TOKENS):
        block = tokens[start : start + BLOCK_TOKENS]
        if block.max() >= vocab_size:
            place = start + int(np.argmax(block >= vocab_size))
            raise ValueError(
                f"{file.path}: {_describe(file, place)} is {tokens[place]}, outside the "
                f"vocabulary 0 to {vocab_size - 1}"
            )
        hasher.update(block.view(np.uint8).data)
        bar.update(block.size)
    if hasher.hexdigest() != expected:
        raise ValueError(
            f"{file.path}: tokens have the hash {hasher.hexdigest()}, expected {expected}; "
            "the file is damaged, restore it"
        )


def verify_keys(file: TensorFile) -> None:
    """Check that every key is UTF-8 in the form NFC, and has the stored hash."""
    keys, ends = file.tensors["keys"].tobytes(), file.tensors["key_offsets"].tolist()
    for i, expected in enumerate(file.tensors["key_hash"].tolist()):
        try:
            found = key_hash(keys[ends[i] : ends[i + 1]].decode())
        except UnicodeDecodeError:
            found = None
        if found != expected:
            raise ValueError(f"{file.path}: document {i}: key_hash is not the hash of its key")
    check_normal_keys(file)


def check_normal_keys(file: TensorFile) -> None:
    """Raise ValueError for a key that is not in the form NFC, so that no translation finds it."""
    keys = file.tensors["keys"].tobytes()
    if keys.isascii():
        return
    for i, (start, end) in enumerate(pairwise(file.tensors["key_offsets"].tolist())):
        key = keys[start:end].decode(errors="replace")
        if key != normal_key(key):
            raise ValueError(
                f"{file.path}: document {i}: the key {key!r} is not in Unicode's normal form NFC; "
                "write the corpus anew (tresse export-units, tresse prepare)"
            )


def _describe(file: TensorFile, place: int) -> str:
    """Name the document, sentence and position of a token."""
    starts, cuts = file.tensors["document_tokens"], file.tensors["document_sentences"]
    document = int(np.searchsorted(starts, place, side="right")) - 1
    lengths = file.tensors["sentence_lengths"][cuts[document] : cuts[document + 1]]
    ends = np.cumsum(lengths, dtype=np.int64)
    inside = place - int(starts[document])
    sentence = int(np.searchsorted(ends, inside, side="right"))
    position = inside - int(ends[sentence]) + int(lengths[sentence])
    return f"document {document}, sentence {sentence}, token {position}"


def _check_counts(file: TensorFile) -> None:
    """Compare the arrays' lengths with each other and the metadata; check the ends of offsets."""
    sizes = {name: tensor.size for name, tensor in file.tensors.items()}
    D = sizes["key_hash"]
    counts = {"documents": D, "sentences": sizes["sentence_lengths"], "tokens": sizes["tokens"]}
    for name, size in counts.items():
        stated = file.metadata[f"num_{name}"]
        if stated != str(size) or size == 0:
            raise ValueError(f"{file.path}: metadata says {stated} {name}, the arrays hold {size}")
    if sizes["document_lengths"] != D:
        raise ValueError(
            f"{file.path}: document_lengths has {sizes['document_lengths']} elements, expected {D}"
        )
    ends = {
        "document_tokens": sizes["tokens"],
        "document_sentences": sizes["sentence_lengths"],
        "key_offsets": sizes["keys"],
    }
    if "document_words" in sizes:
        ends["document_words"] = sizes["word_lengths"]
    for name, end in ends.items():
        offsets = file.tensors[name]
        if offsets.size != D + 1:
            raise ValueError(f"{file.path}: {name} has {offsets.size} elements, expected {D + 1}")
        if offsets[0] != 0 or offsets[-1] != end:
            raise ValueError(
                f"{file.path}: {name} runs from {offsets[0]} to {offsets[-1]}, expected 0 to {end}"
            )


def _check_documents(file: TensorFile, first: int, last: int) -> None:
    """Check offsets and sums of the documents `first` to `last - 1`."""
    _check_offsets(file, "key_offsets", first, last, file.tensors["keys"].size, least=0)
    tokens = _check_offsets(file, "document_tokens", first, last, file.tensors["tokens"].size)
    lengths = file.tensors["document_lengths"][first:last]
    _report(file, first, np.diff(tokens) != lengths, "document_lengths is not what the offsets say")
    all_lengths = file.tensors["sentence_lengths"]
    cuts = _check_offsets(file, "document_sentences", first, last, all_lengths.size)
    sentences = all_lengths[cuts[0] : cuts[-1]]
    if sentences.min() == 0:
        raise ValueError(f"{file.path}: sentence {cuts[0] + int(np.argmin(sentences))} is empty")
    sums = np.add.reduceat(sentences, cuts[:-1] - cuts[0], dtype=np.int64)
    _report(file, first, sums != lengths, "its sentences do not add up to its tokens")
    if "document_words" in file.tensors:
        _check_words(file, first, last, sentences)


def _check_words(file: TensorFile, first: int, last: int, sentences: np.ndarray) -> None:
    """Check that the words of a document add up to it, and that none crosses a sentence's end."""
    all_lengths = file.tensors["word_lengths"]
    cuts = _check_offsets(file, "document_words", first, last, all_lengths.size)
    words = all_lengths[cuts[0] : cuts[-1]]
    if words.min() == 0:
        raise ValueError(f"{file.path}: word {cuts[0] + int(np.argmin(words))} is empty")
    sums = np.add.reduceat(words, cuts[:-1] - cuts[0], dtype=np.int64)
    lengths = file.tensors["document_lengths"][first:last]
    _report(file, first, sums != lengths, "its words do not add up to its tokens")
    sentence_ends, word_ends = (np.cumsum(x, dtype=np.int64) for x in (sentences, words))
    crossed = word_ends[np.searchsorted(word_ends, sentence_ends)] != sentence_ends
    if crossed.any():
        start = int(file.tensors["document_sentences"][first])
        raise ValueError(
            f"{file.path}: a word crosses the end of sentence {start + int(np.argmax(crossed))}"
        )


def _check_offsets(
    file: TensorFile, name: str, first: int, last: int, end: int, least: int = 1
) -> np.ndarray:
    """Return a block of offsets; each is at least `least` more than the last, none beyond `end`."""
    offsets = file.tensors[name][first : last + 1]
    before, after = offsets[:-1], offsets[1:]
    bad = (before < 0) | (after > end) | (after < before if least == 0 else after <= before)
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"{file.path}: document {first + i}: {name} goes from {before[i]} to {after[i]}; "
            f"offsets must grow and end by {end}"
        )
    return offsets


def _report(file: TensorFile, first: int, bad: np.ndarray, fault: str) -> None:
    if bad.any():
        raise ValueError(f"{file.path}: document {first + int(np.argmax(bad))}: {fault}")
