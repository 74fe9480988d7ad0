"""The decoder against transformers at random weights; padded columns, masks, initialisation."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from tests.support.families import hugging_face_model
from tresse.engine.model import Transformer
from tresse.engine.run.config import ModelConfig, RopeScaling

pytest.importorskip("transformers")

VOCAB_USED, VOCAB_WIDTH = 37, 128  # a prime below the padded width
TOKENS = (3, 29)  # neither a power of two nor a multiple of a tile

# Frequencies whose wavelengths fall on both sides of and between the two thresholds.
SCALING = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)
LLAMA = ModelConfig(
    hidden_size=48,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=80,
    rope_theta=500.0,
    rope_scaling=SCALING,
    norm_eps=1e-5,
    init_std=0.1,
)
CONFIGS = {
    "llama": LLAMA,
    "llama, untied": dataclasses.replace(LLAMA, tie_embeddings=False),
    "llama, unscaled rope, wide heads": dataclasses.replace(
        LLAMA, rope_scaling=None, head_dim=16, num_kv_heads=6
    ),
    "qwen2": dataclasses.replace(LLAMA, rope_scaling=None, qkv_bias=True, norm_eps=1e-6),
}


def build(config: ModelConfig) -> Transformer:
    """Random weights, and norms and biases away from the values that would hide their absence."""
    model = Transformer(config, VOCAB_WIDTH, VOCAB_USED)
    model.init_weights(seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def reference(model: Transformer) -> nn.Module:
    """The model of transformers with the same weights."""
    config = model.config
    more = {"max_position_embeddings": 512, "attn_implementation": "eager"}
    hf = hugging_face_model(config, VOCAB_USED, **more)
    hf.load_state_dict(hf_tensors(dict(model.named_parameters()), config))
    return hf


def hf_tensors(tensors: dict[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Parameters, or their gradients, cut and named as transformers has them, spelled out."""
    H, Hkv, K = config.num_heads, config.num_kv_heads, config.head_dim
    embedding = tensors["embedding.weight"][:VOCAB_USED]
    head = embedding if config.tie_embeddings else tensors["head.weight"][:VOCAB_USED]
    out = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": tensors["norm.weight"],
        "lm_head.weight": head,
    }
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"model.layers.{i}"
        out[f"{theirs}.input_layernorm.weight"] = tensors[f"{ours}.attention_norm.weight"]
        out[f"{theirs}.post_attention_layernorm.weight"] = tensors[f"{ours}.mlp_norm.weight"]
        out[f"{theirs}.self_attn.o_proj.weight"] = tensors[f"{ours}.o_proj.weight"]
        out[f"{theirs}.mlp.down_proj.weight"] = tensors[f"{ours}.down_proj.weight"]
        gate, up = tensors[f"{ours}.gate_up_proj.weight"].chunk(2)
        out[f"{theirs}.mlp.gate_proj.weight"], out[f"{theirs}.mlp.up_proj.weight"] = gate, up
        for kind in ["weight", "bias"] if config.qkv_bias else ["weight"]:
            parts = tensors[f"{ours}.qkv_proj.{kind}"].split([H * K, Hkv * K, Hkv * K])
            for name, part in zip("qkv", parts, strict=True):
                out[f"{theirs}.self_attn.{name}_proj.{kind}"] = part
    return out


def random_tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB_USED, TOKENS, generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: grad for name, grad in grads.items() if grad is not None}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients_are_those_of_transformers(name: str):
    model = build(CONFIGS[name])
    hf = reference(model)
    tokens, labels = random_tokens(), random_tokens(1)
    labels[1, 5:9] = -100

    logits, expected = model(tokens), hf(tokens).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)

    model(tokens, labels)[0].backward()
    nn.functional.cross_entropy(
        expected.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
    ).backward()
    ours = hf_tensors(gradients(model), model.config)
    for key, grad in gradients(hf).items():
        error = (ours[key] - grad).norm() / grad.norm()
        assert error < 1e-5, f"{key}: {error=:.1e}"


def test_hidden_states_are_those_of_transformers():
    model = build(LLAMA)
    tokens = random_tokens()
    expected = reference(model)(tokens, output_hidden_states=True).hidden_states
    states = model.hidden_states(tokens)
    assert len(states) == len(expected) == LLAMA.num_layers + 1
    for ours, theirs in zip(states, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_document_mask_gives_each_document_the_logits_it_has_alone():
    model = build(LLAMA)
    tokens = random_tokens()
    T = tokens.shape[1]
    cuts = [0, 1, 13, T, T, 2 * T, 2 * T + 20, 3 * T]  # length 1, an empty one, a row of its own
    logits = model(tokens, cu_seqlens=torch.tensor(cuts, dtype=torch.int32))
    for start, stop in itertools.pairwise(cuts):
        if start < stop:
            alone = model(tokens.flatten()[None, start:stop])[0]
            together = logits.flatten(0, 1)[start:stop]
            torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "llama, untied"])
def test_padded_vocabulary_has_no_probability_and_no_gradient(name: str):
    model = build(CONFIGS[name])
    tokens, labels = random_tokens(), random_tokens(1)
    logits = model(tokens)
    assert logits.shape == (*TOKENS, VOCAB_USED)
    expected = -logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    loss, losses = model(tokens, labels)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(loss, expected.sum())
    loss.backward()
    grads = gradients(model)
    for key in {"embedding.weight", "head.weight"} & grads.keys():
        assert not grads[key][VOCAB_USED:].any()
        assert grads[key][:VOCAB_USED].any()


@pytest.mark.parametrize("name", CONFIGS)
def test_bf16_forward_is_as_close_to_fp32_as_that_of_transformers(name: str):
    model = build(CONFIGS[name])
    hf = reference(model)
    tokens = random_tokens()
    exact = hf.double()(tokens).logits
    # The weights themselves are rounded alike on both sides, the activations are what differs.
    ours = (model.bfloat16()(tokens) - exact).norm()
    theirs = (hf.bfloat16()(tokens).logits - exact).norm()
    assert ours <= 2 * theirs, f"{ours=:.3e} {theirs=:.3e}"


def test_weights_depend_on_seed_and_name_alone():
    model, other = build(LLAMA), build(CONFIGS["llama, untied"])
    weights, others = dict(model.named_parameters()), dict(other.named_parameters())
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name
    assert not torch.equal(weights["layers.0.o_proj.weight"], weights["layers.1.o_proj.weight"])
    model.init_weights(seed=2)
    assert not torch.equal(weights["layers.0.o_proj.weight"], others["layers.0.o_proj.weight"])
    assert weights["layers.0.gate_up_proj.weight"].std().item() == pytest.approx(0.1, rel=0.05)
    assert not weights["embedding.weight"][VOCAB_USED:].any()


def test_rope_stays_fp32_and_trainable_after_inference_and_casts():
    model = build(LLAMA).bfloat16()
    tokens = random_tokens()[:, :23]  # a length that no other test has put into the cache
    with torch.inference_mode():
        model(tokens)
    model(tokens, tokens)[0].backward()
    tables = model.rope_tables(23, tokens.device)
    assert [table.dtype for table in tables] == [torch.float32, torch.float32]


@pytest.mark.filterwarnings("error:Dynamo detected")
@pytest.mark.slow
def test_compiles_to_one_graph_with_the_same_losses_and_gradients():
    model = build(LLAMA)
    tokens = random_tokens()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss, losses = compiled(tokens, tokens)
    loss.backward()
    grads = gradients(model)
    model.zero_grad()
    loss, expected = model(tokens, tokens)
    loss.backward()
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(grads, gradients(model))


def test_used_vocabulary_beyond_its_width_is_an_error():
    with pytest.raises(ValueError, match=r"vocab_used=129 is not in 1\.\.vocab_width=128"):
        Transformer(LLAMA, 128, 129)
