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
from safetensors.torch import load_file

from tests.support.families import CONFIGS, LLAMA, VOCAB_USED, VOCAB_WIDTH, build
from tresse.engine.hugging_face import VOCABULARY, export, join_parameter, to_hf
from tresse.engine.model import Transformer, parameter_shapes
from tresse.engine.run.config import ModelConfig

transformers = pytest.importorskip("transformers")


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
