"""What is in a corpus, as tables to print; a document of it, side by side in its languages."""

import textwrap
from itertools import combinations

import numpy as np

from tresse.data.store.corpus import Corpus

QUANTILES = {"min": 0, "25%": 0.25, "median": 0.5, "75%": 0.75, "max": 1}

MIN_COLUMN = 24


def describe(corpus: Corpus) -> str:
    """Documents, sentences, tokens, hours and lengths per language; shared keys per pair."""
    lines = [
        f"corpus     {corpus.path}",
        f"id         {corpus.id}",
        f"tokenizer  {corpus.tokenizer}",
        "",
        *table(["language", "documents", "sentences", "tokens", "hours", "shards"], _rows(corpus)),
        "",
        *table(["tokens per", "language", *QUANTILES], _length_rows(corpus)),
    ]
    if len(corpus.languages) > 1:
        header = ["languages", "shared keys", "left out of each"]
        lines += ["", *table(header, _pair_rows(corpus))]
    return "\n".join(lines)


def show_document(corpus: Corpus, key: str, width: int) -> str:
    """The sentences with a key, a column per language that has them; "|" is between words.

    ValueError when no language has the key.
    """
    places = {name: _find(corpus, name, key) for name in corpus.languages}
    found = {name: place for name, place in places.items() if place is not None}
    if not found:
        first = ", ".join(sorted({repr(corpus.key(name, 0)) for name in corpus.languages}))
        raise ValueError(
            f"{corpus.path}: no document has the key {key!r}; its languages begin with {first}"
        )
    column = max((width - 2 * (len(found) - 1)) // len(found), MIN_COLUMN)
    cells = [_show(corpus, name, document, column) for name, document in found.items()]
    lines = [f"document {key!r}"]
    if missing := [name for name in corpus.languages if name not in found]:
        lines.append(f"not in {', '.join(missing)}")
    for i in range(max(map(len, cells))):
        block = [own[i] if i < len(own) else [] for own in cells]
        lines.append("")
        for j in range(max(map(len, block))):
            parts = [own[j] if j < len(own) else "" for own in block]
            lines.append("  ".join(part.ljust(column) for part in parts).rstrip())
    return "\n".join(lines)


def _find(corpus: Corpus, language: str, key: str) -> int | None:
    try:
        return corpus.find(language, key)
    except ValueError:
        return None


def _show(corpus: Corpus, language: str, document: int, width: int) -> list[list[str]]:
    """Lines of each sentence: what it is, then its units."""
    words = corpus.words(language, document)
    sentences = []
    for i, sentence in enumerate(corpus.document(language, document)):
        units = [str(unit) for unit in sentence.tolist()]
        title = f"{language} {i}: {len(units)} units"
        if words is not None:
            title += f", {len(words[i])} words"
            for start in words[i][1:]:
                units[start] = f"| {units[start]}"
        sentences.append([title, *textwrap.wrap(" ".join(units), width)])
    return sentences


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
        shared = corpus.aligned_columns(pair)[0].size
        left = (f"{name} {corpus.num_documents(name) - shared:,}" for name in pair)
        rows.append([" + ".join(pair), f"{shared:,}", ", ".join(left)])
    return rows


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table: text in the first column to the left, all else to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
