"""Our tensors under the names of transformers, and back: checkpoints and exports.

transformers stores q, k and v as separate tensors, also gate and up, and does not pad the
vocabulary. The functions here only cut, join and rename along the first dimension: moments convert
like weights, and nothing is rounded.

    embedding.weight                [V, D]          model.embed_tokens.weight, the used ids
    layers.0.attention_norm.weight  [D]             model.layers.0.input_layernorm.weight
    layers.0.qkv_proj.*             [(H+2Hkv)K, D]  model.layers.0.self_attn.{q,k,v}_proj.*
    layers.0.o_proj.weight          [D, HK]         model.layers.0.self_attn.o_proj.weight
    layers.0.mlp_norm.weight        [D]             model.layers.0.post_attention_layernorm.weight
    layers.0.gate_up_proj.weight    [2F, D]         model.layers.0.mlp.{gate,up}_proj.weight
    layers.0.down_proj.weight       [D, F]          model.layers.0.mlp.down_proj.weight
    norm.weight                     [D]             model.norm.weight
    head.weight                     [V, D]          lm_head.weight, the used ids; none when tied
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file

from tresse.data.durable import give_default_permissions, staged_folder, sync_path, write_text
from tresse.engine.model import parameter_shapes
from tresse.engine.run.config import ModelConfig

WEIGHTS, CONFIG = "model.safetensors", "config.json"
VOCABULARY = {"embedding.weight": "model.embed_tokens.weight", "head.weight": "lm_head.weight"}


def to_hf(
    tensors: Mapping[str, torch.Tensor], config: ModelConfig, vocab_used: int
) -> dict[str, torch.Tensor]:
    """Cut and rename any subset of the parameters, or their moments; return views, in any dtype."""
    out = {}
    for name, tensor in tensors.items():
        sizes = _hf_parts(name, config)
        if name in VOCABULARY:
            sizes = dict.fromkeys(sizes, vocab_used)
        used = tensor[: sum(sizes.values())]
        out |= zip(sizes, used.split(list(sizes.values())), strict=True)
    return out


def _hf_parts(name: str, config: ModelConfig) -> dict[str, int]:
    """Return the names of a parameter's parts and their first dimensions; 0 for a vocabulary."""
    if name in VOCABULARY:
        return {VOCABULARY[name]: 0}
    if name == "norm.weight":
        return {"model.norm.weight": config.hidden_size}
    _, layer, module, kind = name.split(".")
    sizes = _layer_parts(config)[module]
    return {f"model.layers.{layer}.{part}.{kind}": size for part, size in sizes.items()}


def _layer_parts(config: ModelConfig) -> dict[str, dict[str, int]]:
    D, H, Hkv, K = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
    qkv = {"q": H * K, "k": Hkv * K, "v": Hkv * K}
    return {
        "attention_norm": {"input_layernorm": D},
        "qkv_proj": {f"self_attn.{part}_proj": size for part, size in qkv.items()},
        "o_proj": {"self_attn.o_proj": D},
        "mlp_norm": {"post_attention_layernorm": D},
        "gate_up_proj": {f"mlp.{part}_proj": config.intermediate_size for part in ("gate", "up")},
        "down_proj": {"mlp.down_proj": D},
    }


def join_parameter(
    name: str, read: Callable[[str], torch.Tensor], config: ModelConfig, vocab_width: int
) -> torch.Tensor:
    """Read the parts of a parameter, check their shapes and join them; pad a vocabulary with zeros.

    ValueError names the tensor of another shape, with both shapes.
    """
    shape, parts = parameter_shapes(config, vocab_width)[name], []
    for hf_name, size in _hf_parts(name, config).items():
        tensor = read(hf_name)
        found = tuple(tensor.shape)
        expected = (size or min(tensor.shape[0], vocab_width), *shape[1:])
        if found != expected:
            raise ValueError(f"tensor {hf_name}: found shape {found}, expected {expected}")
        parts.append(tensor)
    if name in VOCABULARY:
        return F.pad(parts[0], (0, 0, 0, vocab_width - parts[0].shape[0]))
    return torch.cat(parts)


def export(
    tensors: Mapping[str, torch.Tensor],
    config: ModelConfig,
    out: str | Path,
    dtype: torch.dtype,
    *,
    vocab_used: int,
    max_positions: int,
    eos: int | None = None,
    bos: int | None = None,
    write_more: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write a folder that transformers' AutoModelForCausalLM.from_pretrained loads.

    tensors: our parameters by name; dtype: of the tensors in the file; max_positions: longest row
    in training; write_more: writes other files into it. The folder appears when it is complete.
    Raises ValueError if it is not empty.
    """
    weights = {
        name: tensor.detach().to("cpu", dtype, copy=True).contiguous()
        for name, tensor in to_hf(tensors, config, vocab_used).items()
    }
    description = hf_config(config, vocab_used, max_positions, eos, bos, dtype)
    with staged_folder(out) as folder:
        save_tensors(weights, folder / WEIGHTS)
        write_text(folder / CONFIG, json.dumps(description, indent=2) + "\n")
        write_more(folder)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file, and wait until it is on the disk; OSError names the file."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    give_default_permissions(path)
    sync_path(path)


def hf_config(
    config: ModelConfig,
    vocab_used: int,
    max_positions: int,
    eos: int | None,
    bos: int | None,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Return the fields of config.json, with the rotary fields of both transformers 4 and 5."""
    family = "Qwen2" if config.qkv_bias else "Llama"
    precision = str(dtype).removeprefix("torch.")
    scaling = _hf_scaling(config)
    biases = {} if config.qkv_bias else {"attention_bias": False, "mlp_bias": False}
    return {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        "vocab_size": vocab_used,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": max_positions,
        "initializer_range": config.init_std,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": None,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": config.rope_theta}
        | (scaling or {"rope_type": "default"}),
        "torch_dtype": precision,
        "dtype": precision,
    } | biases


def _hf_scaling(config: ModelConfig) -> dict[str, Any] | None:
    if config.rope_scaling is None:
        return None
    fields = asdict(config.rope_scaling)
    fields["original_max_position_embeddings"] = fields.pop("original_context")
    return {"rope_type": "llama3"} | fields
