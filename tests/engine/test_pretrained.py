"""Checkpoints of transformers to start from: shape, layers, and the vocabulary of units."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.corpora.vocabularies import vocabulary_of
from tests.support.families import CONFIGS, LLAMA, VOCAB_USED, build, hugging_face_model
from tresse.engine.model import parameter_shapes
from tresse.engine.pretrained import load_pretrained, read_shape, rows_like
from tresse.engine.run.command_line import parse_config
from tresse.engine.run.config import ModelConfig
from tresse.engine.stage import fill_new

pytest.importorskip("transformers")

TEXT_IDS = 301


def checkpoint(config: ModelConfig, folder: Path, shard_size: str = "5GB") -> Any:
    """A checkpoint of transformers with a text vocabulary, and its model."""
    torch.manual_seed(3)
    hf = hugging_face_model(config, TEXT_IDS, initializer_range=0.1)
    hf.save_pretrained(folder, max_shard_size=shard_size)
    return hf


def starting_from(folder: Path, config: ModelConfig = LLAMA, **changes: Any) -> ModelConfig:
    """The configuration, with its checkpoint."""
    return dataclasses.replace(config, pretrained=str(folder), **changes)


def change_fields(folder: Path, **changes: Any) -> None:
    """Change fields of the checkpoint's config.json; None removes one."""
    path = folder / "config.json"
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shard_size", ["5GB", "50KB"])
def test_the_layers_give_the_hidden_states_of_transformers(
    name: str, shard_size: str, tmp_path: Path
):
    config = CONFIGS[name]
    hf = checkpoint(config, tmp_path, shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "50KB")
    model = build(config)
    loaded = load_pretrained(starting_from(tmp_path, config), vocabulary_of(VOCAB_USED), 0)
    missing, unexpected = model.load_state_dict(loaded, strict=False)
    assert not unexpected
    assert set(missing) == {"embedding.weight", "head.weight"} & parameter_shapes(config, 1).keys()

    tokens = torch.randint(VOCAB_USED, (3, 29), generator=torch.Generator().manual_seed(0))
    embedded = model.embedding(tokens)
    theirs = hf.model(inputs_embeds=embedded, output_hidden_states=True).hidden_states
    for a, b in zip(model.hidden_states(tokens), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_shape_is_read_from_the_folder(name: str, tmp_path: Path):
    config = CONFIGS[name]
    checkpoint(config, tmp_path)
    assert read_shape(tmp_path) == dataclasses.replace(config, init_std=0.02)
    parsed = parse_config(["interleave", "--model.pretrained", str(tmp_path)]).model
    expected = starting_from(tmp_path.resolve(), config, init_std=0.02)
    assert parsed == expected


def test_the_rotary_fields_of_transformers_4_are_read(tmp_path: Path):
    checkpoint(LLAMA, tmp_path)
    rope = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    theta = rope.pop("rope_theta")
    change_fields(tmp_path, rope_parameters=None, rope_theta=theta, rope_scaling=rope)
    load_pretrained(starting_from(tmp_path), vocabulary_of(VOCAB_USED), 0)
    change_fields(tmp_path, rope_scaling=rope | {"factor": 9.0})
    with pytest.raises(ValueError, match=r"rope_scaling RopeScaling\(factor=9\.0"):
        load_pretrained(starting_from(tmp_path), vocabulary_of(VOCAB_USED), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3, "rope_theta": 1e4}, "num_layers 2, not 3; rope_theta"),
        ({"num_kv_heads": 3}, "num_kv_heads 2, not 3"),
        ({"head_dim": 8}, "head_dim 16, not 8"),
        ({"qkv_bias": True}, "qkv_bias False, not True"),
        ({"rope_scaling": None}, r"rope_scaling RopeScaling\(.*\), not None"),
        ({"norm_eps": 1e-6}, "norm_eps 1e-05, not 1e-06"),
    ],
)
def test_a_recipe_of_another_shape_names_the_fields(changes, message: str, tmp_path: Path):
    checkpoint(LLAMA, tmp_path)
    with pytest.raises(ValueError, match=message):
        load_pretrained(starting_from(tmp_path, **changes), vocabulary_of(VOCAB_USED), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'; expected one of llama, qwen2"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'; only 'silu' is supported"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"use_sliding_window": True}, "use_sliding_window True"),
        ({"num_hidden_layers": None}, "has no num_hidden_layers"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
    ],
)
def test_what_this_model_cannot_be_is_said(changes, message: str, tmp_path: Path):
    checkpoint(LLAMA, tmp_path)
    change_fields(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        read_shape(tmp_path)


def test_a_recipe_without_a_shape_needs_a_checkpoint():
    with pytest.raises(SystemExit, match=r"name one, --model\.pretrained"):
        parse_config(["interleave"])


def test_broken_folders_are_named(tmp_path: Path):
    config = starting_from(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json: cannot be read"):
        load_pretrained(config, vocabulary_of(VOCAB_USED), 0)
    checkpoint(LLAMA, tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    norm = tensors.pop("model.layers.1.input_layernorm.weight")
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"model\.layers\.1\.input_layernorm\.weight is missing"):
        load_pretrained(config, vocabulary_of(VOCAB_USED), 0)
    save_file(tensors | {"model.layers.1.input_layernorm.weight": norm[1:]}, weights)
    with pytest.raises(ValueError, match=r"found shape \(47,\), expected \(48,\)"):
        load_pretrained(config, vocabulary_of(VOCAB_USED), 0)
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model\.safetensors: .*cut short"):
        load_pretrained(config, vocabulary_of(VOCAB_USED), 0)
    weights.unlink()
    with pytest.raises(ValueError, match=r"holds neither model\.safetensors nor"):
        load_pretrained(config, vocabulary_of(VOCAB_USED), 0)


@pytest.mark.parametrize("name", ["llama", "qwen2, untied"])
def test_the_first_rows_of_the_old_tables_are_kept(name: str, tmp_path: Path):
    config = CONFIGS[name]
    hf = checkpoint(config, tmp_path)
    sliced = starting_from(tmp_path, config, new_embedding="slice")
    loaded = load_pretrained(sliced, vocabulary_of(VOCAB_USED), 0)
    assert torch.equal(loaded["embedding.weight"], hf.model.embed_tokens.weight[:VOCAB_USED])
    if not config.tie_embeddings:
        assert torch.equal(loaded["head.weight"], hf.lm_head.weight[:VOCAB_USED])
    with pytest.raises(ValueError, match="its vocabulary has 301 rows, 302 are needed"):
        load_pretrained(sliced, vocabulary_of(TEXT_IDS + 1), 0)


def test_rows_are_drawn_with_the_mean_and_the_covariance_of_the_old_ones():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=generator)
    table = torch.randn(4000, 5, generator=generator) @ mixing + torch.arange(5.0)
    drawn = rows_like(table, 200_000, "key")
    spread = table.std()
    assert (drawn.mean(0) - table.mean(0)).abs().max() < 0.02 * spread
    assert (drawn.T.cov() - table.T.cov()).abs().max() < 0.05 * spread**2
    assert torch.equal(drawn[:7], rows_like(table, 200_000, "key")[:7])
    assert not torch.equal(drawn[:7], rows_like(table, 7, "another"))


def test_drawn_rows_come_from_both_tables_by_the_seed(tmp_path: Path):
    config = CONFIGS["llama, untied"]
    checkpoint(config, tmp_path)
    drawn = starting_from(tmp_path, config, new_embedding="mean-cov")
    first, again, other = (
        load_pretrained(drawn, vocabulary_of(VOCAB_USED), seed) for seed in (0, 0, 1)
    )
    for name in ("embedding.weight", "head.weight"):
        assert first[name].shape == (VOCAB_USED, config.hidden_size)
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    assert not torch.equal(first["embedding.weight"], first["head.weight"])


def test_a_new_run_starts_from_the_checkpoint_and_padded_rows_stay_zero(tmp_path: Path):
    hf = checkpoint(LLAMA, tmp_path)
    flags = ["--model.pretrained", str(tmp_path), "--model.new-embedding", "slice"]
    config = parse_config(["interleave", *flags])
    model = build(config.model)
    fill_new(model, config, vocabulary_of(VOCAB_USED))
    embedding = model.embedding.weight
    assert torch.equal(embedding[:VOCAB_USED], hf.model.embed_tokens.weight[:VOCAB_USED])
    assert not embedding[VOCAB_USED:].any()
    old = hf.model.layers[1].mlp.down_proj.weight
    assert torch.equal(model.get_parameter("layers.1.down_proj.weight"), old)
