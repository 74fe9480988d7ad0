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

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from tresse.data.durable import staged_folder
from tresse.data.store.cloze import ITEMS, write_items
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.worlds.endings import cloze_items

PAD = -1  # no word or no unit


@dataclass(frozen=True, kw_only=True, slots=True)
class StoryWorld:
    """A world of stories; equal fields give equal bytes with the same version of numpy."""

    seed: int = 0
    """Seed of the words and the stories."""
    languages: tuple[str, ...] = ("en", "fr")
    """Names of the languages. The extra documents are in the first one."""
    num_topics: int = 6
    """Number of topics, 2 or more. Each is a round of concepts of its own."""
    concepts_per_topic: int = 10
    """Number of concepts in the round of a topic, 4 or more."""
    pronunciations: int = 2
    """Number of words for a concept in each language; each use draws one of them."""
    units_per_language: int = 120
    """Number of units of each language. All languages together have at most 2,047 units."""
    units_per_word: tuple[int, int] = (2, 3)
    """Least and greatest number of units in a word."""
    sentences_per_story: int = 5
    """Number of sentences in a story, 2 or more. In a cloze item the last one is the ending."""
    words_per_sentence: int = 3
    """Number of words in a sentence, without fillers.
    It is the same in all sentences, or short endings would be more likely."""
    skip: float = 0.3
    """Probability that a story skips the next concept, drawn again for each further concept."""
    noise: float = 0.15
    """Probability that a word is off topic: any concept of the world."""
    fillers: float = 0.15
    """Probability of a filler, a word without meaning, before each word; drawn per language."""
    num_fillers: int = 6
    """Number of different fillers in each language."""
    aligned_documents: int = 12_000
    """Number of training stories told in every language."""
    extra_documents: int = 12_000
    """Number of training stories told in the first language only."""
    valid_documents: int = 400
    """Number of held-out stories told in every language."""
    cloze_documents: int = 1_500
    """Number of held-out stories told in every language that become an sSC and an sTC item each.
    It must be a multiple of num_topics."""

    def __post_init__(self) -> None:
        if not 0 < self.vocab_size < 2048:
            raise ValueError(
                f"units_per_language={self.units_per_language} in {len(self.languages)} languages "
                f"give {self.vocab_size} units; expected 1 to 2047"
            )
        if len(set(self.languages)) < len(self.languages):
            raise ValueError(f"languages={self.languages} has a name twice")
        fewest, most = self.units_per_word
        if not 1 <= fewest <= most:
            raise ValueError(f"units_per_word={fewest, most}; expected 1 <= fewest <= most")
        for name in ("skip", "noise", "fillers"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected 0 <= {name} < 1")
        least = dict(num_topics=2, concepts_per_topic=4, sentences_per_story=2, cloze_documents=1)
        least |= dict(pronunciations=1, words_per_sentence=1, num_fillers=1, aligned_documents=1)
        least |= dict(extra_documents=0, valid_documents=1)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name}={getattr(self, name)}; expected {value} or more")
        if self.cloze_documents % self.num_topics:
            raise ValueError(
                f"cloze_documents={self.cloze_documents}; expected a multiple of "
                f"num_topics={self.num_topics}, so that topics are equally frequent"
            )

    @property
    def num_concepts(self) -> int:
        """Number of concepts; concept c is at place c % concepts_per_topic of its round."""
        return self.num_topics * self.concepts_per_topic

    @property
    def vocab_size(self) -> int:
        """Number of units; those of language i start at i * units_per_language."""
        return len(self.languages) * self.units_per_language


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

    No two keys have the same story. ValueError when `out` holds anything; it appears whole.
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

    def train() -> Iterator[Document]:
        yield from documents(world, stories, parts["story"], "story")
        yield from documents(world, stories, parts["extra"], "extra", world.languages[:1])

    told = documents(world, stories, parts["cloze"], "cloze")
    cloze = parts["cloze"]
    with staged_folder(out) as folder:
        write_corpus(folder / "train", train(), tokenizer)
        write_corpus(
            folder / "valid", documents(world, stories, parts["valid"], "valid"), tokenizer
        )
        write_corpus(folder / "cloze", (half for story in told for half in split(story)), tokenizer)
        items = cloze_items(stories.topics[cloze], stories.places[cloze], "cloze_documents")
        write_items(folder / "cloze" / ITEMS, items)


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
    languages: tuple[str, ...] | None = None,
) -> Iterator[Document]:
    """Yield the stories of a part in each language; keys are `kind` and the story's number."""
    for language in languages or world.languages:
        told = tell(world, stories.concepts[part], language, kind)
        for number, sentences in enumerate(told):
            yield Document(key=f"{kind}/{number:06d}", language=language, sentences=sentences)


def tell(
    world: StoryWorld, concepts: np.ndarray, language: str, kind: str
) -> Iterator[list[np.ndarray]]:
    """Yield the sentences of each story as units of a language: lists of uint16 arrays.

    concepts: int64 [stories, sentences, words].
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
    # PAD, -1, is the empty word at the end of the lexicon
    units = lexicon(world, language)[slots.reshape(num_stories * num_sentences, 2 * num_words)]
    lengths = (units != PAD).sum((1, 2))
    tokens = units[units != PAD].astype(np.uint16)
    sentences = np.split(tokens, np.cumsum(lengths)[:-1])
    for first in range(0, num_stories * num_sentences, num_sentences):
        yield sentences[first : first + num_sentences]


def lexicon(world: StoryWorld, language: str) -> np.ndarray:
    """Draw the words of a language, all different: int64 [words + 1, most units], padded.

    Word c * pronunciations + i is pronunciation i of concept c. Then come the fillers, and last an
    empty word.
    """
    number = world.languages.index(language)
    num_words = world.num_concepts * world.pronunciations + world.num_fillers
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
