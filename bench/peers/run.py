"""Train in one of the ways that are not ours, in the processes that torchrun starts.

torchrun --nproc-per-node 1 bench/peers/run.py --way transformers --recipe tiny --rows 8 \
    --micro-rows 4 --steps 5 --precision fp32 --out result.json

bench/throughput.py starts it for every round. The first rank writes the milliseconds of each step
that counts, the memory, and what the way says of its model. Where memory is short the result only
says so.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import tyro

from tresse.bench.peers.workload import Clock, Workload, device
from tresse.data import processes

Train = Callable[[Workload, Clock], dict[str, Any]]
MODULES = {
    "trainer": "trainer",
    "transformers": "transformers_loop",
    "liger": "transformers_loop",
    "nanochat": "nanochat_loop",
    "interleaved_lm": "interleaved_loop",
}
"""The module of each way: its `train(workload, clock)` marks the end of every step."""


def main(workload: Workload) -> None:
    """Train, and write the result."""
    clock = Clock(device())
    train: Train = import_module(f"tresse.bench.peers.{MODULES[workload.way]}").train
    try:
        facts = train(workload, clock)
    except torch.OutOfMemoryError:
        write(workload, {"out_of_memory": True})
        raise
    if processes.rank() == 0:
        measured = {"steps_ms": clock.steps_ms(workload.warmup), "memory_gib": clock.peak_gib()}
        write(workload, measured | facts)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def write(workload: Workload, result: dict[str, Any]) -> None:
    """Write the result as JSON, complete under its name."""
    partial = Path(f"{workload.out}.{processes.rank()}")
    partial.write_text(json.dumps(result))
    partial.replace(workload.out)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are built from configurations
    sys.exit(main(tyro.cli(Workload, description=__doc__)))
