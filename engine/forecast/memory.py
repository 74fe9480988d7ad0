"""The memory that a training step needs on one GPU, computed before it runs."""

import torch

from tresse.engine.model import DTYPES
from tresse.engine.run.config import ModelConfig, RunConfig
from tresse.engine.run.ranks import Ranks

SHARE = 0.95
"""Part of a GPU's memory that may be planned: the rest is for CUDA, NCCL and fragmentation."""


def activation_bytes(model: ModelConfig, tokens: int, itemsize: int, *, keep_h: bool) -> int:
    """Return what the layers keep of a micro-batch for the backward pass; see model.Block."""
    heads = 2 * model.num_heads + 2 * model.num_kv_heads
    products = 3 if keep_h else 2
    values = 4 * model.hidden_size + heads * model.head_dim + products * model.intermediate_size
    per_token = itemsize * values + 4 * (2 + model.num_heads)
    return model.num_layers * tokens * per_token


def working_bytes(model: ModelConfig, tokens: int, itemsize: int) -> int:
    """Return the largest gradients that a layer's backward pass holds at once: SwiGLU's."""
    return 3 * model.intermediate_size * tokens * itemsize


def state_bytes(config: RunConfig, num_parameters: int, world_size: int) -> int:
    """Return weights, gradients, masters and moments on one rank."""
    sharding = config.sharding
    weights, gradients, masters = DTYPES[sharding.precision].itemsize, 4, 12
    shared = [sharding.zero_stage >= 3, sharding.zero_stage >= 2, sharding.zero_stage >= 1]
    if sharding.offload_optimizer:
        masters = 0
    parts = zip((weights, gradients, masters), shared, strict=True)
    return num_parameters * sum(
        -(-size // world_size) if divided else size for size, divided in parts
    )


def step_bytes(config: RunConfig, num_parameters: int, world_size: int, *, keep_h: bool) -> int:
    """Return the memory that a step needs at its peak, on one rank."""
    tokens = config.micro_rows * config.data.packing.row_length
    itemsize = DTYPES[config.sharding.precision].itemsize
    return (
        state_bytes(config, num_parameters, world_size)
        + activation_bytes(config.model, tokens, itemsize, keep_h=keep_h)
        + working_bytes(config.model, tokens, itemsize)
    )


def keeps_h(config: RunConfig, num_parameters: int, ranks: Ranks) -> bool:
    """Return whether SwiGLU's product is kept, as the configuration says or as memory allows.

    Prints the choice of `auto` on the first rank. All ranks choose alike.
    """
    choice = config.kernels.keep_swiglu
    if choice != "auto" or ranks.device.type != "cuda":
        return choice == "yes"
    needed = step_bytes(config, num_parameters, ranks.world_size, keep_h=True)
    needed += torch.cuda.memory_allocated(ranks.device)  # a pool of tokens
    total = torch.cuda.mem_get_info(ranks.device)[1]
    keep = not ranks.any(needed > SHARE * total)
    if ranks.is_first:
        verb = "kept" if keep else "computed again"
        print(f"SwiGLU's product: {verb} (kept, {needed / 1e9:.1f} of {total / 1e9:.1f} GB)")
    return keep
