"""Small models of both families, and their weights."""

import dataclasses

import torch

from tresse.engine.model import Transformer
from tresse.engine.run.config import ModelConfig, RopeScaling

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
    """A model whose norms and biases are not ones and zeros."""
    model = Transformer(config, VOCAB_WIDTH, VOCAB_USED)
    model.init_weights(seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):  # ones and zeros would hide a mix-up
                parameter += 0.3 * torch.randn(parameter.shape)
    return model
