"""The collectives of a training step: which, how many bytes, and how long they take.

tests/engine/forecast/test_counted.py counts the same on 2 and 4 ranks. With N parameters, m
micro-batches and weights of w bytes:

    level 0    all-reduce of 4 N, after the last micro-batch
    level 1    in bf16 the lean step: each rank's slice is reduced to it, 4 N in all, or by one
               reduce-scatter among many ranks; otherwise an all-reduce of 4 N. Then an all-gather
               of w N
    level 2    all-reduce of 4 N in every micro-batch, as DeepSpeed does it; all-gather of w N
    level 3    in every micro-batch, all-gathers of w N for the forward pass, and again for the
               backward pass of what does not stay; reduce-scatter of 4 N. A recomputed layer
               keeps what it gathers until its own backward pass, as LIVE is more than two layers
"""

import math
from typing import Literal, NamedTuple

from tresse.engine.forecast.gpus import Gpu
from tresse.engine.model import DTYPES
from tresse.engine.run.config import RunConfig
from tresse.engine.sharding.sizes import BUCKET, LIVE, MAX_SLICES

Kind = Literal["reduce", "all_reduce", "all_gather", "reduce_scatter"]


class Collective(NamedTuple):
    """Collectives of one kind in a step."""

    kind: Kind
    num_bytes: float
    """Bytes of the tensors in full, of all calls together."""
    num_calls: int
    is_hidden: bool = False
    """True if it runs during the backward pass."""

    def bus_bytes(self, world_size: int) -> float:
        """Return the bytes that each link carries, as nccl-tests counts bus bandwidth."""
        share = (world_size - 1) / world_size
        factors = {"reduce": 1.0, "all_reduce": 2 * share}
        return self.num_bytes * factors.get(self.kind, share)

    def seconds(self, gpu: Gpu, world_size: int) -> float:
        """Return the time that it takes alone."""
        latency_s = self.num_calls * gpu.latency_s * math.log2(world_size)
        return self.bus_bytes(world_size) / bus_rate(gpu, world_size) + latency_s


def bus_rate(gpu: Gpu, world_size: int) -> float:
    """Return the bus bandwidth between all GPUs; every GPU of a node has a network link."""
    if world_size <= gpu.gpus_per_node:
        return gpu.bus_bytes
    return min(gpu.bus_bytes, gpu.network_bytes * gpu.gpus_per_node)


def collectives(
    config: RunConfig, num_parameters: int, world_size: int, num_micro: int
) -> list[Collective]:
    """Return the collectives of a step but for the few that carry numbers."""
    sharding = config.sharding
    itemsize, level = DTYPES[sharding.precision].itemsize, sharding.zero_stage
    gradients, weights = 4.0 * num_parameters, float(itemsize * num_parameters)
    buckets = math.ceil(num_parameters / BUCKET)
    gather = Collective("all_gather", weights, 2)
    if world_size == 1:
        return []
    if level == 0:
        return [Collective("all_reduce", gradients, buckets)]
    if level == 1 and sharding.precision == "bf16" and not sharding.offload_optimizer:
        if world_size > MAX_SLICES:
            return [Collective("reduce_scatter", gradients, 2), gather]
        return [Collective("reduce", gradients, 2 * world_size, is_hidden=True), gather]
    if level < 3:
        times = num_micro if level == 2 else 1
        return [Collective("all_reduce", times * gradients, times * buckets), gather]
    again = max(0.0, weights - itemsize * LIVE)
    num_gathers = 4 * config.model.num_layers * (1 + (again > 0))
    return [
        Collective("all_gather", num_micro * (weights + again), num_micro * num_gathers),
        Collective("reduce_scatter", num_micro * gradients, num_micro * buckets),
    ]


def floor_seconds(found: list[Collective], gpu: Gpu, world_size: int) -> float:
    """Return the least seconds of the collectives that nothing hides: bytes at the links' rate."""
    visible = sum(each.bus_bytes(world_size) for each in found if not each.is_hidden)
    return visible / bus_rate(gpu, world_size)
