"""The definition of the packer's rows in plain Python: short, slow and exact.

`tests/data/packing/test_packer.py` compares the C++ packer with it byte for byte.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from math import isqrt

import numpy as np

from tresse.data.packing.settings import Packing, Stream, split_targets, thresholds
from tresse.data.packing.sources import Sources
from tresse.data.packing.templates import template_ids
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.corpus import Corpus
from tresse.data.store.text_tokenizer import open_text_tokenizer

ORDER, DRAW, LANGUAGE_ORDER, ROW_ORDER, WORDS = 1, 2, 3, 4, 5  # the purpose of a hash
WINDOW = 4096  # documents that best_fit packs at a time
U64 = 2**64 - 1


@dataclass
class Token:
    """A token of a stream, before it is cut into rows."""

    id: int
    language: int
    counted: bool = True
    """True if it is a target."""
    starts: bool = False
    """True if a document begins here, or a part of one that best_fit cut."""


@dataclass
class Row:
    """A row before padding."""

    tokens: list[Token]
    """At most T + 1 tokens; the packer pads with zeros."""
    num_valid: int = 0
    """Number of valid labels, as in `Batch`."""


def fold(hash: int, word: int) -> int:
    """Mix a word into a hash with the finaliser of SplitMix64."""
    z = ((hash ^ word) + 0x9E3779B97F4A7C15) & U64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & U64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & U64
    return z ^ z >> 31


def hash_words(*words: int) -> int:
    """Hash a sequence of words."""
    hash = 0
    for word in words:
        hash = fold(hash, word)
    return hash


def bounded(hash: int, n: int) -> int:
    """Map a hash to [0, n)."""
    return hash * n >> 64


def permute(n: int, key: int, i: int) -> int:
    """Map i by a bijection of [0, n): a mixed-radix Feistel network of 6 half rounds."""
    a = isqrt(n - 1) + 1
    b = -(-n // a)
    while True:
        low, high = i % a, i // a
        for half in range(0, 6, 2):
            low = (low + bounded(fold(fold(key, half), high), a)) % a
            high = (high + bounded(fold(fold(key, half + 1), low), b)) % b
        i = high * a + low
        if i < n:
            return i


def document_tokens(
    corpus: Corpus,
    stream: Stream,
    packing: Packing,
    vocabulary: Vocabulary,
    where: tuple[int, ...],
    epoch: int,
    index: int,
) -> list[Token]:
    """Return a document of a stream as packed; where = (seed, stage, number of the stream)."""
    names = stream.all_languages
    documents = corpus.aligned(names)[index].tolist()
    key = _key_hash(corpus, names[0], documents[0])
    load = partial(open_text_tokenizer, corpus.path, corpus.tokenizers)
    fixed = template_ids(stream, vocabulary, load) or [([], [])] * len(names)
    texts = [vocabulary.sentences(corpus, *place) for place in zip(names, documents, strict=True)]
    words = [corpus.words(*place) for place in zip(names, documents, strict=True)]

    tokens: list[Token] = []

    def insert(ids: Iterable[int], language: int) -> None:
        for id_ in ids:
            before = tokens[-1].counted if tokens else not stream.loss_on
            tokens.append(Token(id_, language, before))

    if packing.separators == "bos_eos":
        insert([vocabulary.bos], 0)
    last = None
    for j, piece in _pieces(stream, texts, words, where, epoch, key):
        language = corpus.languages.index(names[j])
        if j != last:
            if last is not None:
                insert(fixed[last][1], corpus.languages.index(names[last]))
                insert([vocabulary.switch] * packing.language_switch, language)
            insert(fixed[j][0], language)
        counted = not stream.loss_on or names[j] in stream.loss_on
        tokens += [Token(int(id_), language, counted) for id_ in piece]
        last = j
    assert last is not None
    insert(fixed[last][1], corpus.languages.index(names[last]))
    if packing.separators == "bos_eos":
        tokens[0].language = tokens[1].language
    if packing.separators != "none":
        insert([vocabulary.eos], tokens[-1].language)
    tokens[0].starts = True
    return tokens


def _pieces(
    stream: Stream,
    texts: Sequence[Sequence[np.ndarray]],
    words: Sequence[list[list[int]] | None],
    where: tuple[int, ...],
    epoch: int,
    key: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the pieces of a document in order, each with the number of its language."""
    first = len(stream.given)
    for j in range(first):
        yield j, np.concatenate(texts[j])
    drawn = list(range(len(stream.languages)))
    if stream.mode == "alternate" and stream.language_order == "random":
        drawn = _drawn_order(len(drawn), where, epoch, key)
    units = _units(stream, texts[first:], words[first:], where, epoch, key)
    for number, unit in enumerate(units):
        if stream.mode == "sample":
            drawn = [_draw(stream, where, epoch, key, number)]
        for j in drawn:
            yield first + j, unit[j]


def _units(
    stream: Stream,
    texts: Sequence[Sequence[np.ndarray]],
    words: Sequence[list[list[int]] | None],
    where: tuple[int, ...],
    epoch: int,
    key: int,
) -> Iterator[list[np.ndarray]]:
    """Yield the units of a document, each in all languages."""
    if stream.unit == "document" or stream.mode == "mono":
        yield [np.concatenate(text) for text in texts]
        return
    if stream.unit == "sentence":
        yield from map(list, zip(*texts, strict=True))
        return
    group = 0
    for s in range(len(texts[0])):
        cuts = [[*own[s], len(text[s])] for own, text in zip(words, texts, strict=True) if own]
        start, num_words = 0, len(cuts[0]) - 1
        while start < num_words:
            end = min(start + _drawn_size(stream, where, epoch, key, group), num_words)
            yield [text[s][own[start] : own[end]] for text, own in zip(texts, cuts, strict=True)]
            start, group = end, group + 1


def _drawn_size(stream: Stream, where: tuple[int, ...], epoch: int, key: int, group: int) -> int:
    """Draw the number of words in a group; it changes when languages are drawn anew."""
    (seed, *rest), (least, most) = where, stream.words
    turns = len(stream.languages) if stream.mode == "sample" and stream.is_uniform else 1
    hash = hash_words(seed, WORDS, *rest, epoch // turns, key, group)
    return least + bounded(hash, most - least + 1)


def _draw(stream: Stream, where: tuple[int, ...], epoch: int, key: int, unit: int) -> int:
    """Draw the language of a unit for `sample`; uniform draws take turns over L epochs."""
    L, (seed, *rest) = len(stream.languages), where
    if stream.is_uniform:
        hash = hash_words(seed, DRAW, *rest, epoch // L, key, unit)
        return (bounded(hash, L) + epoch) % L
    hash = hash_words(seed, DRAW, *rest, epoch, key, unit)
    return sum(hash >= threshold for threshold in thresholds(stream))


def _drawn_order(L: int, where: tuple[int, ...], epoch: int, key: int) -> list[int]:
    """Draw the order of the languages in a document for `alternate` (Fisher-Yates)."""
    seed, *rest = where
    hash = hash_words(seed, LANGUAGE_ORDER, *rest, epoch, key)
    order = list(range(L))
    for j in range(L - 1, 0, -1):
        k = bounded(fold(hash, j), j + 1)
        order[j], order[k] = order[k], order[j]
    return order


def _key_hash(corpus: Corpus, language: str, document: int) -> int:
    for shard in corpus.shards[language]:
        if document < len(shard.key_hash):
            return int(shard.key_hash[document])
        document -= len(shard.key_hash)
    raise IndexError(document)


def epoch_documents(
    corpus: Corpus,
    stream: Stream,
    packing: Packing,
    vocabulary: Vocabulary,
    where: tuple[int, ...],
    epoch: int,
) -> list[list[Token]]:
    """Return all documents of a stream in the order of an epoch."""
    n, (seed, *rest) = len(corpus.aligned(stream.all_languages)), where
    key = hash_words(seed, ORDER, *rest, epoch)
    order = [permute(n, key, i) for i in range(n)]
    return [document_tokens(corpus, stream, packing, vocabulary, where, epoch, i) for i in order]


def concat_rows(epochs: Iterator[list[list[Token]]], T: int) -> Iterator[list[Token]]:
    """Yield windows of T + 1 tokens; the last token of each is the first of the next."""
    row: list[Token] = []
    for documents in epochs:
        for token in (token for document in documents for token in document):
            row.append(token)
            if len(row) == T + 1:
                yield row
                row = row[-1:]


def best_fit_rows(
    epochs: Iterator[list[list[Token]]], T: int, where: tuple[int, ...]
) -> Iterator[list[Token]]:
    """Yield rows of whole documents: each goes into the fullest row with room, longest first."""
    seed, *rest = where
    for epoch, documents in enumerate(epochs):
        for window, first in enumerate(range(0, len(documents), WINDOW)):
            rows = _pack_window(documents[first : first + WINDOW], T + 1)
            key = hash_words(seed, ROW_ORDER, *rest, epoch, window)
            for i in range(len(rows)):
                yield rows[permute(len(rows), key, i)]


def _pack_window(documents: list[list[Token]], capacity: int) -> list[list[Token]]:
    """Return rows in the order in which they are opened; their documents keep the epoch's order."""
    pieces = [d[i : i + capacity] for d in documents for i in range(0, len(d), capacity)]
    for piece in pieces:
        piece[0].starts = True
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    for i in sorted(range(len(pieces)), key=lambda i: -len(pieces[i])):
        length = len(pieces[i])
        room = min((r for r in by_room if by_room[r] and r >= length), default=None)
        if room is None:
            room = capacity
            rows.append([])
            row = len(rows) - 1
        else:
            row = by_room[room].pop()  # of rows with equal room, the last to reach it
        rows[row].append(i)
        if room > length:
            by_room.setdefault(room - length, []).append(row)
    return [[token for i in sorted(row) for token in pieces[i]] for row in rows]


def stream_rows(
    corpus: Corpus,
    stream: Stream,
    packing: Packing,
    vocabulary: Vocabulary,
    where: tuple[int, ...],
    targets: int,
) -> list[Row]:
    """Return the rows of a stream up to the row with its last target."""
    settings = corpus, stream, packing, vocabulary, where
    epochs = (epoch_documents(*settings, epoch) for epoch in count())
    T = packing.row_length
    best_fit = packing.mode == "best_fit"
    rows: list[Row] = []
    for tokens in best_fit_rows(epochs, T, where) if best_fit else concat_rows(epochs, T):
        row = Row(tokens)
        rows.append(row)
        for label, token in enumerate(tokens[1:]):
            is_masked = packing.mask_documents and token.starts
            targets -= token.counted and not is_masked
            if label < T - 1 or not is_masked:  # a masked label in the last column is not valid
                row.num_valid = label + 1
            if targets == 0:
                return rows
    raise AssertionError("streams do not end")


def reference_rows(
    sources: Sources,
    streams: Sequence[Stream],
    packing: Packing,
    *,
    tokens: int,
    seed: int,
    stage: int,
) -> list[Row]:
    """Return all rows of the plan that `plan_mixed_rows` returns for the same arguments."""
    parts = [part for stream in streams for part in sources.parts(stream)]
    shares = split_targets(tokens, [part.stream for part in parts])
    vocabulary = Vocabulary.of(sources.tokenizers, packing)
    queues = []
    for k, (part, targets) in enumerate(zip(parts, shares, strict=True)):
        settings = part.corpus, part.stream, packing, vocabulary
        found = stream_rows(*settings, (seed, stage, k), targets)
        numbers = [sources.languages.index(name) for name in part.corpus.languages]
        queues.append([renumber(row, numbers) for row in found])
    sizes = [len(queue) for queue in queues]
    return [queues[k][i] for k, i in (slot(row, sizes) for row in range(sum(sizes)))]


def renumber(row: Row, numbers: Sequence[int]) -> Row:
    """Return a row whose languages have other numbers."""
    tokens = [replace(token, language=numbers[token.language]) for token in row.tokens]
    return Row(tokens, row.num_valid)


def slot(row: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Return the stream of a row and the row's number in it.

    Among the first n rows, the first k streams together have their share rounded down.
    """
    for k in range(len(sizes) - 1, 0, -1):
        before, all_ = sum(sizes[:k]), sum(sizes[: k + 1])
        low, high = row * before // all_, (row + 1) * before // all_
        if low == high:
            return k, row - low
        row = low
    return 0, row
