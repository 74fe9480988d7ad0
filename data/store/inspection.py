"""The contents of a corpus for people: tables, a plot, and one document in all its languages."""

import textwrap
from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tresse.data.durable import staged_file
from tresse.data.store.cloze import ITEMS, read_items
from tresse.data.store.corpus import Corpus
from tresse.data.text_table import format_table

QUANTILES = {"min": 0, "25%": 0.25, "median": 0.5, "75%": 0.75, "max": 1}
MIN_COLUMN = 24  # characters
BLOCK_TOKENS = 1 << 23
MAX_VOCAB_SIZE = 1 << 24
NUM_BINS = 60


def describe(corpus: Corpus) -> str:
    """Return tables of the documents, tokens and lengths per language, shared keys, and items.

    Keys are counted that all languages share, and that each pair shares.
    """
    lines = [
        f"corpus     {corpus.path}",
        f"id         {corpus.id}",
        *(f"tokenizer  {each}" for each in corpus.tokenizers),
        "",
        format_table(_sizes(corpus)),
        "",
        format_table(_lengths(corpus)),
    ]
    if len(corpus.languages) > 1:
        lines += ["", format_table(_shared_keys(corpus))]
    if (corpus.path / ITEMS).exists():
        lines += ["", format_table(_items(corpus), num_left=2)]
    return "\n".join(lines)


def show_document(corpus: Corpus, key: str, width: int) -> str:
    """Return the sentences with a key, in a column per language; "|" stands between words.

    width: characters in a line. ValueError when no language has the key.
    """
    places = {name: _find(corpus, name, key) for name in corpus.languages}
    found = {name: place for name, place in places.items() if place is not None}
    if not found:
        first = ", ".join(sorted({repr(corpus.key(name, 0)) for name in corpus.languages}))
        raise ValueError(
            f"{corpus.path}: no document has the key {key!r}; the first keys of its languages are "
            f"{first}"
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


def count_units(corpus: Corpus) -> dict[str, np.ndarray]:
    """Count each token in each language: int64 [vocab_size]. Reads every token.

    ValueError for a token outside the vocabulary, and for a vocabulary of more than 16 million.
    """
    sizes = {name: corpus.tokenizer(name).vocab_size for name in corpus.languages}
    if max(sizes.values()) > MAX_VOCAB_SIZE:
        raise ValueError(
            f"{corpus.path}: the vocabulary has {max(sizes.values())} tokens; tokens are counted "
            f"in vocabularies of at most {MAX_VOCAB_SIZE}"
        )
    counts = {name: np.zeros(vocab_size, np.int64) for name, vocab_size in sizes.items()}
    total = sum(corpus.num_tokens(name) for name in corpus.languages)
    with tqdm(total=total, unit="tok", unit_scale=True, desc="count", disable=None) as bar:
        for name in corpus.languages:
            for shard in corpus.shards[name]:
                for start in range(0, shard.tokens.size, BLOCK_TOKENS):
                    block = shard.tokens[start : start + BLOCK_TOKENS]
                    if block.max() >= sizes[name]:
                        raise ValueError(
                            f"{shard.path}: token {block.max()} is outside the vocabulary 0 to "
                            f"{sizes[name] - 1}; tresse verify says where"
                        )
                    counts[name] += np.bincount(block, minlength=sizes[name])
                    bar.update(block.size)
    return counts


def entropy_bits(counts: np.ndarray) -> float:
    """H = -sum p log2 p of the relative frequencies p, over the units that occur."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def describe_usage(counts: Mapping[str, np.ndarray]) -> str:
    """Return a table of the tokens that occur, entropy, perplexity 2^H and the commonest one."""
    lines = [["language", "tokens used", "never", "entropy, bits", "perplexity", "most frequent"]]
    for language, own in counts.items():
        entropy, used = entropy_bits(own), int((own > 0).sum())
        lines.append([
            language, f"{used:,}", f"{own.size - used:,}", f"{entropy:.2f}", f"{2**entropy:,.1f}",
            f"{own.argmax()} ({own.max() / own.sum():.1%})",
        ])  # fmt: skip
    return format_table(lines)


def plot_corpus(corpus: Corpus, counts: Mapping[str, np.ndarray], out: Path) -> None:
    """Draw the lengths of documents and sentences, and the units by frequency, as a PNG.

    counts: from `count_units`. ValueError when matplotlib is missing or `out` exists.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plots need matplotlib: pip install 'tresse[plot]'") from None
    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, name in zip(axes, ("document", "sentence"), strict=False):
        lengths = {language: _all_lengths(corpus, language, name) for language in corpus.languages}
        top = max(int(own.max()) for own in lengths.values())
        edges = np.unique(np.geomspace(1, top + 1, NUM_BINS).round())
        for language, own in lengths.items():
            ax.hist(own, bins=edges, histtype="step", label=language)
        ax.set(title=f"units per {name}", xlabel="units", ylabel=f"{name}s", xscale="log")
    for language, own in counts.items():
        axes[2].plot(np.sort(own)[::-1] / own.sum(), label=language)
    axes[2].set(title="units by frequency", xlabel="rank", ylabel="share", yscale="log")
    for ax in axes:
        ax.legend()
    figure.suptitle(f"{corpus.path.name}  {corpus.id[:12]}")
    with staged_file(out) as file:
        figure.savefig(file, format="png", dpi=120)


def _find(corpus: Corpus, language: str, key: str) -> int | None:
    try:
        return corpus.find(language, key)
    except ValueError:
        return None


def _show(corpus: Corpus, language: str, document: int, width: int) -> list[list[str]]:
    """Return the lines of each sentence: a title, then the units."""
    words = corpus.words(language, document)
    sentences = []
    for i, sentence in enumerate(corpus.document(language, document)):
        units = [str(unit) for unit in sentence.tolist()]
        kind = "tokens" if corpus.tokenizer(language).is_text else "units"
        title = f"{language} {i}: {len(units)} {kind}"
        if words is not None:
            title += f", {len(words[i])} words"
            for start in words[i][1:]:
                units[start] = f"| {units[start]}"
        sentences.append([title, *textwrap.wrap(" ".join(units), width)])
    return sentences


def _sizes(corpus: Corpus) -> list[list[str]]:
    lines = [["language", "documents", "sentences", "tokens", "hours", "shards"]]
    for language in corpus.languages:
        num_tokens, tokenizer = corpus.num_tokens(language), corpus.tokenizer(language)
        hours = "text" if tokenizer.is_text else f"{tokenizer.hours(num_tokens):,.2f}"
        lines.append([
            language, f"{corpus.num_documents(language):,}", f"{corpus.num_sentences(language):,}",
            f"{num_tokens:,}", hours,
            str(len(corpus.shards[language])),
        ])  # fmt: skip
    return lines


def _lengths(corpus: Corpus) -> list[list[str]]:
    lines = [["tokens per", "language", *QUANTILES]]
    for name in ("document", "sentence"):
        for language in corpus.languages:
            lengths = _all_lengths(corpus, language, name)
            found = np.quantile(lengths, list(QUANTILES.values()), method="nearest")
            lines.append([name, language, *(f"{value:,}" for value in found)])
    return lines


def _all_lengths(corpus: Corpus, language: str, name: str) -> np.ndarray:
    """Tokens of each document or sentence of a language."""
    return np.concatenate([getattr(shard, f"{name}_lengths") for shard in corpus.shards[language]])


def _shared_keys(corpus: Corpus) -> list[list[str]]:
    lines = [["languages", "shared keys", "left out of each"]]
    pairs = list(combinations(corpus.languages, 2))
    for languages in pairs if len(pairs) == 1 else [corpus.languages, *pairs]:
        shared = corpus.aligned_columns(languages)[0].size
        left = (f"{name} {corpus.num_documents(name) - shared:,}" for name in languages)
        lines.append([" + ".join(languages), f"{shared:,}", ", ".join(left)])
    return lines


def _items(corpus: Corpus) -> list[list[str]]:
    counts = Counter(
        (item.task, ", ".join(item.languages or corpus.languages))
        for item in read_items(corpus.path / ITEMS)
    )
    lines = [[task, languages, f"{count:,}"] for (task, languages), count in counts.items()]
    return [["task", "asked in", "items"], *lines]
