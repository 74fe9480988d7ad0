"""karpathy/nanochat's model from a checkout, compiled as its scripts/base_train.py does.

Its shape follows its own rule from the depth alone: width 64 x depth, rounded up to heads of 128.
The depth is the one whose number of parameters is nearest to ours, without embeddings that are only
looked up. Attention is full in every layer (its pattern "L"). The optimizer is AdamW with the
recipe's settings, not its Muon, and gradients are clipped, so that ways differ in the model and its
kernels only. MFU is by its own FLOP count, which counts attention in full.
"""

import dataclasses
import gc
import math
import os
from typing import Any

import torch
from torch import Tensor, nn

from tresse.bench.peers.checkout import commit, import_from
from tresse.bench.peers.loop import train_steps
from tresse.bench.peers.workload import WIDTH, Clock, Workload, count
from tresse.engine.model import parameter_sizes

ASPECT, HEAD = 64, 128
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def train(workload: Workload, clock: Clock) -> dict[str, Any]:
    """Train for all steps; returns what the model is, its FLOPs per token and the last loss."""
    os.environ["NANOCHAT_DTYPE"] = DTYPES[workload.precision]  # read when it is imported
    gpt = import_from(workload.folder, "nanochat.gpt")
    if not hasattr(gpt, "COMPUTE_DTYPE"):
        raise ValueError(f"{workload.folder}: nanochat from before March 2026; take a newer commit")
    model = nearest(gpt, num_parameters(workload), workload.row_length)
    model.to_empty(device=clock.device)
    model.init_weights()
    facts = describe(model) | {"peer_commit": commit(workload.folder)}
    if workload.compile != "none":
        model.compile(dynamic=False)
    gc.disable()  # as its loop does
    return facts | {"loss": train_steps(workload, model, loss_of, clock)}


def num_parameters(workload: Workload) -> int:
    """Return the number of parameters of our model."""
    return sum(parameter_sizes(workload.config.model, WIDTH))


def nearest(gpt: Any, target: int, row_length: int) -> Any:
    """Return the model without values whose number of parameters is nearest to the target."""
    models = []
    with torch.device("meta"):
        for depth in range(1, 100):
            models.append(gpt.GPT(configuration(gpt, depth, row_length)))
            if num_multiplied(models[-1]) > target:
                break
    return min(models, key=lambda model: abs(math.log(num_multiplied(model) / target)))


def num_multiplied(model: Any) -> float:
    """Return the number of parameters that take part in matrix products, by its own FLOP count."""
    config = model.config
    attention = 12 * config.n_layer * config.n_embd * config.sequence_len
    return (model.estimate_flops() - attention) / 6


def configuration(gpt: Any, depth: int, row_length: int) -> Any:
    """Return its configuration of a depth."""
    num_heads = -(-depth * ASPECT // HEAD)
    fields = {
        "sequence_len": row_length,
        "vocab_size": WIDTH,
        "n_layer": depth,
        "n_head": num_heads,
        "n_kv_head": num_heads,
        "n_embd": num_heads * HEAD,
        "window_pattern": "L",
    }
    known = {field.name for field in dataclasses.fields(gpt.GPTConfig)}
    return gpt.GPTConfig(**{name: value for name, value in fields.items() if name in known})


def describe(model: Any) -> dict[str, Any]:
    """Return the number of parameters, FLOPs per token by its own count, and the shape in words."""
    config = model.config
    heads = f"{config.n_head} heads of {config.n_embd // config.n_head}"
    shape = f"nanochat: {config.n_layer} layers of width {config.n_embd}, {heads}"
    return {
        "parameters": count(model),
        "flops_full": float(model.estimate_flops()),
        "flops_causal": None,
        "shape": shape,
    }


def loss_of(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss."""
    return model(tokens, labels)
