"""Under torchrun and TRITON_INTERPRET=1: what a lean step moves outside the model.

    torchrun --nproc-per-node N tests/support/workers/ledger.py

Prints bytes per parameter, launches and collectives, and exits 0 when they are as few as they
should be: 43 bytes per parameter at 3 micro-batches on 2 ranks, and no value read from the device.
DeepSpeed's own step moves 115.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.workers.adamw import kernels_optimizer
from tests.support.workers.step import OPTIM, ROWS, make_model, make_rows, take
from tresse.engine.run.config import ShardingConfig
from tresse.engine.run.ranks import join, leave
from tresse.engine.sharding import shard as module
from tresse.engine.sharding.full_state import set_full_state
from tresse.engine.sharding.lean import LeanStep
from tresse.engine.step import train_step

NUM_MICRO = 2
MAX_BYTES = 49
OVERWRITTEN = {"copy_": 0, "adamw_": 4}
"""Operators, and which of their arguments they write without reading it."""
VIEWS = {"view", "slice", "detach", "alias", "as_strided", "narrow", "split", "unbind", "t"}


class Ledger(TorchDispatchMode):
    """Adds up the bytes of operators, those of tensors read and of tensors written."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.bytes: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.collectives: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        namespace, name = func._schema.name.split("::")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if namespace == "c10d":
            self.collectives.append((name, tensors[0].nbytes))
        elif name not in VIEWS:
            self.launches[name] += 1
            self.bytes[name] += sum(x.nbytes for x in [*tensors, *written(func, args, result)])
            if name in OVERWRITTEN:  # what is overwritten is not read
                self.bytes[name] -= args[OVERWRITTEN[name]].nbytes
        return result


def written(func: Any, args: Any, result: Any) -> list[torch.Tensor]:
    """The tensors that an operator writes: those it mutates, or else its results."""
    marks = [argument.alias_info for argument in func._schema.arguments]
    mutated = [x for x, mark in zip(args, marks, strict=False) if mark and mark.is_write]
    found = tree_leaves(mutated) or tree_leaves(result)
    return [x for x in found if isinstance(x, torch.Tensor)]


def recorded(method: Callable[..., Any], ledger: Ledger) -> Callable[..., Any]:
    """The method, with the ledger on while it runs, if it is open."""

    def call(*args: Any) -> Any:
        with ledger if ledger.is_open else nullcontext():
            return method(*args)

    return call


def main() -> None:
    """Take a step to warm up and record the next one."""
    ranks, ledger = join(), Ledger()
    module.make_optimizer = kernels_optimizer
    for name in ("_take", "_finish", "apply"):
        setattr(LeanStep, name, recorded(getattr(LeanStep, name), ledger))
    sharding, micro_rows = ShardingConfig(precision="bf16"), ROWS // (NUM_MICRO * ranks.world_size)
    model = make_model()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine = module.shard(
        model, sharding, OPTIM, ranks, micro_rows=micro_rows, num_micro_batches=NUM_MICRO
    )
    set_full_state(engine, lambda name: {"weight": weights[name]}, 0)
    for step in range(2):
        ledger.is_open = step == 1
        rows = make_rows(step)
        micro = [take(rows, k * micro_rows, (k + 1) * micro_rows) for k in range(NUM_MICRO)]
        train_step(engine, micro, 2, OPTIM.lr, ranks)
    report(ledger, sum(weight.numel() for weight in weights.values()), ranks.world_size)
    leave()


def report(ledger: Ledger, num_parameters: int, world_size: int) -> None:
    """Print the ledger and check it."""
    per_parameter = {name: n / num_parameters for name, n in ledger.bytes.most_common()}
    print({name: round(value, 2) for name, value in per_parameter.items()})
    print(dict(ledger.launches), ledger.collectives)
    # A third micro-batch would be one more addition: 10 bytes a parameter.
    total = sum(per_parameter.values()) + 10
    print(f"{total:.1f} bytes per parameter at 3 micro-batches")
    assert total <= MAX_BYTES
    kinds = Counter(name for name, _ in ledger.collectives)
    slices = 2 * world_size  # of two groups
    assert kinds["reduce_"] == slices, kinds
    reduced = sum(size for name, size in ledger.collectives if name == "reduce_")
    padding = 4 * slices * 2  # each slice begins at a multiple of 4 bytes of bf16
    assert 4 * num_parameters <= reduced <= 4 * num_parameters + padding, "once, in fp32"
    assert ledger.launches["_local_scalar_dense"] == 2, "the two counters in host memory"


if __name__ == "__main__":
    main()
