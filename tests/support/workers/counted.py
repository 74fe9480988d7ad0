"""Under torchrun: the tensors that an engine holds and the bytes that its ranks exchange.

    torchrun --nproc-per-node N tests/support/workers/counted.py OUT

The first rank writes to OUT, for each case, the bytes of all tensors after a micro-batch, and those
of the tensors of each collective of a step, as JSON. The last two cases are level 3 where no more
than LIVE weights stay after the forward pass, without and with layers that are recomputed.
"""

import gc
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tresse.engine import step as step_module
from tresse.engine.batches import DeviceBatch
from tresse.engine.model import Transformer
from tresse.engine.run.config import OptimConfig, ShardingConfig
from tresse.engine.run.ranks import Ranks, join, leave
from tresse.engine.run.recipes import TINY
from tresse.engine.sharding import shard as shard_module
from tresse.engine.sharding.shard import Engine, release, shard
from tresse.engine.sharding.update import backward

MODEL = replace(TINY, hidden_size=256, num_heads=4, head_dim=64, intermediate_size=768)
WIDTH = 256
NUM_MICRO = 2
CASES = [
    ShardingConfig(
        zero_stage=level,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        offload_optimizer=offload,
    )
    for level, precision, offload in (
        (0, "fp32", False),
        (1, "bf16", False),
        (1, "fp32", False),
        (2, "bf16", False),
        (3, "bf16", False),
        (1, "bf16", True),
        (2, "bf16", True),
        (3, "bf16", True),
    )
]
LIVE = 1_700_000
"""Weights that may stay in full: more than two layers, less than the model."""
LET_GO = 0.05
"""Seconds in which gloo's threads drop the tensors of a collective; they need Python's lock."""
KINDS = {
    "allreduce_": "all_reduce",
    "reduce_": "reduce",
    "_allgather_base_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
}
"""Operators of torch.distributed, and what a forecast calls them."""
SMALL = 4096
"""Bytes up to which a collective carries numbers, such as a norm."""


class Exchanged(TorchDispatchMode):
    """Adds up the bytes of the tensors of collectives."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = func._schema.name.split("::")
        if namespace == "c10d" and name in KINDS:
            leaves = tree_leaves((args, kwargs))
            size = max(x.nbytes for x in leaves if isinstance(x, torch.Tensor))
            if size > SMALL:
                self.bytes[KINDS[name]] += size
        return func(*args, **(kwargs or {}))


def held_bytes() -> int:
    """Bytes of all tensors that exist in this process."""
    gc.collect()
    time.sleep(LET_GO)
    found: dict[int, int] = {}
    for value in gc.get_objects():
        if isinstance(value, torch.Tensor):
            gradient = value.grad if value.is_leaf else None
            for tensor in (value, gradient, getattr(value, "ds_tensor", None)):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def measure(sharding: ShardingConfig, ranks: Ranks, num_recomputed: int = 0) -> dict[str, Any]:
    """Take a step; count after each micro-batch, and all that it exchanges."""
    before = held_bytes()
    model = Transformer(MODEL, WIDTH, WIDTH, num_recomputed=num_recomputed)
    model.init_weights(0)
    sizes = [parameter.numel() for parameter in model.parameters()]
    engine = shard(model, sharding, OptimConfig(), ranks, micro_rows=1, num_micro_batches=NUM_MICRO)
    held: list[int] = []
    most = []

    def counted(engine: Engine, loss: torch.Tensor, *, last: bool) -> None:
        backward(engine, loss, last=last)
        held.append(held_bytes() - before)

    step_module.backward = counted
    rows = torch.randint(WIDTH, (1, 17))
    languages = torch.zeros(1, 16, dtype=torch.uint8)
    batch = DeviceBatch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), languages, None)
    exchanged = Exchanged()
    for _ in range(3):
        exchanged.bytes.clear()
        held.clear()
        with exchanged:
            step_module.train_step(engine, [batch] * NUM_MICRO, 1, 1e-3, ranks).result()
        most.append(max(held))
    release(engine)
    return {"sizes": sizes, "held": min(most[1:]), "exchanged": dict(exchanged.bytes)}


def main() -> None:
    """Measure every case."""
    ranks = join()
    found = [measure(sharding, ranks) for sharding in CASES]
    shard_module.LIVE = LIVE
    found += [measure(CASES[4], ranks, count) for count in (0, MODEL.num_layers // 2)]
    if ranks.is_first:
        Path(sys.argv[1]).write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    main()
