"""Names and shapes of transformers: round trips, exports it loads, checkpoints of its own."""

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tresse.engine.hugging_face import VOCABULARY, export, join_parameter, load_pretrained, to_hf
from tresse.engine.model import Transformer, parameter_shapes
from tresse.engine.run.config import ModelConfig, RopeScaling

transformers = pytest.importorskip("transformers")

VOCAB_USED, VOCAB_WIDTH = 37, 128  # a prime below the padded width
LLAMA = ModelConfig(
    hidden_size=48,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,  # not D / H, so that it has to be in config.json
    intermediate_size=80,
    rope_theta=500.0,
    rope_scaling=RopeScaling(factor=8.0, original_context=64),
    norm_eps=1e-5,
    init_std=0.1,
)
QWEN2 = dataclasses.replace(
    LLAMA, head_dim=8, rope_scaling=None, qkv_bias=True, norm_eps=1e-6, rope_theta=1e6
)
CONFIGS = {
    "llama": LLAMA,
    "llama, untied": dataclasses.replace(LLAMA, tie_embeddings=False),
    "qwen2": QWEN2,
    "qwen2, untied": dataclasses.replace(QWEN2, tie_embeddings=False),
}


def build(config: ModelConfig) -> Transformer:
    model = Transformer(config, VOCAB_WIDTH, VOCAB_USED)
    model.init_weights(seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):  # ones and zeros would hide a mix-up
                parameter += 0.3 * torch.randn(parameter.shape)
    return model


def state(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def joined(
    parts: dict[str, torch.Tensor], names: Iterable[str], config: ModelConfig
) -> dict[str, torch.Tensor]:
    """Parameters from their parts, as a checkpoint reads them."""
    return {name: join_parameter(name, parts.__getitem__, config, VOCAB_WIDTH) for name in names}


def random_tokens() -> torch.Tensor:
    return torch.randint(VOCAB_USED, (3, 29), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_exact(name: str, dtype: torch.dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in state(build(CONFIGS[name])).items()}
    back = joined(to_hf(tensors, CONFIGS[name], VOCAB_USED), tensors, CONFIGS[name])
    for key, tensor in tensors.items():
        assert back[key].dtype == dtype
        assert torch.equal(back[key], tensor), key


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_round_trip_is_bit_exact_for_any_subset_and_shape(
    data: st.DataObject, num_kv_heads: int, group: int, half_head: int, qkv_bias: bool
):
    config = dataclasses.replace(
        LLAMA,
        num_kv_heads=num_kv_heads,
        num_heads=num_kv_heads * group,
        head_dim=2 * half_head,
        qkv_bias=qkv_bias,
    )
    vocab_used = data.draw(st.integers(1, VOCAB_WIDTH))
    shapes = parameter_shapes(config, VOCAB_WIDTH)
    names = data.draw(st.lists(st.sampled_from(sorted(shapes)), unique=True))
    tensors = {name: torch.randn(shapes[name]) for name in names}
    if "embedding.weight" in tensors:
        tensors["embedding.weight"][vocab_used:] = 0
    parts = to_hf(tensors, config, vocab_used)
    back = joined(parts, names, config)
    assert sum(part.numel() for part in parts.values()) == sum(
        tensor[:vocab_used].numel() if name in VOCABULARY else tensor.numel()
        for name, tensor in tensors.items()
    )
    assert all(torch.equal(back[name], tensors[name]) for name in names)


@pytest.mark.parametrize("name", CONFIGS)
def test_export_gives_the_same_logits_in_transformers(name: str, tmp_path: Path):
    config, model, out = CONFIGS[name], build(CONFIGS[name]), tmp_path / "export"
    export(
        state(model),
        config,
        out,
        torch.float32,
        vocab_used=VOCAB_USED,
        max_positions=512,
        eos=35,
        bos=36,
    )
    hf, report = transformers.AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(hf).__name__ == f"{'Qwen2' if config.qkv_bias else 'Llama'}ForCausalLM"
    assert (hf.config.vocab_size, hf.config.eos_token_id, hf.config.bos_token_id) == (37, 35, 36)
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) != config.tie_embeddings
    tokens = random_tokens()
    torch.testing.assert_close(hf(tokens).logits, model(tokens), rtol=1e-5, atol=1e-5)


def test_export_has_the_rotary_fields_of_transformers_4_and_5(tmp_path: Path):
    model, out = build(LLAMA), tmp_path / "export"
    export(state(model), LLAMA, out, torch.bfloat16, vocab_used=VOCAB_USED, max_positions=512)
    written = json.loads((out / "config.json").read_text())
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    assert written["rope_theta"] == 500.0
    assert written["rope_scaling"] == scaling
    assert written["rope_parameters"] == scaling | {"rope_theta": 500.0}
    assert written["eos_token_id"] is written["bos_token_id"] is None
    assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {torch.bfloat16}


def test_export_never_leaves_a_half_written_folder(tmp_path: Path, monkeypatch):
    arguments = (state(build(LLAMA)), LLAMA, tmp_path / "export", torch.float32)

    def fail(*_args, **_kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("json.dumps", fail)
        with pytest.raises(OSError, match="no space left"):
            export(*arguments, vocab_used=VOCAB_USED, max_positions=512)
    assert list(tmp_path.iterdir()) == []
    export(*arguments, vocab_used=VOCAB_USED, max_positions=512)
    with pytest.raises(ValueError, match="export"):
        export(*arguments, vocab_used=VOCAB_USED, max_positions=512)


def pretrained(config: ModelConfig, folder: Path, shard_size: str = "5GB"):
    """A checkpoint of transformers with a text vocabulary, and its model."""
    family = "Qwen2" if config.qkv_bias else "Llama"
    scaling = config.rope_scaling and {
        "rope_type": "llama3",
        "factor": config.rope_scaling.factor,
        "low_freq_factor": config.rope_scaling.low_freq_factor,
        "high_freq_factor": config.rope_scaling.high_freq_factor,
        "original_max_position_embeddings": config.rope_scaling.original_context,
    }
    hf_config = getattr(transformers, f"{family}Config")(
        vocab_size=301,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps,
        initializer_range=0.1,
        rope_parameters={"rope_theta": config.rope_theta} | (scaling or {"rope_type": "default"}),
    )
    torch.manual_seed(3)
    hf = getattr(transformers, f"{family}ForCausalLM")(hf_config)
    hf.save_pretrained(folder, max_shard_size=shard_size)
    return hf


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shard_size", ["5GB", "50KB"])
def test_pretrained_weights_give_the_hidden_states_of_transformers(
    name: str, shard_size: str, tmp_path: Path
):
    config = CONFIGS[name]
    hf = pretrained(config, tmp_path, shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "50KB")
    model = build(config)
    loaded = load_pretrained(tmp_path, config)
    missing, unexpected = model.load_state_dict(loaded, strict=False)
    assert not unexpected
    assert set(missing) == {"embedding.weight", "head.weight"} & parameter_shapes(config, 1).keys()

    tokens = random_tokens()
    embedded = model.embedding(tokens)
    theirs = hf.model(inputs_embeds=embedded, output_hidden_states=True).hidden_states
    for a, b in zip(model.hidden_states(tokens), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_pretrained_reads_the_rotary_fields_of_transformers_4(tmp_path: Path):
    pretrained(LLAMA, tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    rope = fields.pop("rope_parameters")
    fields |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    path.write_text(json.dumps(fields))
    load_pretrained(tmp_path, LLAMA)
    rope["factor"] = 9.0
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"config.json: .*factor: found 9\.0, expected 8\.0"):
        load_pretrained(tmp_path, LLAMA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_layers": 3, "rope_theta": 1e4},
            "num_hidden_layers: found 2, expected 3; .*rope_theta",
        ),
        ({"num_kv_heads": 3}, "num_key_value_heads: found 2, expected 3"),
        ({"head_dim": 8}, "head_dim: found 16, expected 8"),
        ({"qkv_bias": True}, "model_type: found 'llama', expected 'qwen2'"),
        ({"rope_scaling": None}, "rope_type: found 'llama3', expected 'default'"),
        ({"norm_eps": 1e-6}, "rms_norm_eps: found 1e-05, expected 1e-06"),
    ],
)
def test_pretrained_of_another_shape_names_the_fields(changes, message: str, tmp_path: Path):
    pretrained(LLAMA, tmp_path)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path, dataclasses.replace(LLAMA, **changes))


def test_broken_pretrained_folders_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"config\.json: cannot be read"):
        load_pretrained(tmp_path, LLAMA)
    pretrained(LLAMA, tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    norm = tensors.pop("model.layers.1.input_layernorm.weight")
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"model\.layers\.1\.input_layernorm\.weight is missing"):
        load_pretrained(tmp_path, LLAMA)
    save_file(tensors | {"model.layers.1.input_layernorm.weight": norm[1:]}, weights)
    with pytest.raises(ValueError, match=r"found shape \(47,\), expected \(48,\)"):
        load_pretrained(tmp_path, LLAMA)
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model\.safetensors: .*cut short"):
        load_pretrained(tmp_path, LLAMA)
    weights.unlink()
    with pytest.raises(ValueError, match=r"holds neither model\.safetensors nor"):
        load_pretrained(tmp_path, LLAMA)


def test_a_part_of_another_shape_is_named():
    parts = to_hf(state(build(LLAMA)), LLAMA, VOCAB_USED)
    with pytest.raises(
        ValueError, match=r"embed_tokens\.weight: found shape \(37, 48\), .*\(32, 48\)"
    ):
        join_parameter("embedding.weight", parts.__getitem__, LLAMA, 32)
    name = "model.layers.0.self_attn.k_proj.weight"
    with pytest.raises(
        ValueError, match=rf"{re.escape(name)}: found shape \(31, 48\), .*\(32, 48\)"
    ):
        joined(parts | {name: parts[name][1:]}, ["layers.0.qkv_proj.weight"], LLAMA)
