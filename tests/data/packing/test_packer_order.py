"""The documents of an epoch, their order, and the draws of languages."""

from collections import Counter
from itertools import groupby, pairwise
from typing import Any, cast

import numpy as np
import pytest

from tests.support.corpora.in_memory import MemoryCorpus, memory_corpus, random_texts
from tests.support.corpora.unique import Origin, concat_stream, unique_corpus
from tresse.data import _packer
from tresse.data.packing import reference
from tresse.data.packing.packer import plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.store.corpus import Corpus

LANGUAGES = ("de", "en", "fr")
GOLDEN_HASH, GOLDEN_ORDER = 15020427595393229491, [8, 9, 1, 6, 5, 3, 0, 7, 4, 2]


def stream_of(corpus: object, stream: Stream, tokens: int, **packing: Any) -> list[int]:
    """Return the first `tokens` tokens of a stream."""
    plan = plan_rows(
        cast(Corpus, corpus), [stream], Packing(row_length=16, **packing),
        tokens=tokens - 1, seed=3, stage=1,
    )  # fmt: skip
    return concat_stream(plan)[:tokens]


def test_the_permutation_is_a_bijection_for_every_small_n():
    for n in range(1, 1500):
        for key in (n, 7 * n + 1):
            assert np.array_equal(np.sort(_packer.permute(n, key)), np.arange(n)), (n, key)


@pytest.mark.parametrize("n", [999_983, 1_000_000, 1_048_577])  # a prime, a square, 2^20 + 1
def test_the_permutation_is_a_bijection_for_large_n(n):
    assert np.array_equal(np.sort(_packer.permute(n, 5)), np.arange(n))


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 97, 100, 1009])
def test_the_permutation_is_the_one_of_the_reference(n):
    for key in (0, 1, 2**64 - 1):
        expected = [reference.permute(n, key, i) for i in range(n)]
        assert _packer.permute(n, key).tolist() == expected


def test_hashes_and_permutations_never_change():
    """With other values every corpus has another order, and rows of old runs are lost."""
    assert _packer.hash_words([1, 2, 3]) == reference.hash_words(1, 2, 3) == GOLDEN_HASH
    assert _packer.permute(10, 1).tolist() == GOLDEN_ORDER


def z_of(counts: np.ndarray) -> float:
    """Return how far chi-square is from that of equal counts, in standard deviations."""
    expected, freedom = counts.sum() / counts.size, counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("n", [10_007, 100_000])
def test_the_permutation_passes_chi_square(n):
    """Measured over many seeds: below 4 with 6 half rounds, above 1000 with 2."""
    bins, total = 24, {"place": 0.0, "neighbours": 0.0, "differences": 0.0, "seeds": 0.0}
    for key in range(12):
        images = _packer.permute(n, key * 1000 + 17)
        other = _packer.permute(n, key * 1000 + 18)
        tables = {
            "place": (np.arange(n) * bins // n, images * bins // n),
            "neighbours": (images[:-1] * bins // n, images[1:] * bins // n),
            "seeds": (images * bins // n, other * bins // n),
        }
        for name, (left, right) in tables.items():
            counts = np.bincount(left * bins + right, minlength=bins * bins)
            total[name] = max(total[name], abs(z_of(counts)))
        differences = np.bincount((images[1:] - images[:-1]) % n * bins * bins // n)
        total["differences"] = max(total["differences"], abs(z_of(differences)))
    assert max(total.values()) < 5, total


def test_keys_move_every_place_of_a_small_domain_to_every_other():
    """Evenly within a tenth: n = 5 uses a domain of 6, in which six half rounds leave a bias."""
    images = np.array([_packer.permute(5, key) for key in range(20_000)])
    for i in range(5):
        counts = np.bincount(images[:, i], minlength=5)
        assert (abs(counts - 4000) < 400).all()


def sentences(stream: list[int], origins: dict[int, Origin]) -> list[Origin]:
    """Return the sentences of a stream in order; assert that each is whole."""
    lengths = Counter((o.language, o.key, o.sentence) for o in origins.values())
    found, rest = [], iter(stream)
    for unit in rest:
        first = origins[unit]
        assert first.position == 0
        for position in range(1, lengths[first.language, first.key, first.sentence]):
            assert origins[next(rest)] == Origin(
                first.language, first.key, first.sentence, position
            )
        found.append(first)
    return found


def test_mono_uses_each_document_once_per_epoch_in_another_order():
    corpus, origins = unique_corpus(LANGUAGES, 37)
    size = sum(o.language == "en" for o in origins.values())
    stream = stream_of(corpus, Stream(languages=("en",)), 5 * size)
    orders = []
    for epoch in range(5):
        part = sentences(stream[epoch * size : (epoch + 1) * size], origins)
        assert {o.language for o in part} == {"en"}
        order = [key for key, _ in groupby(part, key=lambda o: o.key)]
        assert sorted(order) == sorted(corpus.texts["en"])
        for key, group in groupby(part, key=lambda o: o.key):
            assert [o.sentence for o in group] == list(range(len(corpus.texts["en"][key])))
        orders.append(order)
    assert len(set(map(tuple, orders))) == 5


@pytest.mark.parametrize("order", ["fixed", "random"])
def test_alternate_has_every_sentence_in_every_language_once_per_epoch(order):
    corpus, origins = unique_corpus(LANGUAGES, 37)
    braid = Stream(languages=("fr", "de", "en"), mode="alternate", language_order=order)
    stream = stream_of(corpus, braid, 2 * len(origins))
    orders = Counter()
    for part in (stream[: len(origins)], stream[len(origins) :]):
        found = sentences(part, origins)
        for key, group in groupby(found, key=lambda o: o.key):
            document = list(group)
            languages = [o.language for o in document[:3]]
            expected = [
                (s, name) for s in range(len(corpus.texts["en"][key])) for name in languages
            ]
            assert [(o.sentence, o.language) for o in document] == expected
            orders[tuple(languages)] += 1
        assert len(set(found)) == len(found)
    assert len(orders) == (1 if order == "fixed" else 6)
    assert order == "random" or ("fr", "de", "en") in orders


def sample_epochs(
    corpus: MemoryCorpus, origins: dict[int, Origin], stream: Stream, num_epochs: int
) -> list[dict[tuple[str, int], str]]:
    """Return {(key, sentence): language} for each of the first epochs of a sampled stream."""
    keys = sorted(corpus.texts["en"])
    total = sum(len(corpus.texts["en"][key]) for key in keys)
    found = sentences_until(
        stream_of(corpus, stream, (num_epochs + 1) * len(origins)), origins, num_epochs * total
    )
    epochs = [found[e * total : (e + 1) * total] for e in range(num_epochs)]
    for epoch in epochs:
        places = [(o.key, o.sentence) for o in epoch]
        assert len(set(places)) == total
    return [{(o.key, o.sentence): o.language for o in epoch} for epoch in epochs]


def sentences_until(stream: list[int], origins: dict[int, Origin], count: int) -> list[Origin]:
    """Return the first sentences of a stream; the last may be cut."""
    starts = [origins[u] for u in stream if origins[u].position == 0]
    return starts[:count]


def test_sample_uses_each_sentence_once_per_language_in_as_many_epochs():
    corpus, origins = unique_corpus(LANGUAGES, 41)
    stream = Stream(languages=("en", "fr", "de"), mode="sample")
    epochs = sample_epochs(corpus, origins, stream, 6)
    for group in (epochs[:3], epochs[3:]):
        for place in group[0]:
            assert {epoch[place] for epoch in group} == set(LANGUAGES)
    assert epochs[0] != epochs[3]  # drawn anew
    counts = Counter(epochs[0].values())
    assert all(
        abs(count - len(epochs[0]) / 3) < 4 * len(epochs[0]) ** 0.5 for count in counts.values()
    )


def test_sample_draws_with_the_given_probabilities():
    corpus, origins = unique_corpus(LANGUAGES, 60)
    stream = Stream(languages=("en", "fr", "de"), mode="sample", probabilities=(0.7, 0.2, 0.1))
    epochs = sample_epochs(corpus, origins, stream, 8)
    counts = Counter(language for epoch in epochs for language in epoch.values())
    total = sum(counts.values())
    for language, p in (("en", 0.7), ("fr", 0.2), ("de", 0.1)):
        assert abs(counts[language] - p * total) < 4 * (total * p * (1 - p)) ** 0.5


def test_switch_tokens_stand_where_the_language_changes_and_only_there():
    corpus, origins = unique_corpus(LANGUAGES, 23)
    stream = Stream(languages=("en", "fr", "de"), mode="sample")
    tokens = stream_of(corpus, stream, 2000, separators="eos", language_switch=True)[:-1]
    eos, switch = corpus.tokenizers[0].vocab_size, corpus.tokenizers[0].vocab_size + 2
    for left, right in pairwise(tokens[:-12]):
        if left == eos:
            assert right != switch
        elif left != switch and right not in (switch, eos):
            assert origins[left].language == origins[right].language
            assert origins[left].key == origins[right].key
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token == switch:
            assert origins[before].language != origins[after].language
            assert origins[before].key == origins[after].key
            assert origins[after].position == 0
            assert origins[after].sentence == origins[before].sentence + 1


def test_added_documents_change_no_draw_of_the_others():
    rng = np.random.default_rng(0)
    texts = random_texts(rng, ("en", "fr"), 30)
    added = random_texts(rng, ("en", "fr"), 12)
    more = {name: {**{f"a{k}": t for k, t in added[name].items()}, **texts[name]} for name in texts}
    for probabilities in ((), (0.3, 0.7)):
        stream = Stream(languages=("en", "fr"), mode="sample", probabilities=probabilities)
        draws = [document_draws(memory_corpus(t), stream) for t in (texts, more)]
        assert draws[0].items() <= draws[1].items()


def document_draws(corpus: Corpus, stream: Stream) -> Counter[tuple[int, ...]]:
    """Count each document as packed in 4 epochs; documents differ by their units."""
    plan = plan_rows(
        corpus, [stream], Packing(row_length=64, separators="eos"),
        tokens=4 * corpus_size(corpus), seed=1, stage=0,
    )  # fmt: skip
    documents: list[list[int]] = [[]]
    for token in concat_stream(plan):
        documents[-1].append(token)
        if token == plan.vocabulary.eos:
            documents.append([])
    num = 4 * len(corpus.aligned(stream.languages))
    return Counter(map(tuple, documents[:num]))


def corpus_size(corpus: Corpus) -> int:
    """Number of tokens and separators of both languages, more than an epoch has."""
    return sum(
        int(shard.document_lengths.sum()) + 2 * len(shard.document_lengths)
        for shards in corpus.shards.values()
        for shard in shards
    )


def test_seeds_stages_and_streams_have_orders_of_their_own():
    corpus = memory_corpus(random_texts(np.random.default_rng(0), ("en",), 200))
    mono = Stream(languages=("en",))
    orders = set()
    for seed, stage in ((0, 0), (1, 0), (0, 1)):
        plan = plan_rows(
            corpus, [mono, mono], Packing(row_length=8), tokens=800, seed=seed, stage=stage
        )
        rows = plan.fill(0, plan.num_rows).tokens
        orders |= {rows[0::2].tobytes(), rows[1::2].tobytes()}
    assert len(orders) == 6
