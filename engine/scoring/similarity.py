"""How alike the hidden states of translations are, layer by layer: cosine and retrieval.

Of two languages of which one is text, the likeness is cross-modal: a text is a translation of its
speech. Otherwise it is cross-lingual.

A sentence's state in a layer is the mean over its tokens. All states of a language model share a
direction, so even unrelated sentences are similar: their similarity is measured as well. Retrieval
asks whether a sentence's translation is the nearest of all sentences of the other language.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.corpus import Corpus
from tresse.engine.model import Transformer
from tresse.engine.run.ranks import Ranks
from tresse.engine.scoring.padded import padded_batches
from tresse.engine.scoring.questions import language_pairs

NUM_SENTENCES = 1000
TIE = 1e-6
"""Cosines that differ by less are equal, as those of a sentence that occurs twice."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """Likeness of sentences in two languages: of the embeddings first, then of each layer."""

    num_sentences: int
    aligned: list[float]
    """Mean cosine similarity of translations."""
    random: list[float]
    """Mean cosine similarity of unrelated sentences: the chance level."""
    retrieval: list[float]
    """Share of sentences whose translation is the nearest, both ways; by chance 1 / num_sentences.
    """
    is_cross_modal: bool
    """True if exactly one of the two languages is text."""


def measure_similarities(
    model: Transformer, corpus: Corpus, vocabulary: Vocabulary, *, batch_tokens: int, ranks: Ranks
) -> dict[str, Similarity]:
    """Measure each pair of languages that has translations, by its name `en-fr`; a collective."""
    pairs = [(a, b) for a, b in language_pairs(corpus.languages) if a < b]
    return {
        "-".join(pair): measure_similarity(
            model, corpus, vocabulary, pair, batch_tokens=batch_tokens, ranks=ranks
        )
        for pair in pairs
        if corpus.aligned_columns(pair)[0].size > 1
    }


def measure_similarity(
    model: Transformer,
    corpus: Corpus,
    vocabulary: Vocabulary,
    languages: tuple[str, str],
    *,
    batch_tokens: int,
    ranks: Ranks,
    num_sentences: int = NUM_SENTENCES,
) -> Similarity:
    """Compare mean-pooled hidden states of sentences and their translations; a collective.

    num_sentences: number to draw from all translated documents, document by document. A sentence is
    read alone, without a prefix.
    """
    sentences = _draw_sentences(corpus, vocabulary, languages, num_sentences)
    if len(sentences) < 2:
        raise ValueError(
            f"{corpus.path}: {len(sentences)} translated sentences of {' and '.join(languages)}; "
            "expected 2 or more"
        )
    flat = [sentence for pair in sentences for sentence in pair]
    pooled = _pooled_states(model, flat, batch_tokens, ranks)
    first, second = pooled[::2], pooled[1::2]
    aligned, random = (
        F.cosine_similarity(first, other, dim=-1).mean(0).tolist()
        for other in (second, second.roll(1, dims=0))
    )
    found = retrieval(first, second)
    return Similarity(len(sentences), aligned, random, found, _is_cross_modal(corpus, languages))


def _is_cross_modal(corpus: Corpus, languages: tuple[str, str]) -> bool:
    first, second = (corpus.tokenizer(language) for language in languages)
    return first.is_text != second.is_text


def retrieval(first: torch.Tensor, second: torch.Tensor) -> list[float]:
    """Return, for each layer, the share of sentences that find their translation, both ways.

    first, second: (n, layers, D). Of k sentences that are equally near, each counts 1 / k.
    """
    shares = []
    for layer in range(first.shape[1]):
        a, b = (F.normalize(x[:, layer].float(), dim=-1) for x in (first, second))
        similarity = a @ b.T
        found = [_found(matrix) for matrix in (similarity, similarity.T)]
        shares.append(float(torch.stack(found).mean()))
    return shares


def _found(similarity: torch.Tensor) -> torch.Tensor:
    """Return the share of lines of a matrix whose largest value is on the diagonal."""
    is_nearest = similarity >= similarity.amax(1, keepdim=True) - TIE
    return (is_nearest.diagonal() / is_nearest.sum(1)).mean()


@torch.no_grad()
def _pooled_states(
    model: Transformer, sentences: list[np.ndarray], batch_tokens: int, ranks: Ranks
) -> torch.Tensor:
    """Average each layer's states over a sentence's tokens, (n, num_layers + 1, D) fp32."""
    shape = (len(sentences), model.config.num_layers + 1, model.config.hidden_size)
    pooled = torch.zeros(shape, device=ranks.device)
    for batch in padded_batches(sentences, batch_tokens, ranks, "similarities"):
        weights = batch.inside().float() / batch.lengths[:, None]
        states = model.hidden_states(batch.tokens)
        means = [torch.einsum("bt,btd->bd", weights, state.float()) for state in states]
        if batch.is_own:
            pooled[batch.indices] = torch.stack(means, dim=1)
    return ranks.all_reduce(pooled)


def _draw_sentences(
    corpus: Corpus, vocabulary: Vocabulary, languages: tuple[str, str], num_sentences: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw up to `num_sentences` translations by document and shuffle them, always the same way."""
    documents, rng = corpus.aligned(languages), np.random.default_rng(0)
    sentences = []
    for index in rng.permutation(len(documents)):
        places = zip(languages, documents[index].tolist(), strict=True)
        sentences += zip(*(vocabulary.sentences(corpus, *place) for place in places), strict=True)
        if len(sentences) >= num_sentences:
            break
    # The next sentence is the unrelated one: unshuffled, it would be of the same document.
    return [sentences[index] for index in rng.permutation(min(num_sentences, len(sentences)))]
