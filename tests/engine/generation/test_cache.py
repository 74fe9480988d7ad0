"""The cache against the model without one: the same logits at every position of every row."""

import dataclasses

import pytest
import torch

from tests.support.families import CONFIGS, LLAMA, VOCAB_USED, build
from tresse.engine.generation.cache import WINDOW, CachedModel
from tresse.engine.generation.packed import PackedLinear, pack_weights
from tresse.engine.model import Transformer

LENGTHS = [1, 7, 71]  # one token, a prime; more than the 64 positions from which RoPE is scaled
SOURCES = [2, 0, 1, 1]  # rows in another order than their prompts, one prompt in two rows
STEPS = 61  # with the longest prompt more than the 128 slots of the first window


def padded_prompts() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(VOCAB_USED, (len(LENGTHS), max(LENGTHS)), generator=generator(0))
    return tokens, torch.tensor(LENGTHS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def cached_logits(model: Transformer, new: torch.Tensor) -> list[torch.Tensor]:
    """Logits of each row from the end of its prompt on, by the cache."""
    tokens, lengths = padded_prompts()
    sources = torch.tensor(SOURCES)
    cached = CachedModel(model, sources, max(LENGTHS) + STEPS)
    hidden = cached.read_prompts(tokens, lengths)
    found = [model.logits(hidden[sources, lengths[sources] - 1])]
    with cached.generating() as step:
        found += [step(new[:, i]) for i in range(STEPS)]
    return list(torch.stack(found, dim=1))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_row_has_the_logits_of_the_whole_sequence_alone(name: str) -> None:
    model = build(CONFIGS[name]).eval()
    new = torch.randint(VOCAB_USED, (len(SOURCES), STEPS), generator=generator(1))
    assert max(LENGTHS) < WINDOW < max(LENGTHS) + STEPS
    tokens, _ = padded_prompts()
    for row, found in enumerate(cached_logits(model, new)):
        prompt = tokens[SOURCES[row], : LENGTHS[SOURCES[row]]]
        whole = torch.cat((prompt, new[row]))[None]
        expected = model(whole)[0, len(prompt) - 1 :]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_the_model_has_its_own_attention_again_afterwards() -> None:
    model = build(LLAMA).eval()
    tokens, _ = padded_prompts()
    before, attention = model(tokens), [layer.attend for layer in model.layers]
    cached_logits(model, torch.zeros(len(SOURCES), STEPS, dtype=torch.int64))
    assert [layer.attend for layer in model.layers] == attention
    assert torch.equal(model(tokens), before)


@pytest.mark.parametrize(
    ("qkv_bias", "num_rows", "packed"),
    [
        (False, 4, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
        (True, 4, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
        (True, 1, ["qkv_proj", "gate_up_proj"]),
    ],
)
def test_packed_weights_give_the_same_logits(
    qkv_bias: bool, num_rows: int, packed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(dataclasses.replace(LLAMA, qkv_bias=qkv_bias)).eval()
    tokens, _ = padded_prompts()
    expected = model(tokens)
    monkeypatch.setattr("tresse.engine.generation.packed.SMALLEST", 48 * 80)  # all but norms
    pack_weights(model, num_rows)
    children = model.layers[0].named_children()
    assert [name for name, module in children if isinstance(module, PackedLinear)] == packed
    torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-5)


def test_weights_in_bf16_and_small_ones_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = build(LLAMA)
    pack_weights(small, num_rows=4)
    monkeypatch.setattr("tresse.engine.generation.packed.SMALLEST", 1)
    other = build(LLAMA).bfloat16()
    pack_weights(other, num_rows=4)
    for model in (small, other):
        assert not any(isinstance(module, PackedLinear) for module in model.modules())
