"""A Hugging Face checkpoint to start from: its shape, its layers, and a vocabulary of units.

The families are Llama (3.x, SmolLM) and Qwen2 (2.5). A run of speech alone does not use the text
embedding and the head as they are; one with text keeps their rows. `ModelConfig.new_embedding` says
how the rows of units and special tokens come about.
"""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.tensor_file import checksum_file
from tresse.data.store.text_tokenizer import FILE as TEXT_TOKENIZER
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.hugging_face import CONFIG, VOCABULARY, WEIGHTS, join_parameter
from tresse.engine.model import normal, parameter_shapes
from tresse.engine.run.config import ModelConfig, RopeScaling

BLOCK_ROWS = 8192
INDEX = "model.safetensors.index.json"
FAMILIES = ("llama", "qwen2")
OWN = ("init_std", "pretrained", "new_embedding")
"""Fields of a model that no checkpoint has."""
REFUSED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
REFUSED |= {"use_sliding_window": False}
"""Fields of config.json whose other values this model does not have."""


def with_shape(config: ModelConfig) -> ModelConfig:
    """Return the configuration with the shape of its checkpoint, if it has none of its own."""
    if config.has_shape:
        return config
    if not config.pretrained:
        raise ValueError("this recipe has the model of a checkpoint: name one, --model.pretrained")
    shape = read_shape(Path(config.pretrained))
    return replace(shape, **{name: getattr(config, name) for name in OWN})


def read_shape(folder: Path) -> ModelConfig:
    """Read the shape of a checkpoint from its config.json, of transformers 4 or 5.

    ValueError names the file and what this model cannot be.
    """
    path = folder / CONFIG
    found = _read_json(path)
    family = found.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"{path}: model_type {family!r}; expected one of {', '.join(FAMILIES)}")
    for name, value in REFUSED.items():
        if found.get(name, value) != value:
            raise ValueError(f"{path}: {name} {found[name]!r}; only {value!r} is supported")
    try:
        return _shape(found, family)
    except KeyError as error:
        raise ValueError(f"{path}: has no {error.args[0]}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _shape(found: dict[str, Any], family: str) -> ModelConfig:
    heads, width = found["num_attention_heads"], found["hidden_size"]
    rope = _rope(found)
    return ModelConfig(
        hidden_size=width,
        num_layers=found["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=found.get("num_key_value_heads") or heads,
        head_dim=found.get("head_dim") or width // heads,
        intermediate_size=found["intermediate_size"],
        qkv_bias=family == "qwen2",
        tie_embeddings=found.get("tie_word_embeddings", False),
        rope_theta=float(rope["rope_theta"]),
        rope_scaling=_scaling(rope),
        norm_eps=found.get("rms_norm_eps", 1e-6),
    )


def _rope(found: dict[str, Any]) -> dict[str, Any]:
    """Return the rotary fields: `rope_parameters`, or those of transformers 4."""
    rope = {"rope_theta": found.get("rope_theta", 10_000.0)}
    rope |= found.get("rope_parameters") or {}
    rope |= found.get("rope_scaling") or {}
    rope["rope_type"] = rope.pop("type", rope.get("rope_type", "default"))
    return rope


def _scaling(rope: dict[str, Any]) -> RopeScaling | None:
    if rope["rope_type"] == "default":
        return None
    if rope["rope_type"] != "llama3":
        raise ValueError(f"rope_type {rope['rope_type']!r}; expected 'default' or 'llama3'")
    return RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_context=rope["original_max_position_embeddings"],
    )


def check_shape(config: ModelConfig) -> None:
    """Raise ValueError if a recipe's own shape is not that of its checkpoint."""
    folder = Path(config.pretrained)
    shape = read_shape(folder)
    names = [each.name for each in fields(ModelConfig) if each.name not in OWN]
    differing = [
        f"{name} {getattr(shape, name)}, not {getattr(config, name)}"
        for name in names
        if getattr(shape, name) != getattr(config, name) and name != "tie_embeddings"
    ]
    if differing:
        raise ValueError(
            f"{folder}: another model than the recipe's: {'; '.join(differing)}. The recipe "
            "interleave takes the shape of any checkpoint"
        )


def load_pretrained(config: ModelConfig, vocabulary: Vocabulary, seed: int) -> dict[str, Tensor]:
    """Read the layers of the checkpoint, keep its rows of text, and draw the other ids' from them.

    Returns tensors by our names. Without text and with a `new_embedding` of `normal` the vocabulary
    is left out: the model has drawn it. ValueError names the folder and the tensor that is missing
    or of another shape, or the tokenizer that is not that of the corpus.
    """
    folder = Path(config.pretrained)
    check_shape(config)
    if vocabulary.text is not None:
        _check_text(config, vocabulary.text)
    files = _tensor_files(folder)

    def read(part: str) -> Tensor:
        if part not in files:
            raise ValueError(f"tensor {part} is missing")
        try:
            with safe_open(files[part], framework="pt") as file:
                return file.get_tensor(part)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{files[part]}: cannot read {part}: {error}") from error

    try:
        return _layers(config, read) | _vocabulary(config, read, vocabulary, seed)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _layers(config: ModelConfig, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    names = [name for name in parameter_shapes(config, vocab_width=1) if name not in VOCABULARY]
    return {name: join_parameter(name, read, config, vocab_width=1) for name in names}


def _check_text(config: ModelConfig, text: Tokenizer) -> None:
    """Raise ValueError if the rows of a checkpoint cannot be kept for the texts of a corpus."""
    folder = Path(config.pretrained)
    if config.new_embedding == "slice":
        raise ValueError(
            "--model.new-embedding slice: the first rows of the checkpoint are those of its text, "
            "which are kept; choose mean-cov or normal for the units"
        )
    path = folder / TEXT_TOKENIZER
    if path.exists() and (found := checksum_file(path)) != text.hash:
        raise ValueError(
            f"{path}: hash {found}, but the texts of the corpus are tokens of {text}; prepare them "
            "with this tokenizer"
        )
    if (tied := read_shape(folder).tie_embeddings) != config.tie_embeddings:
        raise ValueError(
            f"{folder}: {'a tied' if tied else 'its own'} head, whose rows of text are kept; set "
            f"--model.{'' if tied else 'no-'}tie-embeddings"
        )


def _vocabulary(
    config: ModelConfig, read: Callable[[str], Tensor], vocabulary: Vocabulary, seed: int
) -> dict[str, Tensor]:
    num_ids, text = vocabulary.num_used, vocabulary.text
    if config.new_embedding == "normal" and text is None:
        return {}
    names = [name for name in parameter_shapes(config, vocab_width=1) if name in VOCABULARY]
    rows = {}
    for name in names:
        table = read(VOCABULARY[name])
        if text is not None:
            first = vocabulary.first_id(text)
            kept = first_rows(table, text.vocab_size)
            key = f"{seed}/{name}/rows"
            new = num_ids - text.vocab_size
            drawn = (
                normal((new, table.shape[1]), config.init_std, key)
                if config.new_embedding == "normal"
                else rows_like(kept, new, key)
            )
            rows[name] = torch.cat([drawn[:first], kept.float(), drawn[first:]])
        elif config.new_embedding == "slice":
            rows[name] = first_rows(table, num_ids)
        else:
            rows[name] = rows_like(table, num_ids, f"{seed}/{name}/rows")
    return rows


def first_rows(table: Tensor, num_ids: int) -> Tensor:
    """Return the first rows of a table, (V, D), as SlamKit keeps them; ValueError for too few."""
    if len(table) < num_ids:
        raise ValueError(
            f"its vocabulary has {len(table):,} rows, {num_ids:,} are needed (for units, choose "
            "--model.new-embedding mean-cov)"
        )
    return table[:num_ids]


def rows_like(table: Tensor, num_ids: int, key: str) -> Tensor:
    """Draw rows with the mean and the covariance of those of a table, (V, D) -> (num_ids, D) fp32.

    The draw is a function of the key (Hewitt 2021, "Initializing new word embeddings").
    """
    # In blocks: at 130,000 rows of 4,096 a copy in fp64 would take 4 GiB.
    blocks = table.split(BLOCK_ROWS)
    mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(table)
    covariance = torch.zeros(table.shape[1], table.shape[1], dtype=torch.float64)
    for block in blocks:
        centred = block.double() - mean
        covariance += centred.T @ centred
    values, vectors = torch.linalg.eigh(covariance / len(table))
    drawn = normal((num_ids, table.shape[1]), 1.0, key).double()
    return (mean + (drawn * values.clamp(min=0).sqrt()) @ vectors.T).float()


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Map each tensor to its file, by the index or by the names in the single file."""
    index, single = folder / INDEX, folder / WEIGHTS
    if index.exists():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{index}: has no weight_map")
        return {name: folder / file for name, file in weight_map.items()}
    if not single.exists():
        raise ValueError(f"{folder}: holds neither {WEIGHTS} nor {INDEX}")
    try:
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    except SafetensorError as error:
        raise ValueError(f"{single}: not a safetensors file, or cut short: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content
