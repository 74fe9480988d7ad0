"""How often each unit occurs in a language: entropy, perplexity, and units that never do."""

from collections.abc import Mapping

import numpy as np
from tqdm import tqdm

from tresse.data.store.corpus import Corpus
from tresse.data.store.inspection import table

BLOCK_TOKENS = 1 << 23
MAX_VOCAB_SIZE = 1 << 24


def count_units(corpus: Corpus) -> dict[str, np.ndarray]:
    """Occurrences of each unit, int64 [vocab_size] per language; reads every token.

    ValueError for a unit beyond the vocabulary, as `verify` would say, and for vocabularies of more
    than 16 million units, which are not counted.
    """
    vocab_size = corpus.tokenizer.vocab_size
    if vocab_size > MAX_VOCAB_SIZE:
        raise ValueError(f"{corpus.path}: units are counted up to {MAX_VOCAB_SIZE} in a vocabulary")
    counts = {name: np.zeros(vocab_size, np.int64) for name in corpus.languages}
    total = sum(corpus.num_tokens(name) for name in corpus.languages)
    with tqdm(total=total, unit="tok", unit_scale=True, desc="count", disable=None) as bar:
        for name in corpus.languages:
            for shard in corpus.shards[name]:
                for start in range(0, shard.tokens.size, BLOCK_TOKENS):
                    block = shard.tokens[start : start + BLOCK_TOKENS]
                    if block.max() >= vocab_size:
                        raise ValueError(
                            f"{shard.path}: unit {block.max()} is outside the vocabulary 0 to "
                            f"{vocab_size - 1}; tresse verify says where"
                        )
                    counts[name] += np.bincount(block, minlength=vocab_size)
                    bar.update(block.size)
    return counts


def entropy_bits(counts: np.ndarray) -> float:
    """H = -sum p log2 p of the relative frequencies p, over the units that occur."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def describe_usage(counts: Mapping[str, np.ndarray], vocab_size: int) -> str:
    """Units that occur, entropy, perplexity 2^H, and the share of the most frequent unit."""
    rows = []
    for language, own in counts.items():
        entropy, used = entropy_bits(own), int((own > 0).sum())
        rows.append([
            language, f"{used:,}", f"{vocab_size - used:,}", f"{entropy:.2f}", f"{2**entropy:,.1f}",
            f"{own.argmax()} ({own.max() / own.sum():.1%})",
        ])  # fmt: skip
    header = ["language", "units used", "never", "entropy, bits", "perplexity", "most frequent"]
    return "\n".join(table(header, rows))
