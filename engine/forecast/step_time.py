"""The time of a training step by part: its FLOPs, its bytes, its floor, and a prediction.

A part is what `tresse profile` measures by the same name. The floor of a part is the time of its
FLOPs at the rate of the fastest matrix product, or of its bytes at the rate of a copy, whichever is
longer. The bytes are those that the kernels of this project move; see their docstrings.
"""

from collections.abc import Mapping
from typing import NamedTuple

from tresse.data.packing.loader import micro_batches
from tresse.engine.forecast.communication import collectives
from tresse.engine.forecast.gpus import Gpu
from tresse.engine.model import DTYPES
from tresse.engine.run.config import ModelConfig, RunConfig

PARTS = (
    "matmul",
    "attention",
    "norm",
    "swiglu",
    "rope",
    "loss",
    "embedding",
    "optimizer",
    "offload",
    "communication",
)
"""Parts of a step that a forecast knows."""
ATTENTION_PASSES = 3.5
"""Attention forward and backward, in forward passes: two products, then five."""
BACKWARD_SHARE = 2 / 3
"""Part of a micro-batch that its backward pass takes."""


class Work(NamedTuple):
    """Work of a part, on one rank, in a step."""

    flops: float = 0.0
    num_bytes: float = 0.0

    def floor_s(self, matmul_flops: float, copy_bytes: float) -> float:
        """Return the least seconds at two rates of the machine."""
        return max(self.flops / matmul_flops, self.num_bytes / copy_bytes)


class StepShape(NamedTuple):
    """The sizes of a step on one rank."""

    tokens: int
    """Tokens of a rank in a step."""
    num_micro: int
    """Number of micro-batches."""
    world_size: int
    num_parameters: int
    vocab_width: int
    keep_h: bool
    """True if SwiGLU's product is kept for the backward pass."""

    @classmethod
    def of(
        cls,
        config: RunConfig,
        world_size: int,
        micro_rows: int,
        *,
        num_parameters: int,
        vocab_width: int,
        keep_h: bool,
    ) -> "StepShape":
        """Return the sizes of a configuration's step, in micro-batches of up to `micro_rows`."""
        rows = micro_batches(config.rows_per_step, micro_rows, world_size)
        tokens = sum(rows) * config.data.packing.row_length
        return cls(tokens, len(rows), world_size, num_parameters, vocab_width, keep_h)


def step_work(config: RunConfig, shape: StepShape) -> dict[str, Work]:
    """Return the work of each part, without communication."""
    model, itemsize = config.model, DTYPES[config.sharding.precision].itemsize
    moved = float(shape.tokens * itemsize)  # bytes of one value per token
    layers, again = model.num_layers, config.recompute_layers
    D, F, V = model.hidden_size, model.intermediate_size, shape.vocab_width
    rotated = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    # Read gate and up, write h; read dh, gate and up, write both gradients, and h where not kept.
    swiglu = layers * (8 if shape.keep_h else 9) + 3 * again
    return {
        "matmul": _matmuls(config, shape),
        "attention": _attention(config, shape),
        # Read branch and residual, write their sum and its norm; the same number backward.
        "norm": Work(num_bytes=moved * D * (8 * (2 * layers + 1) + 4 * 2 * again)),
        "swiglu": Work(num_bytes=moved * F * swiglu),
        "rope": Work(num_bytes=moved * rotated * (4 * layers + 2 * again)),
        "loss": Work(num_bytes=moved * 2 * V),
        "embedding": Work(num_bytes=moved * 4 * D),
        "optimizer": Work(num_bytes=_optimizer_bytes(config, shape)),
    }


def _matmuls(config: RunConfig, shape: StepShape) -> Work:
    """Count the products of a step: y = x w, dx = dy w, dw = x dy."""
    layer = projections(config.model)
    head = (config.model.hidden_size, shape.vocab_width)
    passes = 3 * config.model.num_layers + config.recompute_layers
    products = [*((width, passes) for width in layer), (head, 3)]
    flops = sum(2.0 * a * b * times for (a, b), times in products)
    values = sum((a + b) * times for (a, b), times in products)
    itemsize = DTYPES[config.sharding.precision].itemsize
    return Work(shape.tokens * flops, float(shape.tokens * itemsize * values))


def projections(model: ModelConfig) -> list[tuple[int, int]]:
    """Return the input and output widths of a layer's products: qkv, o, gate and up, down."""
    heads = model.num_heads + 2 * model.num_kv_heads
    return [
        (model.hidden_size, heads * model.head_dim),
        (model.num_heads * model.head_dim, model.hidden_size),
        (model.hidden_size, 2 * model.intermediate_size),
        (model.intermediate_size, model.hidden_size),
    ]


def attention_flops(model: ModelConfig, row_length: int) -> float:
    """Return the FLOPs per token of a layer's forward pass: two products of the causal scores."""
    return 4.0 * model.num_heads * model.head_dim * (row_length + 1) / 2


def _attention(config: RunConfig, shape: StepShape) -> Work:
    """Count two products forward and five backward, as a causal mask leaves them."""
    model = config.model
    forward = attention_flops(model, config.data.packing.row_length)
    heads = 2 * model.num_heads + 2 * model.num_kv_heads
    moved = heads * model.head_dim * DTYPES[config.sharding.precision].itemsize
    passes = ATTENTION_PASSES * model.num_layers + config.recompute_layers
    return Work(shape.tokens * forward * passes, shape.tokens * moved * passes)


def _optimizer_bytes(config: RunConfig, shape: StepShape) -> float:
    """Count what accumulating a gradient, its norm and AdamW move.

    The lean step: engine/sharding/lean.py. At levels 2 and 3 a micro-batch's gradient goes through
    DeepSpeed's bucket. In fp32 autograd adds it in place.
    """
    sharding, number = config.sharding, float(shape.num_parameters)
    share = number / shape.world_size if sharding.zero_stage else number
    update = 0.0 if sharding.offload_optimizer else 34 * share  # the norm 4, AdamW 30
    if sharding.zero_stage >= 2 or sharding.offload_optimizer:
        return shape.num_micro * (6 * number + 12 * share) + update
    if sharding.precision == "fp32":
        return (shape.num_micro - 1) * 12 * number + update
    return (6 + 10 * (shape.num_micro - 1)) * number + update


def step_seconds(
    config: RunConfig, shape: StepShape, gpu: Gpu, work: Mapping[str, Work]
) -> dict[str, float]:
    """Predict the seconds of each part of a step."""
    seconds = {name: part.num_bytes / gpu.copy_bytes for name, part in work.items()}
    products, is_fp32 = work["matmul"], config.sharding.precision == "fp32"
    seconds["matmul"] = products.flops / (gpu.fp32_flops if is_fp32 else gpu.matmul_flops)
    seconds["matmul"] += gpu.matmul_move_share * products.num_bytes / gpu.copy_bytes
    attention_flops = min(gpu.attention_flops, gpu.fp32_flops) if is_fp32 else gpu.attention_flops
    seconds["attention"] = work["attention"].flops / attention_flops
    seconds["offload"] = _offload_seconds(config, shape, gpu)
    backward = BACKWARD_SHARE * sum(seconds.values()) / shape.num_micro
    seconds["communication"] = exposed_seconds(config, shape, gpu, backward)
    return seconds


def exposed_seconds(config: RunConfig, shape: StepShape, gpu: Gpu, backward_s: float) -> float:
    """Return the seconds of communication that nothing hides.

    backward_s: time of a micro-batch's backward pass, which hides the lean step's reductions but
    for the last slice.
    """
    found = collectives(config, shape.num_parameters, shape.world_size, shape.num_micro)
    exposed_s = 0.0
    for each in found:
        seconds = each.seconds(gpu, shape.world_size)
        if each.is_hidden:
            seconds = max(seconds - backward_s, seconds / shape.world_size)
        exposed_s += seconds
    return exposed_s


def _offload_seconds(config: RunConfig, shape: StepShape, gpu: Gpu) -> float:
    """Return the time that an offloaded optimizer takes: both ways over the link, and AdamW."""
    if not config.sharding.offload_optimizer:
        return 0.0
    share = shape.num_parameters / shape.world_size
    itemsize = DTYPES[config.sharding.precision].itemsize
    moved = share * (4 * shape.num_micro + itemsize)
    return moved / gpu.host_link_bytes + 30 * share / gpu.host_bytes
