"""Settings of a story world (`story_world.py`)."""

from dataclasses import dataclass


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
    text: bool = False
    """Tell all stories as text too, in languages such as `en-text`, and ask questions about them
    (`story_texts.py`). The cloze set then has the tasks sTC and QA, and corpora have words."""

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
