"""Stories of the story world as text, and questions about them: what a world with `text` has more.

A text has the words of the spoken story, each as one token; all pronunciations of a word are
spelled alike. So speech and text of a language have equally many words in each sentence. A question
is a whole story, its answer the name of the story's topic and the first words of its round, which
stories never name.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tresse.data.durable import write_text
from tresse.data.store.cloze import Item
from tresse.data.store.documents import Document
from tresse.data.store.tensor_file import checksum_file
from tresse.data.store.text_tokenizer import FILE as TEXT_TOKENIZER
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.worlds.world import StoryWorld

SUFFIX = "-text"
ANSWER_WORDS = 4  # the topic's name, and words of its round
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def num_spelled(world: StoryWorld) -> int:
    """Return the number of words in a language's texts: concepts, fillers, names of topics."""
    return world.num_concepts + world.num_fillers + world.num_topics


def spelled_lexicon(world: StoryWorld, language: str) -> np.ndarray:
    """Return the text token of each word of a spoken lexicon: int64 [words + 1, 1].

    The last word is the empty one, -1, as in the spoken lexicon.
    """
    first = world.languages.index(language) * num_spelled(world)
    concepts = np.repeat(np.arange(world.num_concepts), world.pronunciations)
    others = np.arange(world.num_concepts, num_spelled(world))
    return np.concatenate([first + concepts, first + others, [-1]])[:, None]


def write_tokenizer(world: StoryWorld, folder: Path) -> Tokenizer:
    """Write the tokenizer.json of the world's texts, of a token for each word; return its name."""
    words = [_spell(number) for number in range(len(world.languages) * num_spelled(world))]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(words)},
            "unk_token": "<unknown>",
        },
    }
    path = folder / TEXT_TOKENIZER
    write_text(path, json.dumps(content, indent=1) + "\n")
    return Tokenizer("wordlevel", checksum_file(path), "", len(words))


def _spell(number: int) -> str:
    """Return a word of two syllables or more, another one for each number."""
    syllables = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
    rest, last = divmod(number, len(syllables))
    if rest < len(syllables):
        return syllables[last] + syllables[rest]
    return syllables[last] + _spell(rest)


def answer_words(world: StoryWorld, topic: int) -> list[int]:
    """Return the words of the answer that names a topic, numbers in the lexicon."""
    first = topic * world.concepts_per_topic
    concepts = range(first, first + ANSWER_WORDS - 1)
    name = world.num_concepts * world.pronunciations + world.num_fillers + topic
    return [name, *(concept * world.pronunciations for concept in concepts)]


def question(story: Document, key: str, language: str) -> Document:
    """Return a story as a question: one sentence."""
    return Document(key, language, [np.concatenate(list(story.sentences))])


def question_items(topics: np.ndarray) -> Iterator[Item]:
    """Yield an item per story: its question, the answer of its topic, and that of another one.

    Each answer is wrong as often as it is right, so that answers alone give no hint.
    """
    num_topics = int(topics.max()) + 1
    for number, topic in enumerate(topics.tolist()):
        other = (topic + 1 + number // num_topics % (num_topics - 1)) % num_topics
        yield Item(
            task="QA",
            id=f"{number:06d}",
            prompt=f"question/{number:06d}",
            correct=f"answer/{topic}",
            incorrect=f"answer/{other}",
        )
