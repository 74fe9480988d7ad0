"""What is in a corpus, as a table to print."""

from itertools import combinations

import numpy as np

from tresse.data.corpus import Corpus

QUANTILES = {"min": 0, "25%": 0.25, "median": 0.5, "75%": 0.75, "max": 1}


def describe(corpus: Corpus) -> str:
    """Documents, sentences, tokens, hours and lengths per language; shared keys per pair."""
    tokenizer = corpus.tokenizer
    lines = [
        f"corpus     {corpus.path}",
        f"id         {corpus.id}",
        f"tokenizer  {tokenizer.name} {tokenizer.hash or '(no hash)'}, {tokenizer.vocab_size} "
        f"units at {tokenizer.frame_rate} Hz",
        "",
        *_table(["language", "documents", "sentences", "tokens", "hours", "shards"], _rows(corpus)),
        "",
        *_table(["tokens per", "language", *QUANTILES], _length_rows(corpus)),
    ]
    if len(corpus.languages) > 1:
        header = ["languages", "shared keys", "left out of each"]
        lines += ["", *_table(header, _pair_rows(corpus))]
    return "\n".join(lines)


def _rows(corpus: Corpus) -> list[list[str]]:
    return [
        [
            language,
            f"{corpus.num_documents(language):,}",
            f"{corpus.num_sentences(language):,}",
            f"{corpus.num_tokens(language):,}",
            f"{corpus.tokenizer.hours(corpus.num_tokens(language)):,.2f}",
            str(len(corpus.shards[language])),
        ]
        for language in corpus.languages
    ]


def _length_rows(corpus: Corpus) -> list[list[str]]:
    rows = []
    for unit, name in (("document", "document_lengths"), ("sentence", "sentence_lengths")):
        for language in corpus.languages:
            lengths = np.concatenate([getattr(shard, name) for shard in corpus.shards[language]])
            found = np.quantile(lengths, list(QUANTILES.values()), method="nearest")
            rows.append([unit, language, *(f"{value:,}" for value in found)])
    return rows


def _pair_rows(corpus: Corpus) -> list[list[str]]:
    rows = []
    for pair in combinations(corpus.languages, 2):
        shared = len(corpus.aligned(pair))
        left = (f"{name} {corpus.num_documents(name) - shared:,}" for name in pair)
        rows.append([" + ".join(pair), f"{shared:,}", ", ".join(left)])
    return rows


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Text in the first column to the left, all else to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
