"""Corpora whose shards are arrays in memory, with all that the packer reads, and random ones."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from tresse.data.packing.packer import Plan, plan_mixed_rows
from tresse.data.packing.settings import Mode, Packing, Stream, Template, Unit
from tresse.data.packing.sources import Sources
from tresse.data.store.corpus import Corpus
from tresse.data.store.documents import key_hash
from tresse.data.store.tokenizer import Tokenizer, join_tokenizers

Texts = Mapping[str, Mapping[str, Sequence[Sequence[int]]]]  # language -> key -> sentences
Words = Mapping[str, Sequence[Sequence[int]]]  # key -> lengths of the words of each sentence
TEXT = Tokenizer("text", "1", "", 70_000)


@dataclass
class MemoryShard:
    """Arrays of one shard."""

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_lengths: np.ndarray
    document_tokens: np.ndarray
    document_sentences: np.ndarray
    key_hash: np.ndarray
    word_lengths: np.ndarray | None = None
    document_words: np.ndarray | None = None


def make_shard(
    documents: Mapping[str, Sequence[Sequence[int]]], dtype: Any, words: Words | None = None
) -> MemoryShard:
    """Lay documents out as the shard format does."""
    texts = list(documents.values())
    lengths = [sum(map(len, text)) for text in texts]
    own = {} if words is None else lay_out_words([words[key] for key in documents])
    return MemoryShard(
        tokens=np.array([u for text in texts for s in text for u in s], dtype),
        sentence_lengths=np.array([len(s) for text in texts for s in text], np.uint16),
        document_lengths=np.array(lengths, np.uint32),
        document_tokens=np.cumsum([0, *lengths], dtype=np.int64),
        document_sentences=np.cumsum([0, *map(len, texts)], dtype=np.int64),
        key_hash=np.array([key_hash(key) for key in documents], np.uint64),
        **own,
    )


def lay_out_words(words: Sequence[Sequence[Sequence[int]]]) -> dict[str, np.ndarray]:
    """Lay the lengths of words out; words: of each sentence of each document."""
    counts = [sum(map(len, document)) for document in words]
    lengths = [length for document in words for sentence in document for length in sentence]
    return {
        "word_lengths": np.array(lengths, np.uint16),
        "document_words": np.cumsum([0, *counts], dtype=np.int64),
    }


class MemoryCorpus:
    """Documents by language and key; every language in up to `num_shards` shards.

    text: names of languages with tokens of `TEXT`. words: those of each language, if known.
    """

    def __init__(
        self,
        texts: Texts,
        *,
        vocab_size: int = 2048,
        num_shards: int = 1,
        name: str = "memory",
        text: Sequence[str] = (),
        words: Mapping[str, Words] | None = None,
    ) -> None:
        self.path, self.id = Path(name), name
        self.units = Tokenizer("test", "0", "25/2", vocab_size)
        self.text, self.own_words = text, words
        self.tokenizers = join_tokenizers(map(self.tokenizer, texts))
        self.languages = tuple(sorted(texts))
        self.texts = {name: dict(texts[name]) for name in self.languages}
        self.shards = {
            name: tuple(
                make_shard(
                    dict(part), self.tokenizer(name).dtype, None if words is None else words[name]
                )
                for part in _split(list(documents.items()), num_shards)
            )
            for name, documents in self.texts.items()
        }

    def tokenizer(self, language: str) -> Tokenizer:
        return TEXT if language in self.text else self.units

    def num_tokens(self, language: str) -> int:
        return sum(shard.tokens.size for shard in self.shards[language])

    def num_documents(self, language: str) -> int:
        return len(self.texts[language])

    def aligned(self, languages: Sequence[str]) -> np.ndarray:
        places = [{key: i for i, key in enumerate(self.texts[name])} for name in languages]
        keys = [key for key in places[0] if all(key in place for place in places)]
        rows = [[place[key] for place in places] for key in keys]
        return np.array(rows, np.int64).reshape(-1, len(languages))

    def aligned_columns(self, languages: Sequence[str]) -> list[np.ndarray]:
        return [np.ascontiguousarray(column) for column in self.aligned(languages).T]

    def key(self, language: str, index: int) -> str:
        return list(self.texts[language])[index]

    def document(self, language: str, index: int) -> list[np.ndarray]:
        return [np.asarray(s) for s in self.texts[language][self.key(language, index)]]

    def words(self, language: str, index: int) -> list[list[int]] | None:
        if self.own_words is None:
            return None
        lengths = self.own_words[language][self.key(language, index)]
        return [np.cumsum([0, *own[:-1]]).tolist() for own in lengths]


def memory_corpus(texts: Texts, **options: Any) -> Corpus:
    """A `MemoryCorpus` in the eyes of the type checker."""
    return cast(Corpus, MemoryCorpus(texts, **options))


def _split(items: list, parts: int) -> list[list]:
    size = -(-len(items) // parts)
    return [items[i : i + size] for i in range(0, len(items), size)]


def random_texts(
    rng: np.random.Generator,
    languages: Sequence[str],
    num_documents: int,
    *,
    max_sentences: int = 5,
    max_tokens: int = 7,
    vocab_size: int = 2048,
) -> dict[str, dict[str, list[list[int]]]]:
    """Aligned documents of random lengths and units."""
    texts: dict[str, dict[str, list[list[int]]]] = {name: {} for name in languages}
    for i in range(num_documents):
        num_sentences = int(rng.integers(1, max_sentences + 1))
        for name in languages:
            texts[name][f"key {i}"] = [
                rng.integers(0, vocab_size, rng.integers(1, max_tokens + 1)).tolist()
                for _ in range(num_sentences)
            ]
    return texts


LANGUAGES = ("de", "en", "fr", "it")
TAGS = ("<a>", "<b>")


def random_words(
    rng: np.random.Generator,
    languages: Sequence[str],
    num_documents: int,
    *,
    max_sentences: int = 5,
    max_tokens: int = 7,
) -> tuple[dict[str, dict[str, list[list[int]]]], dict[str, dict[str, list[list[int]]]]]:
    """Documents of words that are aligned too, and the lengths of these words."""
    texts: dict[str, dict[str, list[list[int]]]] = {name: {} for name in languages}
    words: dict[str, dict[str, list[list[int]]]] = {name: {} for name in languages}
    for i in range(num_documents):
        counts = rng.integers(1, max_tokens + 1, rng.integers(1, max_sentences + 1)).tolist()
        for name in languages:
            lengths = [rng.integers(1, 4, count).tolist() for count in counts]
            words[name][f"key {i}"] = lengths
            texts[name][f"key {i}"] = [rng.integers(0, 2048, sum(own)).tolist() for own in lengths]
    return texts, words


@st.composite
def sources(draw: st.DrawFn) -> Sources:
    """Draw one to three corpora, with or without text, words and weights."""
    vocab_size = draw(st.sampled_from([2048, 65536, 70000]))
    text = draw(st.sampled_from([(), (), ("en",), ("de", "fr"), LANGUAGES]))
    num = draw(st.integers(1, 3))
    found = tuple(draw(corpora(f"corpus {i}", vocab_size, text)) for i in range(num))
    weights = draw(st.sampled_from([(), (1.0, 2.5, 0.3)[:num]]))
    return Sources(found, weights)


@st.composite
def corpora(draw: st.DrawFn, name: str, vocab_size: int, text: Sequence[str]) -> Corpus:
    """Draw 1 to 4 languages and 1 to 11 documents, some of them in one language only."""
    languages = LANGUAGES[: draw(st.integers(1, 4))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_documents = draw(st.integers(1, 11))
    sizes = {
        "max_sentences": draw(st.integers(1, 6)),
        "max_tokens": draw(st.sampled_from([1, 2, 9])),
    }
    words = None
    if draw(st.booleans()):
        texts, words = random_words(rng, languages, num_documents, **sizes)
    else:
        texts = random_texts(rng, languages, num_documents, **sizes)
        for language in languages[: draw(st.integers(0, 4))]:
            extra = random_texts(rng, [language], 3)[language]
            texts[language] |= {f"only {language} {key}": text for key, text in extra.items()}
    return memory_corpus(
        texts,
        vocab_size=vocab_size,
        num_shards=draw(st.integers(1, 3)),
        name=name,
        text=[each for each in text if each in languages],
        words=words,
    )


@st.composite
def streams_of(draw: st.DrawFn, sources: Sources) -> Stream:
    """Draw a stream that one of the corpora has documents for."""
    corpus = cast(MemoryCorpus, draw(st.sampled_from(sources.corpora)))
    available = corpus.languages
    modes: list[Mode] = ["mono", "alternate", "sample"]
    mode = draw(st.sampled_from(modes if len(available) > 1 else modes[:1]))
    num = 1 if mode == "mono" else draw(st.integers(2, len(available)))
    order = draw(st.permutations(available))
    languages = tuple(order[:num])
    given = tuple(order[num : num + draw(st.integers(0, 2))]) if draw(st.booleans()) else ()
    unit: Unit = "sentence"
    if mode != "mono":
        has_words = all(
            cast(MemoryCorpus, each).own_words is not None
            for each in sources.corpora
            if {*given, *languages} <= set(each.languages)
        )
        units: list[Unit] = ["sentence", "document"]
        unit = draw(st.sampled_from([*units, "words", "words"] if has_words else units))
    words = draw(st.sampled_from([(1, 1), (2, 2), (1, 3)])) if unit == "words" else (1, 1)
    styled = draw(st.lists(st.sampled_from([*given, *languages]), unique=True, max_size=3))
    templates = [
        Template(
            language=name,
            before=draw(st.sampled_from(["", TAGS[0], "".join(TAGS)])),
            after=draw(st.sampled_from(["", TAGS[1]])),
        )
        for name in (styled if draw(st.booleans()) else [])
    ]
    loss_on = draw(st.sampled_from([(), (), languages[-1:], (*given, languages[0])]))
    probabilities: tuple[float, ...] = ()
    if mode == "sample" and draw(st.booleans()):
        parts = draw(st.lists(st.integers(1, 5), min_size=num, max_size=num))
        probabilities = tuple(part / sum(parts) for part in parts)
    return Stream(
        languages=languages,
        mode=mode,
        weight=draw(st.sampled_from([0.1, 0.3, 1.0, 2.0])),
        probabilities=probabilities,
        language_order=draw(st.sampled_from(["fixed", "random"])),
        given=given,
        unit=unit,
        words=words,
        templates=tuple(templates),
        loss_on=loss_on,
    )


def _with_targets(packing: Packing) -> Packing:
    """Change packings under which a short document, or a piece of one, may have no target."""
    packing = replace(packing, tags=TAGS)
    if packing.row_length == 1 and packing.mode == "best_fit":
        return Packing(row_length=1, tags=TAGS)  # pieces of two tokens leave others with one
    if packing.mask_documents and packing.separators == "none":
        return replace(packing, separators="eos")
    return packing


packings = st.builds(
    Packing,
    row_length=st.sampled_from([1, 2, 5, 16, 31]),
    mode=st.sampled_from(["concat", "best_fit"]),
    separators=st.sampled_from(["none", "eos", "bos_eos"]),
    language_switch=st.booleans(),
    mask_documents=st.booleans(),
).map(_with_targets)


def plan_or_reject(sources: Sources, *args: Any, **kwargs: Any) -> Plan:
    """Call `plan_mixed_rows`; reject those without targets for every part."""
    try:
        return plan_mixed_rows(sources, *args, **kwargs)
    except ValueError as error:
        if not re.search("no targets|leaves it 0 targets", str(error)):
            raise
        reject()
