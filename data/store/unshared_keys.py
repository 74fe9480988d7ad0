"""A warning of languages that share no keys: they may differ in their spelling alone."""

import logging
from collections.abc import Iterator
from difflib import SequenceMatcher, get_close_matches
from itertools import combinations

import numpy as np

from tresse.data.store.corpus import Corpus
from tresse.data.store.translations import MISSING

MIN_PERCENT = 1  # of the keys of the smaller language
NUM_KEYS, NUM_OTHERS = 8, 32  # compared: each of the former with each of the latter
NUM_MISSES, NUM_PAIRS = 2, 3  # shown
logger = logging.getLogger(__name__)


def warn_of_unshared_keys(corpus: Corpus) -> None:
    """Warn of pairs of languages that share less than 1 % of the keys of the smaller one.

    The warning shows two near misses, the most similar among the first keys of both languages.
    """
    found = list(_unshared(corpus))
    lines = [
        f"  {language} shares {num_shared:,} of its {corpus.num_documents(language):,} keys with "
        f"{other}; the most similar are {_near_misses(corpus, language, other)}"
        for language, other, num_shared in found[:NUM_PAIRS]
    ]
    if len(found) > NUM_PAIRS:
        lines.append(f"  ... and {len(found) - NUM_PAIRS} more pairs of languages")
    if found:
        logger.warning(
            "languages share hardly any keys; documents are translations of each other only if "
            "their keys are equal:\n%s",
            "\n".join(lines),
        )


def _unshared(corpus: Corpus) -> Iterator[tuple[str, str, int]]:
    """Yield pairs of languages, the smaller one first, with the number of keys that they share."""
    for pair in combinations(corpus.languages, 2):
        smaller, larger = sorted(pair, key=corpus.num_documents)
        num_shared = int(_is_shared(corpus, smaller, larger).sum())
        if 100 * num_shared < MIN_PERCENT * corpus.num_documents(smaller):
            yield smaller, larger, num_shared


def _is_shared(corpus: Corpus, language: str, other: str) -> np.ndarray:
    """Return which lines of the table of translations have both languages, bool [num_keys]."""
    table = corpus.translations
    return (table[language] != MISSING) & (table[other] != MISSING)


def _near_misses(corpus: Corpus, language: str, other: str) -> str:
    """Return the most similar of the first keys that only one of two languages has."""
    others = _unshared_keys(corpus, other, language)[:NUM_OTHERS]
    pairs = [
        (key, get_close_matches(key, others, n=1, cutoff=0.0)[0])
        for key in _unshared_keys(corpus, language, other)[:NUM_KEYS]
    ]
    pairs.sort(key=lambda pair: -SequenceMatcher(None, *pair).ratio())
    return ", ".join(f"{key!r} and {match!r}" for key, match in pairs[:NUM_MISSES])


def _unshared_keys(corpus: Corpus, language: str, other: str) -> list[str]:
    """Return the first keys of a language that another one lacks."""
    lacks = np.ones(corpus.num_documents(language), bool)
    lacks[corpus.translations[language][_is_shared(corpus, language, other)]] = False
    documents = np.flatnonzero(lacks)[:NUM_OTHERS]
    return [corpus.key(language, document) for document in documents.tolist()]
