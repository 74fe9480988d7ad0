"""A corpus of random units, to measure with where no data is at hand."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer

NUM_SENTENCES, SENTENCE_LENGTH = 10, 45
NUM_UNITS = 2048


def write_random_units(out: Path, languages: Sequence[str], tokens: int) -> Corpus:
    """Write at least `tokens` units per language: stories of 10 sentences, and translations."""
    rng = np.random.default_rng(0)
    shape = NUM_SENTENCES, SENTENCE_LENGTH
    num_documents = tokens // (NUM_SENTENCES * SENTENCE_LENGTH) + 2

    def documents() -> Iterator[Document]:
        for language in languages:
            for index in range(num_documents):
                sentences = list(rng.integers(0, NUM_UNITS, shape))
                yield Document(key=f"{index:08d}", language=language, sentences=sentences)

    return write_corpus(out, documents(), Tokenizer("random", "", "25/2", NUM_UNITS))
