"""Small world to learn from: translated stories in invented languages, written directly as units.

The world has topics, such as *a day at school*. A topic is a round of concepts in a fixed order:
wake, dress, walk, learn, play, eat, ..., and wake again. A story enters the round of its topic
anywhere and moves on with each word. Sometimes it skips a concept (`skip`), and some words are off
topic (`noise`). Sentence i of a story is a translation of sentence i in every other language: the
concepts are the same, but each language has its own words and units for them and adds its own
filler words (`fillers`). Only context can tell a model that two words mean the same. A story, with
letters for units:

    concepts   wake dress | walk MOON | eat wake       skipped: play, sleep; MOON is off topic
    en         kalu dof   | um ro mib | gi teg         um is a filler; teg is another word for wake
    fr         ZYX QW     | EH VY     | PUH JO ZYX     PUH is a filler

A cloze item shows all sentences but the last (the prompt) and asks which of two endings follows:

    sTC   the wrong ending comes from a story of another topic
    sSC   the wrong ending comes from a story of the same topic, about half a round away:
          the right words at the wrong time

In both tasks each ending is right once and wrong once, so that endings alone give no hint.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import xxhash

from tresse.data.durable import staged_folder
from tresse.data.store.cloze import ITEMS, write_items
from tresse.data.store.corpus_writer import merge_corpora, write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.text_tokenizer import FILE as TEXT_TOKENIZER
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.worlds.endings import cloze_items
from tresse.data.worlds.story_texts import (
    SUFFIX,
    answer_words,
    question,
    question_items,
    spelled_lexicon,
    write_tokenizer,
)
from tresse.data.worlds.world import StoryWorld

PAD = -1  # no word or no unit
DIALOGUES = "dialogues"


@dataclass(frozen=True)
class Stories:
    """Stories as concepts, in no language."""

    concepts: np.ndarray
    """int64 [stories, sentences, words]."""
    topics: np.ndarray
    """int64 [stories]."""
    places: np.ndarray
    """int64 [stories]: place in the round where the last sentence starts, even if it is noise."""


def generate(world: StoryWorld, out: str | Path) -> None:
    """Write the corpora out/train, out/valid and out/cloze, and out/cloze/items.jsonl.

    A world with text has out/dialogues too: questions in the languages `en-question` and
    `en-question-text`, for a first language en, and answers in `en-answer` and `en-answer-text`. No
    two keys have the same story. ValueError when `out` holds anything; it appears whole.
    """
    sizes = {
        "story": world.aligned_documents,
        "extra": world.extra_documents,
        "valid": world.valid_documents,
        "cloze": world.cloze_documents,
    }
    stories = draw_stories(world, sum(sizes.values()))
    bounds = np.cumsum([0, *sizes.values()])
    parts = {kind: slice(bounds[i], bounds[i + 1]) for i, kind in enumerate(sizes)}
    words = b"".join(lexicon(world, language).tobytes() for language in world.languages)
    tokenizer = Tokenizer("story-world", xxhash.xxh3_64_hexdigest(words), "25/2", world.vocab_size)
    with staged_folder(out) as folder:
        for kind, told in _corpora(world, stories, parts, as_text=False).items():
            write_corpus(folder / kind, told, tokenizer)
        if world.text:
            _add_texts(world, stories, parts, folder)
        cloze = parts["cloze"]
        topics, places = stories.topics[cloze], stories.places[cloze]
        items = cloze_items(topics, places, "cloze_documents")
        if world.text:
            items = chain((item for item in items if item.task == "sTC"), question_items(topics))
        write_items(folder / "cloze" / ITEMS, items)


def _corpora(
    world: StoryWorld, stories: Stories, parts: dict[str, slice], *, as_text: bool
) -> dict[str, Iterator[Document]]:
    """Return the documents of each corpus, as speech or as text."""

    def told(kind: str, languages: tuple[str, ...] = ()) -> Iterator[Document]:
        return documents(world, stories, parts[kind], kind, languages, as_text=as_text)

    first = world.languages[:1]
    halves = (half for story in told("cloze") for half in split(story))
    corpora = {
        "train": chain(told("story"), told("extra", first)),
        "valid": told("valid"),
        "cloze": halves,
    }
    if world.text:
        topics = stories.topics[parts["story"]]
        questions = _questions(world, told("cloze"), as_text=as_text)
        corpora["cloze"] = chain(halves, questions)
        corpora[DIALOGUES] = _dialogues(world, topics, told("story", first), as_text=as_text)
    return corpora


def _add_texts(world: StoryWorld, stories: Stories, parts: dict[str, slice], folder: Path) -> None:
    """Write the texts of each corpus, and merge them with its speech."""
    tokenizer = write_tokenizer(world, folder)
    for kind, told in _corpora(world, stories, parts, as_text=True).items():
        speech, text = folder / f"{kind}-speech", folder / f"{kind}{SUFFIX}"
        (folder / kind).rename(speech)
        write_corpus(text, told, tokenizer, text_tokenizer=folder / TEXT_TOKENIZER)
        merge_corpora([speech, text], folder / kind)
        for each in (speech, text):
            shutil.rmtree(each)
    (folder / TEXT_TOKENIZER).unlink()


def _questions(world: StoryWorld, told: Iterator[Document], *, as_text: bool) -> Iterator[Document]:
    """Yield the questions of the cloze set in each language, and the answers of all topics."""
    for story in told:
        yield question(story, story.key.replace("cloze", "question"), story.language)
    words = np.array([[answer_words(world, topic)] for topic in range(world.num_topics)])
    for language in world.languages:
        table, name = _lexicon(world, language, as_text=as_text), language + SUFFIX * as_text
        for answer in _said(world, words, table, "answer/{}", name):
            yield replace(answer, words=None)


def _dialogues(
    world: StoryWorld, topics: np.ndarray, told: Iterator[Document], *, as_text: bool
) -> Iterator[Document]:
    """Yield stories in the first language as questions, and their answers."""
    first, end = world.languages[0], SUFFIX * as_text
    for number, story in enumerate(told):
        yield question(story, f"question/{number:06d}", f"{first}-question{end}")
    words = np.array([[answer_words(world, topic)] for topic in topics.tolist()])
    table = _lexicon(world, first, as_text=as_text)
    yield from _said(world, words, table, "question/{:06d}", f"{first}-answer{end}")


def draw_stories(world: StoryWorld, num_stories: int) -> Stories:
    """Draw different stories whose topics take turns."""
    rng = generator(world, 0)
    topics = np.arange(num_stories) % world.num_topics
    stories = walk(world, topics, rng)
    for _ in range(100):
        words = stories.concepts.reshape(num_stories, -1)
        _, first = np.unique(words, axis=0, return_index=True)
        again = np.setdiff1d(np.arange(num_stories), first)
        if not len(again):
            return stories
        redrawn = walk(world, topics[again], rng)
        stories.concepts[again], stories.places[again] = redrawn.concepts, redrawn.places
    raise ValueError(
        f"this world has fewer than {num_stories} different stories; ask for fewer documents, "
        "or raise num_topics, concepts_per_topic or words_per_sentence"
    )


def walk(world: StoryWorld, topics: np.ndarray, rng: np.random.Generator) -> Stories:
    """Draw a story for each entry of `topics`: a start, the skips, and the words off topic."""
    shape = (len(topics), world.sentences_per_story, world.words_per_sentence)
    start = rng.integers(world.concepts_per_topic, size=len(topics))
    steps = rng.geometric(1 - world.skip, (len(topics), shape[1] * shape[2]))
    places = (start[:, None] + np.cumsum(steps, axis=1)).reshape(shape) % world.concepts_per_topic
    concepts = topics[:, None, None] * world.concepts_per_topic + places
    off = rng.random(shape) < world.noise
    concepts = np.where(off, rng.integers(world.num_concepts, size=shape), concepts)
    return Stories(concepts, topics, places[:, -1, 0])


def documents(
    world: StoryWorld,
    stories: Stories,
    part: slice,
    kind: str,
    languages: tuple[str, ...] = (),
    *,
    as_text: bool = False,
) -> Iterator[Document]:
    """Yield the stories of a part in each language; keys are `kind` and the story's number."""
    for language in languages or world.languages:
        words = choose_words(world, stories.concepts[part], language, kind)
        key, name = f"{kind}/{{:06d}}", language + SUFFIX * as_text
        yield from _said(world, words, _lexicon(world, language, as_text=as_text), key, name)


def choose_words(world: StoryWorld, concepts: np.ndarray, language: str, kind: str) -> np.ndarray:
    """Choose the words of stories in a language, and fillers: int64 [stories, sentences, slots].

    concepts: int64 [stories, sentences, words]. A slot is a word of the lexicon or PAD.
    """
    number = world.languages.index(language)
    rng = generator(world, 2, number, *kind.encode())
    words = concepts * world.pronunciations + rng.integers(
        world.pronunciations, size=concepts.shape
    )
    first_filler = world.num_concepts * world.pronunciations
    filler = rng.integers(first_filler, first_filler + world.num_fillers, concepts.shape)
    with_filler = rng.random(concepts.shape) < world.fillers
    slots = np.stack([np.where(with_filler, filler, PAD), words], axis=-1)
    num_stories, num_sentences, num_words = concepts.shape
    return slots.reshape(num_stories, num_sentences, 2 * num_words)


def _said(
    world: StoryWorld, words: np.ndarray, table: np.ndarray, key: str, language: str
) -> Iterator[Document]:
    """Yield documents of words, [documents, sentences, slots], as tokens by a lexicon.

    key: the key of a single document, or a format of their number.
    """
    num_documents, num_sentences, num_slots = words.shape
    # PAD, -1, is the empty word at the end of the lexicon
    tokens = table[words.reshape(num_documents * num_sentences, num_slots)]
    is_used = tokens != PAD
    lengths = is_used.sum(2)
    flat = tokens[is_used].astype(np.uint16)
    sentences = np.split(flat, np.cumsum(lengths.sum(1))[:-1])
    for number in range(num_documents):
        own = slice(number * num_sentences, (number + 1) * num_sentences)
        offsets = [_offsets(each[each > 0]) for each in lengths[own]] if world.text else None
        yield Document(key.format(number), language, sentences[own], offsets)


def _offsets(lengths: np.ndarray) -> list[int]:
    """Return where the words of a sentence begin."""
    return np.cumsum([0, *lengths[:-1]]).tolist()


def _lexicon(world: StoryWorld, language: str, *, as_text: bool) -> np.ndarray:
    return spelled_lexicon(world, language) if as_text else lexicon(world, language)


def lexicon(world: StoryWorld, language: str) -> np.ndarray:
    """Draw the words of a language, all different: int64 [words + 1, most units], padded.

    Word c * pronunciations + i is pronunciation i of concept c. Then come the fillers, the names of
    topics if the world has text, and last an empty word.
    """
    number = world.languages.index(language)
    num_words = world.num_concepts * world.pronunciations + world.num_fillers
    num_words += world.num_topics if world.text else 0
    fewest, most = world.units_per_word
    if world.units_per_language**fewest < 2 * num_words:
        raise ValueError(
            f"units_per_language={world.units_per_language} is too few for {num_words} words of "
            f"{fewest} or more units; raise it or units_per_word"
        )
    rng = generator(world, 1, number)
    words: dict[tuple[int, ...], None] = {}
    while len(words) < num_words:
        length = rng.integers(fewest, most + 1)
        word = (
            rng.integers(world.units_per_language, size=length) + number * world.units_per_language
        )
        words[tuple(word.tolist())] = None
    table = np.full((num_words + 1, most), PAD)
    for i, word in enumerate(words):
        table[i, : len(word)] = word
    return table


def split(story: Document) -> tuple[Document, Document]:
    """Split a story into its prompt and its ending."""
    prompt = Document(f"{story.key}/prompt", story.language, story.sentences[:-1])
    return prompt, Document(f"{story.key}/ending", story.language, story.sentences[-1:])


def generator(world: StoryWorld, *stream: int) -> np.random.Generator:
    """Return the random generator of one purpose, so that no draw changes another."""
    return np.random.Generator(np.random.PCG64([world.seed, *stream]))
