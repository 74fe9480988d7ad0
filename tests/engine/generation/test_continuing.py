"""Continuations: greedy is the model's argmax, batches change nothing, ends are right."""

import numpy as np
import pytest
import torch

from tests.support.corpora.vocabularies import vocabulary_of
from tests.support.families import CONFIGS, EOS, LLAMA, UNITS, write_untrained
from tresse.data.packing.settings import Packing
from tresse.data.packing.vocabulary import Vocabulary
from tresse.engine.generation.continuing import Continued, Continuer
from tresse.engine.generation.layout import PromptTokens, tokens_of
from tresse.engine.generation.sampling import Sampling
from tresse.engine.model import Transformer

GREEDY = Sampling(temperature=0)
SPECIALS = vocabulary_of(UNITS, has_specials=True)
LENGTHS = [(1,), (3, 4), (19, 2, 2), (31,)]  # of the sentences of each prompt


def transformer(vocabulary: Vocabulary = SPECIALS, name: str = "llama") -> Transformer:
    model = Transformer(CONFIGS[name], vocabulary.width, vocabulary.num_used)
    model.init_weights(seed=1)
    return model.eval()


def prompts(before: int | None = SPECIALS.eos) -> list[PromptTokens]:
    rng, first = np.random.default_rng(0), [] if before is None else [before]
    return [
        tokens_of([rng.integers(0, UNITS.vocab_size, n) for n in lengths], first)
        for lengths in LENGTHS
    ]


def run(
    model: Transformer,
    laid: list[PromptTokens],
    sampling: Sampling = GREEDY,
    packing: Packing = EOS,
    num_tokens: int = 40,
    continuations: int = 1,
) -> Continued:
    vocabulary = vocabulary_of(UNITS, packing.uses_specials)
    rows = [(place, number) for place in range(len(laid)) for number in range(continuations)]
    return Continuer(model, vocabulary, packing, sampling, num_tokens).run(laid, rows)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_greedy_token_is_the_likeliest_after_the_whole_sequence(name: str) -> None:
    model, laid = transformer(name=name), prompts()
    for prompt, found in zip(laid, run(model, laid).continuations, strict=True):
        tokens = [*found.tokens, *([SPECIALS.eos] if found.ended == "eos" else [])]
        whole = torch.tensor([[*prompt.tokens.tolist(), *tokens]])
        logits = model(whole)[0, len(prompt.tokens) - 1 : -1]
        logits[:, SPECIALS.bos] = -torch.inf
        assert logits.argmax(-1).tolist() == tokens


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=3), Sampling(top_k=0, top_p=0.8)])
def test_a_continuation_is_the_same_in_a_batch_and_alone(sampling: Sampling) -> None:
    model, laid = transformer(), prompts()
    together = run(model, laid, sampling, continuations=3)
    for place, prompt in enumerate(laid):
        alone = run(model, [prompt], sampling, continuations=3)
        same = together.continuations[3 * place : 3 * place + 3]
        for one, found in zip(alone.continuations, same, strict=True):
            assert one.tokens == found.tokens
            assert one.ended == found.ended
            assert one.probabilities == pytest.approx(found.probabilities)
    numbers = {tuple(each.tokens) for each in together.continuations}
    assert len(numbers) == (4 if sampling == GREEDY else 12)


def test_a_longer_continuation_begins_with_the_shorter_one_and_another_seed_differs() -> None:
    model, laid = transformer(), prompts()[2:3]
    long, short = (
        run(model, laid, Sampling(seed=5), num_tokens=n).continuations[0].tokens for n in (40, 7)
    )
    assert long[:7] == short
    assert run(model, laid, Sampling(seed=6)).continuations[0].tokens != long


def test_tokens_that_training_never_inserts_are_never_drawn() -> None:
    flat = Sampling(temperature=50.0, top_k=0)
    vocabulary = vocabulary_of(UNITS, has_specials=True)
    for packing, allowed in (
        (Packing(separators="eos"), set()),
        (Packing(language_switch=True), {vocabulary.switch}),
    ):
        model = transformer(vocabulary)
        found = run(model, prompts(), flat, packing, num_tokens=100, continuations=4)
        drawn = {token for each in found.continuations for token in each.tokens}
        assert drawn == set(range(UNITS.vocab_size)) | allowed


def test_a_continuation_ends_at_eos_at_its_length_or_at_the_end_of_a_row() -> None:
    model, packing = transformer(), Packing(row_length=32, separators="eos")
    laid = prompts()
    with torch.no_grad():
        model.embedding.weight[SPECIALS.eos] = 0.0  # a logit of 0 is never the largest
    cut = run(model, laid[:2], packing=packing, num_tokens=5)
    assert [(each.ended, len(each.tokens)) for each in cut.continuations] == [("length", 5)] * 2
    full = run(model, laid, packing=packing)
    for prompt, each in zip(laid, full.continuations, strict=True):
        assert each.ended == "row"
        assert len(prompt.tokens) + len(each.tokens) == 33  # 32 inputs and the last label
    often = Sampling(temperature=5.0, top_k=0)
    drawn = run(model, laid, often, packing, num_tokens=20, continuations=9).continuations
    assert {each.ended for each in drawn} == {"eos", "length", "row"}
    assert all(SPECIALS.eos not in each.tokens for each in drawn)


def test_probabilities_are_those_of_the_model_after_sentences_and_within() -> None:
    model, laid = transformer(), prompts()
    found = run(model, laid, Sampling(seed=1))
    for prompt, own, after in zip(laid, found.continuations, found.after_sentences, strict=True):
        whole = torch.tensor([[*prompt.tokens.tolist(), *own.tokens]])
        probabilities = model(whole)[0].double().softmax(-1)
        for name, token in (("eos", SPECIALS.eos), ("switch", SPECIALS.switch)):
            assert after[name] == pytest.approx(probabilities[prompt.ends, token].tolist())
            drawn = probabilities[len(prompt.tokens) - 1 :, token]
            drawn = drawn if own.ended == "eos" else drawn[:-1]
            assert own.probabilities[name] == pytest.approx(drawn.mean().item())


def test_without_special_tokens_there_are_no_probabilities_and_no_token_before_a_prompt() -> None:
    vocabulary = vocabulary_of(UNITS)
    laid = prompts(before=None)
    assert [len(each.tokens) for each in laid] == [sum(lengths) for lengths in LENGTHS]
    found = run(transformer(vocabulary), laid, packing=Packing())
    assert found.after_sentences == [{}] * 4
    assert {each.ended for each in found.continuations} == {"length"}
    assert all(each.probabilities == {} for each in found.continuations)


def test_logits_that_are_not_finite_are_an_error() -> None:
    model = transformer()
    with torch.no_grad():
        model.norm.weight[0] = torch.inf
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        run(model, prompts())


def test_a_stop_is_asked_for_every_16_tokens() -> None:
    def proceed(tokens: torch.Tensor) -> None:
        calls.append(tokens.shape[1])
        if len(calls) == 2:
            raise KeyboardInterrupt

    calls: list[int] = []
    continuer = Continuer(transformer(), SPECIALS, EOS, GREEDY, 100, proceed)
    with pytest.raises(KeyboardInterrupt):
        continuer.run(prompts()[:1], [(0, 0)])
    assert calls == [16, 32]


def test_in_bf16_probabilities_stay_close_to_those_of_fp32() -> None:
    found = run(transformer().bfloat16(), prompts(), num_tokens=3)
    exact = run(transformer(), prompts(), num_tokens=3)
    for own, expected in zip(found.after_sentences, exact.after_sentences, strict=True):
        for name, values in own.items():
            assert values == pytest.approx(expected[name], rel=0.1)


def test_greedy_equals_transformers_on_the_export(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    packing = Packing(row_length=160)
    model = write_untrained(tmp_path / "out", packing, model=LLAMA)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    laid = prompts(before=None)
    found = run(model, laid, packing=packing, num_tokens=90)
    for prompt, own in zip(laid, found.continuations, strict=True):
        whole = loaded.generate(
            torch.from_numpy(prompt.tokens)[None],
            attention_mask=torch.ones(1, len(prompt.tokens)),
            do_sample=False,
            max_new_tokens=90,
        )
        assert whole[0, len(prompt.tokens) :].tolist() == own.tokens
