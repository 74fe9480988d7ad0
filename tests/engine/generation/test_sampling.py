"""Sampling against its definition in plain Python, and random numbers of a row alone."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tresse.engine.generation.sampling import Sampling, candidates, choose, draw_uniforms


def plain_distribution(logits: list[float], sampling: Sampling) -> list[float]:
    """Probability of each id: softmax, then top-k, then top-p, each renormalised."""
    weights = [math.exp((x - max(logits)) / sampling.temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: -weights[i])
    kept = order[: sampling.top_k or len(order)]
    total, reached, nucleus = sum(weights[i] for i in kept), 0.0, []
    for i in kept:
        if reached >= sampling.top_p:
            break
        nucleus.append(i)
        reached += weights[i] / total
    total = sum(weights[i] for i in nucleus)
    return [weights[i] / total if i in nucleus else 0.0 for i in range(len(logits))]


def distribution(logits: list[float], sampling: Sampling) -> list[float]:
    ids, probabilities = candidates(torch.tensor([logits], dtype=torch.float32), sampling)
    found = torch.zeros(1, len(logits), dtype=torch.float64).scatter_(1, ids, probabilities)
    return (found / found.sum())[0].tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.3, 1.0, 2.5]),
    st.sampled_from([0, 1, 3, 11, 40]),
    st.sampled_from([0.1, 0.5, 0.93, 1.0]),
)
def test_the_distribution_is_that_of_the_definition(
    seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    logits = np.random.default_rng(seed).normal(size=11).astype(np.float32).tolist()
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    assert distribution(logits, sampling) == pytest.approx(plain_distribution(logits, sampling))


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    logits = [0.5, 2.0, -1.0, 1.5, 1.0]
    sampling = Sampling(temperature=0.7, top_k=4, top_p=0.9)
    uniforms = torch.from_numpy(draw_uniforms(3, np.array([1, 2]), 0, 20_000))
    drawn = choose(torch.tensor([logits]).expand(20_000, -1), sampling, uniforms)
    counts = Counter(drawn.tolist())
    for i, probability in enumerate(plain_distribution(logits, sampling)):
        assert counts[i] / 20_000 == pytest.approx(probability, abs=4 * 0.5 / math.sqrt(20_000))


def test_each_draw_is_the_first_id_whose_border_lies_beyond_the_number() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    uniforms = [0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.6999, 0.7001, 1 - 2**-32]
    sampling = Sampling(temperature=1.0, top_k=0)
    found = choose(logits.expand(8, -1), sampling, torch.tensor(uniforms, dtype=torch.float64))
    assert found.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_ids_that_cannot_be_are_never_drawn_and_greedy_takes_the_likeliest() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 3.0, 2.0, -torch.inf]])
    for uniform in (0.0, 0.5, 1 - 2**-32):
        drawn = choose(logits, Sampling(top_k=0), torch.tensor([uniform], dtype=torch.float64))
        assert drawn.item() in (1, 2, 3)
    assert choose(logits, Sampling(temperature=0), torch.tensor([0.99])).item() == 2


def test_random_numbers_depend_on_seed_prompt_and_number_alone_and_go_on() -> None:
    prompt = np.array([5, 9, 5])
    first = draw_uniforms(0, prompt, 0, 50)
    assert np.array_equal(first[:20], draw_uniforms(0, prompt.astype(np.int32), 0, 20))
    others = [
        draw_uniforms(1, prompt, 0, 50),
        draw_uniforms(0, prompt, 1, 50),
        draw_uniforms(0, prompt[:2], 0, 50),
    ]
    assert len({each.tobytes() for each in (first, *others)}) == 4
    assert first.dtype == np.float64
    assert first.min() >= 0
    assert first.max() < 1
    assert first[:3].tolist() == [0.7876177786383778, 0.7512008163612336, 0.1526890592649579]


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": math.nan}, {"top_k": -1}, {"top_p": 0.0}]
)
def test_settings_that_cannot_be_are_named(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is"):
        Sampling(**wrong)  # type: ignore[arg-type]
