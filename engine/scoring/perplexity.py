"""What a context is worth: losses of held-out documents by position, and given their translation.

The braid at work: a document should be easier to predict after its original in another language
than after another story. Alone it begins as documents do in training; after a context it begins
where one goes on, so both of those losses are higher than alone. All losses are means over units,
in nats; the perplexity is exp(loss).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tresse.data.packing.settings import Packing
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.corpus import Corpus
from tresse.engine.run.ranks import Ranks
from tresse.engine.scoring.padded import padded_batches
from tresse.engine.scoring.questions import Pair, join, language_pairs, pair_name

NUM_DOCUMENTS = 200


@dataclass(frozen=True, slots=True)
class ByPosition:
    """Loss of a language's documents by the position of a unit in its document."""

    ends: list[int]
    """End of each range of positions, which begins where the one before it ends; 0 is the second
    unit of a document."""
    losses: list[float]
    num_documents: int


@dataclass(frozen=True, slots=True)
class Given:
    """Loss of the same documents in three contexts."""

    alone: float
    """After nothing."""
    original: float
    """After the same document in the other language."""
    unrelated: float
    """After another document in the other language: the control."""
    num_documents: int


@dataclass(frozen=True, slots=True)
class _Sequence:
    tokens: np.ndarray
    num_context: int
    """Number of tokens whose losses do not count: up to the first unit of the document."""


def measure_positions(
    model: nn.Module,
    corpus: Corpus,
    packing: Packing,
    vocabulary: Vocabulary,
    *,
    batch_tokens: int,
    ranks: Ranks,
) -> dict[str, ByPosition]:
    """Measure the documents of each language by position, in ranges that double; a collective.

    A document longer than a row counts up to the end of the row.
    """
    found = {}
    for language in corpus.languages:
        drawn = np.random.default_rng(0).permutation(corpus.num_documents(language))
        documents = [_tokens(corpus, vocabulary, language, int(i)) for i in drawn[:NUM_DOCUMENTS]]
        sequences = [_in_context(document, None, packing, vocabulary) for document in documents]
        losses, counts = _losses(model, sequences, packing, batch_tokens, ranks)
        found[language] = _by_position(losses, counts, len(sequences))
    return found


def _by_position(losses: torch.Tensor, counts: torch.Tensor, num_documents: int) -> ByPosition:
    """Average summed losses in ranges of positions; both: [T]."""
    ends, means = [], []
    start, stop = 0, 1
    num_used = int((counts > 0).sum())
    while start < num_used:
        stop = min(stop, num_used)
        ends.append(stop)
        means.append(float(losses[start:stop].sum() / counts[start:stop].sum()))
        start, stop = stop, 2 * stop
    return ByPosition(ends, means, num_documents)


def measure_translations(
    model: nn.Module,
    corpus: Corpus,
    packing: Packing,
    vocabulary: Vocabulary,
    *,
    batch_tokens: int,
    ranks: Ranks,
) -> dict[str, Given]:
    """Measure documents after their originals, by pairs of languages `en->fr`; a collective.

    Only documents that fit a row together with any of the originals are used; a pair of languages
    with fewer than two of them is left out.
    """
    found = {}
    for pair in language_pairs(corpus.languages):
        if pair[0] == pair[1] or not corpus.aligned_columns(sorted(pair))[0].size:
            continue
        originals, documents = _fitting(corpus, pair, packing, vocabulary)
        if len(documents) > 1:
            contexts = ([None] * len(documents), originals, [*originals[1:], originals[0]])
            means = []
            for context in contexts:
                sequences = [
                    _in_context(document, before, packing, vocabulary)
                    for document, before in zip(documents, context, strict=True)
                ]
                losses, counts = _losses(model, sequences, packing, batch_tokens, ranks)
                means.append(float(losses.sum() / counts.sum()))
            alone, original, unrelated = means
            found[pair_name(pair)] = Given(alone, original, unrelated, len(documents))
    return found


def _fitting(
    corpus: Corpus, pair: Pair, packing: Packing, vocabulary: Vocabulary
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Draw translated documents of which any two fit a row: originals, and their translations."""
    aligned = corpus.aligned(pair)
    drawn = aligned[np.random.default_rng(0).permutation(len(aligned))]
    room = packing.row_length + 1 - _num_specials(packing, vocabulary)
    originals, documents = [], []
    for original, document in drawn.tolist():
        parts = tuple(
            _tokens(corpus, vocabulary, *each)
            for each in zip(pair, (original, document), strict=True)
        )
        if max(map(len, parts)) <= room // 2:
            originals.append(parts[0])
            documents.append(parts[1])
        if len(documents) == NUM_DOCUMENTS:
            break
    return originals, documents


def _num_specials(packing: Packing, vocabulary: Vocabulary) -> int:
    specials = vocabulary.specials(packing)
    return (specials.before_document is not None) + (specials.switch is not None)


def _tokens(corpus: Corpus, vocabulary: Vocabulary, language: str, index: int) -> np.ndarray:
    return np.concatenate(vocabulary.sentences(corpus, language, index))


def _in_context(
    document: np.ndarray, before: np.ndarray | None, packing: Packing, vocabulary: Vocabulary
) -> _Sequence:
    """Join a document and what comes before it, up to the end of a row.

    The first unit of the document never counts: without any context nothing comes before it.
    """
    specials = vocabulary.specials(packing)
    tokens = join(specials.before_document, before, specials.switch, document).tokens
    return _Sequence(tokens[: packing.row_length + 1], len(tokens) - len(document) + 1)


@torch.no_grad()
def _losses(
    model: nn.Module,
    sequences: Sequence[_Sequence],
    packing: Packing,
    batch_tokens: int,
    ranks: Ranks,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the losses of units by their position in the document; returns sums and counts, [T]."""
    contexts = torch.tensor([each.num_context for each in sequences], device=ranks.device)
    sums = torch.zeros(2, packing.row_length + 1, dtype=torch.float64, device=ranks.device)
    for batch in padded_batches([s.tokens for s in sequences], batch_tokens, ranks, "perplexity"):
        losses = batch.losses(model)
        places = torch.arange(1, batch.tokens.shape[1], device=ranks.device)
        places = places - contexts[batch.indices, None]
        counted = (places >= 0) & batch.inside()[:, 1:]
        if batch.is_own:
            sums[0].index_add_(0, places[counted], losses[counted])
            sums[1].index_add_(0, places[counted], torch.ones_like(losses[counted]))
    sums = ranks.all_reduce(sums)
    return sums[0], sums[1]
