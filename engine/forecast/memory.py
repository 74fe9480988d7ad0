"""The memory that a training step needs on one rank, by part, computed before it runs."""

from collections.abc import Sequence
from typing import NamedTuple

import psutil
import torch

from tresse.data import processes
from tresse.data.packing.loader import micro_batches
from tresse.engine.model import DTYPES
from tresse.engine.run.config import ModelConfig, RunConfig
from tresse.engine.run.ranks import Ranks
from tresse.engine.sharding.sizes import LIVE, bucket_numel
from tresse.kernels import linear_cross_entropy

SHARE = 0.95
"""Part of a GPU's memory that may be planned: the rest is for CUDA, NCCL and fragmentation."""


class Memory(NamedTuple):
    """Bytes on one rank at the peak of a step."""

    weights: int
    """Weights in the dtype of the computation, and those gathered at ZeRO level 3."""
    gradients: int
    """Summed gradients, in fp32."""
    optimizer: int
    """Masters and both moments, in fp32; none where they are offloaded."""
    buffers: int
    """DeepSpeed's bucket of gradients that it reduces at once."""
    activations: int
    """What the layers keep of a micro-batch for the backward pass."""
    working: int
    """What the head, or a layer's backward pass, needs beside them."""
    host: int = 0
    """Memory of the host: what is offloaded."""

    @property
    def device(self) -> int:
        """The sum of what lies on the device."""
        return sum(self) - self.host


def step_memory(
    config: RunConfig, sizes: Sequence[int], world_size: int, micro_rows: int, *, keep_h: bool
) -> Memory:
    """Return the memory of a step with micro-batches of `micro_rows` rows.

    sizes: number of elements of each parameter, as `model.parameter_sizes` returns them.
    """
    model, sharding = config.model, config.sharding
    tokens = micro_rows * config.data.packing.row_length
    vocab_width = sizes[0] // model.hidden_size
    itemsize = DTYPES[sharding.precision].itemsize
    state = state_memory(config, sizes, world_size)
    # A tied weight's gradient by the head waits for that by the embedding, the last of all.
    waiting = itemsize * sizes[0] if model.tie_embeddings else 0
    return state._replace(
        activations=activation_bytes(
            model, tokens, itemsize, keep_h=keep_h, num_recomputed=config.recompute_layers
        ),
        working=max(
            linear_cross_entropy.working_bytes(tokens, model.hidden_size, vocab_width, itemsize),
            layer_working_bytes(
                model, tokens, itemsize, keep_h=keep_h, recomputes=config.recompute_layers > 0
            )
            + waiting,
        ),
    )


def state_memory(config: RunConfig, sizes: Sequence[int], world_size: int) -> Memory:
    """Return weights, gradients, masters, moments and DeepSpeed's buffers, without activations.

    sizes: number of elements of each parameter.
    """
    sharding, number = config.sharding, sum(sizes)
    level, offloads = sharding.zero_stage, sharding.offload_optimizer
    itemsize = DTYPES[sharding.precision].itemsize
    share = -(-number // world_size)
    gathered = itemsize * min(number, LIVE) if level == 3 else 0
    weights = itemsize * (share if level == 3 else number) + gathered
    own = 12 * (share if level else number)
    if level == 0:
        own -= 4 * number  # fp32 weights are their own masters
    gradients = 4 * (share if level >= 2 else number)
    if level == 1 and sharding.precision == "fp32":
        gradients += 4 * number  # of a micro-batch, and their sum
    buffers = 4 * bucket_numel(sizes) if level >= 2 or offloads else 0
    if not offloads:
        return Memory(weights, gradients, own, buffers, 0, 0)
    # In fp32: the gradients of a step and their sum; below level 3 also the updated weights.
    host = own + 8 * share + (itemsize * share if level < 3 else 0)
    # At level 1 DeepSpeed sums the gradients of micro-batches on the device.
    summed = 4 * number if level == 1 else 0
    return Memory(weights, summed, 0, buffers, 0, 0, host)


def activation_bytes(
    model: ModelConfig, tokens: int, itemsize: int, *, keep_h: bool, num_recomputed: int = 0
) -> int:
    """Return what the layers keep of a micro-batch for the backward pass; see model.Block.

    num_recomputed: number of layers that keep only the branch and the residual they begin with.
    """
    per_token = _layer_bytes(model, itemsize, keep_h=keep_h)
    recomputed = 2 * model.hidden_size * itemsize
    num_kept = model.num_layers - num_recomputed
    return tokens * (num_kept * per_token + num_recomputed * recomputed)


def _layer_bytes(model: ModelConfig, itemsize: int, *, keep_h: bool) -> int:
    heads = 2 * model.num_heads + 2 * model.num_kv_heads
    products = 3 if keep_h else 2
    values = 4 * model.hidden_size + heads * model.head_dim + products * model.intermediate_size
    return itemsize * values + 4 * (2 + model.num_heads)


def layer_working_bytes(
    model: ModelConfig, tokens: int, itemsize: int, *, keep_h: bool, recomputes: bool
) -> int:
    """Return the largest gradients that a layer's backward pass holds at once: SwiGLU's.

    recomputes: the activations of a layer are computed again before.
    """
    gradients = 3 * model.intermediate_size * itemsize
    again = _layer_bytes(model, itemsize, keep_h=keep_h) if recomputes else 0
    return tokens * (gradients + again)


def largest_micro_rows(
    config: RunConfig, sizes: Sequence[int], world_size: int, memory_bytes: float
) -> int:
    """Return the most rows of a micro-batch that fit, shared out evenly; 0 if not even one does.

    memory_bytes: memory of the device that may be used. SwiGLU's product is kept only if the
    configuration says so.
    """
    share = config.rows_per_step // world_size
    keep_h = config.kernels.keep_swiglu == "yes"

    def needed(rows: int) -> int:
        return step_memory(config, sizes, world_size, rows, keep_h=keep_h).device

    fitting = next((rows for rows in range(share, 0, -1) if needed(rows) <= memory_bytes), 0)
    return fitting and max(micro_batches(share, fitting, 1))


def micro_rows_of(config: RunConfig, largest: int, world_size: int) -> int:
    """Return the rows of the largest micro-batch: as the configuration says, or `largest`."""
    if config.micro_rows == "auto":
        return largest
    return max(micro_batches(config.rows_per_step, config.micro_rows, world_size))


def choose_micro_rows(config: RunConfig, sizes: Sequence[int], ranks: Ranks) -> int:
    """Return the rows of the largest micro-batch: as the configuration says, or as many as fit.

    Prints the choice of `auto` on the first rank. Raises ValueError if not even one row fits.
    """
    if config.micro_rows != "auto":
        return micro_rows_of(config, 0, ranks.world_size)
    smallest = min(ranks.gather(_free_memory(ranks)))
    rows = largest_micro_rows(config, sizes, ranks.world_size, SHARE * smallest)
    if not rows:
        needed = step_memory(config, sizes, ranks.world_size, 1, keep_h=False).device
        raise ValueError(
            f"micro_rows=auto: a step needs {needed / 1e9:.1f} GB with a single row, a rank has "
            f"{smallest / 1e9:.1f} GB; raise --recompute-layers or --sharding.zero-stage, or take "
            "more GPUs (tresse plan shows what fits)"
        )
    if ranks.is_first:
        print(f"micro-batches: {rows} rows, the most that fit {smallest / 1e9:.1f} GB")
    return rows


def _free_memory(ranks: Ranks) -> int:
    """Return the bytes that this rank may use: of its GPU, or its share of the host's memory."""
    if ranks.device.type == "cuda":
        reserved = torch.cuda.memory_reserved(ranks.device)
        unused = reserved - torch.cuda.memory_allocated(ranks.device)
        return torch.cuda.mem_get_info(ranks.device)[0] + unused
    return psutil.virtual_memory().available // processes.local_world_size()


def keeps_h(config: RunConfig, sizes: Sequence[int], ranks: Ranks, micro_rows: int) -> bool:
    """Return whether SwiGLU's product is kept, as the configuration says or as memory allows.

    Prints the choice of `auto` on the first rank. All ranks choose alike.
    """
    choice = config.kernels.keep_swiglu
    if choice != "auto" or ranks.device.type != "cuda":
        return choice == "yes"
    needed = step_memory(config, sizes, ranks.world_size, micro_rows, keep_h=True).device
    total = _free_memory(ranks)
    keep = not ranks.any(needed > SHARE * total)
    if ranks.is_first:
        verb = "kept" if keep else "computed again"
        print(f"SwiGLU's product: {verb} (kept, {needed / 1e9:.1f} of {total / 1e9:.1f} GB)")
    return keep
