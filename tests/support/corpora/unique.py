"""A corpus in which every token is another unit, so that a unit tells its place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tests.support.corpora.in_memory import MemoryCorpus
from tresse.data.packing.packer import Batch, Plan


@dataclass(frozen=True)
class Origin:
    """Place of a unit in the corpus."""

    language: str
    key: str
    sentence: int
    position: int


def unique_corpus(
    languages: Sequence[str], num_documents: int, *, seed: int = 0, num_shards: int = 2
) -> tuple[MemoryCorpus, dict[int, Origin]]:
    """Documents of 1 to 6 sentences of 1 to 9 units, and where each unit is."""
    rng = np.random.default_rng(seed)
    texts: dict[str, dict[str, list[list[int]]]] = {name: {} for name in languages}
    origins: dict[int, Origin] = {}
    for d in range(num_documents):
        num_sentences = int(rng.integers(1, 7))
        for name in languages:
            text: list[list[int]] = []
            for s in range(num_sentences):
                text.append(list(range(len(origins), len(origins) + int(rng.integers(1, 10)))))
                origins |= {u: Origin(name, f"{d}", s, p) for p, u in enumerate(text[-1])}
            texts[name][f"{d}"] = text
    corpus = MemoryCorpus(texts, vocab_size=1 << 20, num_shards=num_shards)
    return corpus, origins


def batches(plan: Plan, size: int = 64) -> Iterator[Batch]:
    """All rows of a plan."""
    for first in range(0, plan.num_rows, size):
        yield plan.fill(first, min(size, plan.num_rows - first))


def concat_stream(plan: Plan) -> list[int]:
    """The tokens of a plan of one concat stream, joined at the one that rows share."""
    rows = np.concatenate([batch.tokens for batch in batches(plan)])
    return [*rows[:, :-1].reshape(-1).tolist(), int(rows[-1, -1])]
