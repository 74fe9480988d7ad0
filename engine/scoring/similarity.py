"""Do translations look alike to the model? Cosine similarity of hidden states, layer by layer.

A sentence's state in a layer is the mean over its tokens. As states of a language model share a
direction whatever they say, sentences that do not belong together are measured beside the
translations.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from tresse.data.store.corpus import Corpus
from tresse.engine.model import Transformer
from tresse.engine.run.ranks import Ranks
from tresse.engine.scoring.padded import padded_batches


@dataclass(frozen=True, slots=True)
class Alignment:
    """Mean cosine similarity of sentences in two languages: of the embeddings, then by layer."""

    num_sentences: int
    aligned: list[float]
    """Of translations."""
    random: list[float]
    """Of sentences that do not belong together: what similarity is worth nothing."""


def measure_alignment(
    model: Transformer,
    corpus: Corpus,
    languages: tuple[str, str],
    *,
    batch_tokens: int,
    ranks: Ranks,
    num_sentences: int = 1000,
) -> Alignment:
    """Compare mean-pooled hidden states of sentences and their translations; a collective.

    Sentences are read alone, without a prefix, drawn by document from all that both languages have.
    """
    sentences = _draw_sentences(corpus, languages, num_sentences)
    if len(sentences) < 2:
        raise ValueError(
            f"{corpus.path}: {len(sentences)} aligned sentences of {' and '.join(languages)}; "
            "expected 2 at least"
        )
    flat = [sentence for pair in sentences for sentence in pair]
    pooled = _pooled_states(model, flat, batch_tokens, ranks)
    first, second = pooled[::2], pooled[1::2]
    aligned, random = (
        F.cosine_similarity(first, other, dim=-1).mean(0).tolist()
        for other in (second, second.roll(1, dims=0))
    )
    return Alignment(len(sentences), aligned, random)


@torch.no_grad()
def _pooled_states(
    model: Transformer, sentences: list[np.ndarray], batch_tokens: int, ranks: Ranks
) -> torch.Tensor:
    """Mean over the tokens of each sentence of each layer's states, (n, layers + 1, D) fp32."""
    shape = (len(sentences), model.config.num_layers + 1, model.config.hidden_size)
    pooled = torch.zeros(shape, device=ranks.device)
    for batch in padded_batches(sentences, batch_tokens, ranks):
        weights = batch.inside().float() / batch.lengths[:, None]
        states = model.hidden_states(batch.tokens)
        means = [torch.einsum("bt,btd->bd", weights, state.float()) for state in states]
        if batch.is_own:
            pooled[batch.indices] = torch.stack(means, dim=1)
    return ranks.all_reduce(pooled)


def _draw_sentences(
    corpus: Corpus, languages: tuple[str, str], num_sentences: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Up to `num_sentences` translations from random documents, shuffled; always the same."""
    rows, rng = corpus.aligned(languages), np.random.default_rng(0)
    sentences = []
    for row in rng.permutation(len(rows)):
        both = (corpus.document(*each) for each in zip(languages, rows[row].tolist(), strict=True))
        sentences += zip(*both, strict=True)
        if len(sentences) >= num_sentences:
            break
    # Shuffled, or the next sentence would mostly be one of the same document.
    return [sentences[index] for index in rng.permutation(min(num_sentences, len(sentences)))]
