"""A small world to learn from: aligned stories in invented languages, written straight as units.

The world has topics, say *a day at school*. A topic is a round of concepts in a fixed order (wake,
dress, walk, learn, play, eat, ...; after the last comes the first). A story picks a topic, enters
its round anywhere and moves on with each word; now and then it skips a concept (`skip`), and some
words are off the subject (`noise`: any concept of the world). Sentence i of a story is a
translation of sentence i in every other language: the same concepts, but each language has words of
its own for them, adds filler words where it likes (`fillers`), and has units of its own. So nothing
but context can tell a model that two words mean the same. A story, units as letters:

    concepts   wake dress | walk MOON | eat wake       skipped: play, sleep; MOON is off the subject
    en         kalu dof   | um ro mib | gi teg         um is a filler; teg is another word for wake
    fr         ZYX QW     | EH VY     | PUH JO ZYX     PUH is a filler

A cloze item shows all sentences but the last (the prompt) and asks which of two endings follows:

    sTC   the wrong ending is that of a story of another topic
    sSC   the wrong ending is that of a story of the same topic, about half a round away:
          the right words at the wrong time

In both tasks every ending is the right one once and the wrong one once, so that endings alone give
nothing away.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from tresse.data.durable import staged_folder
from tresse.data.store.cloze import Item, write_items
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer

PAD = -1  # no word, no unit


@dataclass(frozen=True, kw_only=True, slots=True)
class StoryWorld:
    """A world of stories; equal fields give equal bytes (with one version of numpy)."""

    seed: int = 0
    """Draws the words of the languages and the stories."""
    languages: tuple[str, ...] = ("en", "fr")
    """Names of the languages; the first one has the extra documents."""
    num_topics: int = 6
    """Rounds of concepts that stories are about; no two share a concept."""
    concepts_per_topic: int = 10
    """Concepts in a round."""
    pronunciations: int = 2
    """Words for a concept in each language; a speaker takes any of them."""
    units_per_language: int = 120
    """Units of a language; the vocabulary is this times the number of languages, below 2048."""
    units_per_word: tuple[int, int] = (2, 3)
    """Fewest and most units of a word."""
    sentences_per_story: int = 5
    """Sentences in a story; in a cloze item the last one is the ending."""
    words_per_sentence: int = 3
    """Words in a sentence, fillers not counted; if it varied, short endings would be likelier."""
    skip: float = 0.3
    """Probability that a story skips the next concept of the round, and again for the one after."""
    noise: float = 0.15
    """Probability that a word is off the subject: any concept of the world."""
    fillers: float = 0.15
    """Probability of a filler, which means nothing, before a word; drawn for each language."""
    num_fillers: int = 6
    """Filler words of a language."""
    aligned_documents: int = 12_000
    """Training stories told in every language."""
    extra_documents: int = 12_000
    """Training stories told in the first language only."""
    valid_documents: int = 400
    """Held-out stories told in every language."""
    cloze_documents: int = 1_500
    """Held-out stories that become one sSC and one sTC item each, told in every language."""

    def __post_init__(self) -> None:
        if not 0 < self.vocab_size < 2048:
            raise ValueError(
                f"units_per_language={self.units_per_language} in {len(self.languages)} languages "
                f"make {self.vocab_size} units; expected 1 to 2047"
            )
        if len(set(self.languages)) < len(self.languages):
            raise ValueError(f"languages={self.languages} holds a name twice")
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
        """Concepts of all topics; concept c is at place c % concepts_per_topic of its round."""
        return self.num_topics * self.concepts_per_topic

    @property
    def vocab_size(self) -> int:
        """Units of all languages; language i has those from i * units_per_language."""
        return len(self.languages) * self.units_per_language


@dataclass(frozen=True)
class Stories:
    """Stories before they are told in a language."""

    concepts: np.ndarray
    """int64 [stories, sentences, words]."""
    topics: np.ndarray
    """int64 [stories]."""
    places: np.ndarray
    """int64 [stories], place in the round at which the last sentence starts (noise or not)."""


def generate(world: StoryWorld, out: str | Path) -> None:
    """Write the corpora out/train, out/valid and out/cloze, and out/cloze/items.jsonl.

    Train holds `extra_documents` more in the first language; no two keys tell the same story.
    ValueError when `out` holds anything; it appears when all is written.
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
        chosen = items(stories.topics[cloze], stories.places[cloze])
        write_items(folder / "cloze" / "items.jsonl", chosen)


def draw_stories(world: StoryWorld, num_stories: int) -> Stories:
    """`num_stories` different stories, their topics in turn."""
    rng = generator(world, 0)
    topics = np.arange(num_stories) % world.num_topics
    stories = walk(world, topics, rng)
    for _ in range(100):
        rows = stories.concepts.reshape(num_stories, -1)
        _, first = np.unique(rows, axis=0, return_index=True)
        again = np.setdiff1d(np.arange(num_stories), first)
        if not len(again):
            return stories
        redrawn = walk(world, topics[again], rng)
        stories.concepts[again], stories.places[again] = redrawn.concepts, redrawn.places
    raise ValueError(
        f"this world does not hold {num_stories} different stories; ask for fewer documents, "
        "or raise num_topics, concepts_per_topic or words_per_sentence"
    )


def walk(world: StoryWorld, topics: np.ndarray, rng: np.random.Generator) -> Stories:
    """A story per topic: enter its round anywhere, go on with each word, skip some, err in some."""
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
    """Tell the stories of a part in each language; the key is the kind and the story's number."""
    for language in languages or world.languages:
        told = tell(world, stories.concepts[part], language, kind)
        for number, sentences in enumerate(told):
            yield Document(key=f"{kind}/{number:06d}", language=language, sentences=sentences)


def tell(
    world: StoryWorld, concepts: np.ndarray, language: str, kind: str
) -> Iterator[list[np.ndarray]]:
    """The sentences of each story as units of a language.

    concepts: int64 [stories, sentences, words]. Yields lists of uint16 arrays.
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
    # row -1 of the lexicon, where PAD points to, holds no unit
    units = lexicon(world, language)[slots.reshape(num_stories * num_sentences, 2 * num_words)]
    lengths = (units != PAD).sum((1, 2))
    tokens = units[units != PAD].astype(np.uint16)
    sentences = np.split(tokens, np.cumsum(lengths)[:-1])
    for first in range(0, num_stories * num_sentences, num_sentences):
        yield sentences[first : first + num_sentences]


def lexicon(world: StoryWorld, language: str) -> np.ndarray:
    """The words of a language, all different: int64 [words + 1, most units], padded.

    Word c * pronunciations + i is pronunciation i of concept c; then fillers; then an empty row.
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
    for row, word in enumerate(words):
        table[row, : len(word)] = word
    return table


def split(story: Document) -> tuple[Document, Document]:
    """The prompt and the ending of a story."""
    prompt = Document(f"{story.key}/prompt", story.language, story.sentences[:-1])
    return prompt, Document(f"{story.key}/ending", story.language, story.sentences[-1:])


def items(topics: np.ndarray, places: np.ndarray) -> Iterator[Item]:
    """One sSC and one sTC item per story: its prompt, its ending, and the ending of its partner."""
    same, other = partners(topics, places)
    if (places == places[same]).any():
        raise ValueError(
            f"cloze_documents={len(topics)}: too few stories of a topic to borrow an ending "
            "from another place; raise it"
        )
    for task, partner in (("sSC", same), ("sTC", other)):
        for number, lender in enumerate(partner):
            yield Item(
                task=task,
                id=f"{number:06d}",
                prompt=f"cloze/{number:06d}/prompt",
                correct=f"cloze/{number:06d}/ending",
                incorrect=f"cloze/{lender:06d}/ending",
            )


def partners(topics: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each story the one that lends its ending: of the same topic, and of another one.

    topics: int64 [stories], each topic equally frequent; places: int64 [stories]. Both results are
    permutations. The first is half a topic away, in order of place. The second goes through all
    other topics in turn: with a fixed pair for each topic, a model that knows nothing but prefers
    some topics after others was up to 4 standard errors off chance.
    """
    num_topics = topics.max() + 1
    stories = np.lexsort((places, topics)).reshape(num_topics, -1)
    column = np.arange(stories.shape[1])
    lender = (np.arange(num_topics)[:, None] + 1 + column % (num_topics - 1)) % num_topics
    same, other = np.empty_like(topics), np.empty_like(topics)
    same[stories] = np.roll(stories, len(column) // 2, axis=1)
    other[stories] = stories[lender, column]
    return same, other


def generator(world: StoryWorld, *stream: int) -> np.random.Generator:
    """The random stream of one purpose, so that one draw never moves another."""
    return np.random.Generator(np.random.PCG64([world.seed, *stream]))
