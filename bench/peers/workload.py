"""What every way beside ours trains on: sizes, random rows, precision, and the clock of its steps.

B rows of a micro-batch, T tokens in a row.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tresse.data import processes
from tresse.data.worlds.random_units import NUM_UNITS
from tresse.engine.device import peak_memory_bytes
from tresse.engine.run.config import RunConfig
from tresse.engine.run.recipes import RECIPES
from tresse.engine.sharding.parameter_groups import parameter_groups

WIDTH = 2176  # columns of the logits, as in our model with separators
Peer = Literal["trainer", "transformers", "liger", "nanochat", "interleaved_lm"]
Compile = Literal["whole", "layers", "none"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Train a recipe's model on random units in a way that is not ours, and time the steps."""

    way: Peer
    """Way to train."""
    recipe: str
    """Name of the recipe whose model, row length and optimizer settings count."""
    rows: int
    """Rows per step on each rank."""
    micro_rows: int
    """Rows per forward and backward pass; a divisor of `rows`."""
    steps: int
    """Number of steps that count."""
    warmup: int = 3
    """Number of steps before them, at least one; the first one compiles."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: weights in fp32 under autocast; fp32: all in fp32."""
    compile: Compile = "whole"
    """torch.compile of `transformers` and `liger`: the whole model, each layer, or not at all. A
    checkout is compiled as its authors do, unless this is none; `trainer` never is."""
    attention: str = "sdpa"
    """transformers' attn_implementation."""
    folder: str = ""
    """Checkout of nanochat or interleaved_lm."""
    out: str = ""
    """File for the result."""

    def __post_init__(self) -> None:
        """Check that the micro-batches are of one size: the peers cannot have others."""
        if self.rows % self.micro_rows or self.warmup < 1:
            raise ValueError(
                f"rows={self.rows} must be a multiple of micro_rows={self.micro_rows}, and "
                f"warmup={self.warmup} at least 1"
            )

    @property
    def config(self) -> RunConfig:
        """The recipe."""
        return RECIPES[self.recipe]()

    @property
    def row_length(self) -> int:
        """Tokens that the model reads in a row."""
        return self.config.data.packing.row_length

    @property
    def accumulation(self) -> int:
        """Micro-batches per step on each rank."""
        return self.rows // self.micro_rows

    @property
    def total_steps(self) -> int:
        """Steps, those of the warm-up included."""
        return self.warmup + self.steps

    def flags(self) -> list[str]:
        """Return the words that say the same on a command line."""
        fields = dataclasses.asdict(self)
        return [w for name, value in fields.items() for w in (f"--{name}", str(value))]


class Clock:
    """Times between the ends of steps: by events on a GPU, so that no step waits for the clock."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.marks = device, []

    def mark(self) -> None:
        """Note the end of a step."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def steps_ms(self, warmup: int) -> list[float]:
        """Return the milliseconds of each step after the warm-up."""
        marks: list[Any] = self.marks[warmup - 1 :]
        pairs = itertools.pairwise(marks)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return [before.elapsed_time(after) for before, after in pairs]
        return [1000 * (after - before) for before, after in pairs]

    def peak_gib(self) -> float:
        """Return the largest memory used so far: by tensors on a GPU, by the process on a CPU."""
        return peak_memory_bytes(self.device) / 2**30


def device() -> torch.device:
    """Return the device of this process."""
    found = torch.device(processes.device())
    if found.type == "cuda":
        torch.cuda.set_device(found)
    return found


def random_rows(workload: Workload) -> Tensor:
    """Draw this rank's rows for all steps: (rows, T + 1) int64 in host memory."""
    generator = torch.Generator().manual_seed(processes.rank())
    shape = workload.total_steps * workload.rows, workload.row_length + 1
    rows = torch.randint(NUM_UNITS, shape, generator=generator)
    return rows.pin_memory() if torch.cuda.is_available() else rows


def micro_batches(workload: Workload, device: torch.device) -> Iterator[Tensor]:
    """Yield micro-batches of rows on the device, (B, T + 1) each."""
    for rows in random_rows(workload).split(workload.micro_rows):
        yield rows.to(device, non_blocking=True)


def autocast(workload: Workload, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a forward pass."""
    if workload.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def fused_adamw(model: nn.Module, workload: Workload) -> torch.optim.AdamW:
    """Return torch's fused AdamW with the recipe's settings: matrices decay, vectors do not."""
    optim = workload.config.optim
    groups = parameter_groups(model, optim.weight_decay)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def count(model: nn.Module) -> int:
    """Return the number of a model's parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
