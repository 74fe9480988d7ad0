"""Where the time of a step goes, beside the plainest way to train the same model.

    torchrun --nproc-per-node 4 bench/step.py --recipes 1b-interleave 360m-interleave

Each way trains on random tokens that lie on the device: nothing is read, packed or logged.

    engine     the step of engine/train.py: DeepSpeed, our AdamW, the lean step
    deepspeed  the same with DeepSpeed's own step
    ddp        the control: torch's DistributedDataParallel around fp32 weights, which each forward
               pass casts to the compute dtype, and torch's fused AdamW

`tresse profile` says where the time of a step goes.
"""

import contextlib
import dataclasses
import functools
import gc
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import tyro
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tresse.bench.peers.workload import WIDTH
from tresse.bench.records import quantiles, write_records
from tresse.data.packing.loader import micro_batches
from tresse.engine.attention import choose_attention
from tresse.engine.batches import DeviceBatch
from tresse.engine.device import device_name, peak_memory_bytes, reset_peak_memory, wait
from tresse.engine.forecast.flops import flops_per_token, peak_flops
from tresse.engine.forecast.memory import keeps_h
from tresse.engine.model import DTYPES, Transformer, parameter_sizes
from tresse.engine.run.config import KernelsConfig, RunConfig
from tresse.engine.run.ranks import Ranks, join, leave
from tresse.engine.run.recipes import RECIPES
from tresse.engine.sharding.full_state import set_full_state
from tresse.engine.sharding.parameter_groups import parameter_groups
from tresse.engine.sharding.shard import release, shard
from tresse.engine.step import train_step
from tresse.kernels.mlp_backends import choose_mlp

NUM_IDS = 2051  # the paper's units and separators
Keep = Literal["auto", "yes", "no"]
COLUMNS = ("recipe", "way", "compile", "keep_swiglu", "ranks", "tokens_per_s", "step_ms")
COLUMNS += ("mfu_causal", "memory_gib", "start_s")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the step of recipes."""

    recipes: tuple[str, ...] = ("360m-interleave", "1b-interleave")
    """Names of the recipes to measure."""
    ways: tuple[Literal["engine", "deepspeed", "ddp"], ...] = ("engine", "deepspeed", "ddp")
    """Ways to train."""
    rows: int = 75
    """Rows per step on each rank; the paper has 75 of 2,048 tokens."""
    micro_rows: int = 25
    """Rows per forward and backward pass."""
    steps: int = 5
    """Number of steps that count."""
    warmup: int = 2
    """Number of steps before them."""
    compile: tuple[bool, ...] = (False,)
    """Compile each block (torch.compile), or not; several are measured one after the other."""
    attention: Literal["auto", "fa4", "fa2", "varlen", "sdpa", "triton"] = "auto"
    """Attention, as in the configuration of a run."""
    mlp: Literal["tresse", "quack"] = "tresse"
    """MLP, as in the configuration of a run."""
    keep_swiglu: tuple[Keep, ...] = ("auto",)
    """Keep SwiGLU's product, as in the configuration of a run; several, one after the other."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Dtype of the computation."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """ZeRO level of `engine`."""
    json: str = ""
    """File for the results; empty: none."""


class Way(Protocol):
    """A way to train."""

    def step(self, batches: Sequence[DeviceBatch]) -> None:
        """Take one optimizer step."""

    def close(self) -> None:
        """Free its memory."""


class ByEngine:
    """The step of engine/train.py."""

    def __init__(
        self, model: Transformer, config: RunConfig, ranks: Ranks, *, lean: bool = True
    ) -> None:
        self.ranks, self.lr = ranks, config.optim.lr
        self.engine = shard(
            model,
            config.sharding,
            config.optim,
            ranks,
            micro_rows=max(sizes(config, ranks)),
            num_micro_batches=len(sizes(config, ranks)),
            lean=lean,
        )
        weights = {name: p.detach().float() for name, p in self.engine.module.named_parameters()}
        set_full_state(self.engine, lambda name: {"weight": weights[name]}, 0)

    def step(self, batches: Sequence[DeviceBatch]) -> None:
        """Take one optimizer step."""
        train_step(self.engine, batches, 1, self.lr, self.ranks)

    def close(self) -> None:
        """Free its memory."""
        release(self.engine)


class Cast(nn.Module):
    """A model with fp32 weights whose forward pass uses them in another dtype."""

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, *inputs: Any) -> Tensor:
        """Return the loss."""
        weights = {name: p.to(self.dtype) for name, p in self.model.named_parameters()}
        return torch.func.functional_call(self.model, weights, inputs)[0]


class ByDDP:
    """The control: DistributedDataParallel, fp32 weights and torch's fused AdamW."""

    def __init__(self, model: Transformer, config: RunConfig, ranks: Ranks) -> None:
        optim, self.ranks = config.optim, ranks
        self.clip = optim.clip
        self.model = DistributedDataParallel(
            Cast(model, DTYPES[config.sharding.precision]), gradient_as_bucket_view=True
        )
        groups = parameter_groups(model, optim.weight_decay)
        self.optimizer = torch.optim.AdamW(
            groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True
        )

    def step(self, batches: Sequence[DeviceBatch]) -> None:
        """Take one optimizer step."""
        targets = sum(batch.labels.numel() for batch in batches)  # the same on each rank
        scale = torch.full((), 1.0 / targets, device=self.ranks.device)
        for position, batch in enumerate(batches):
            is_last = position == len(batches) - 1
            with contextlib.nullcontext() if is_last else self.model.no_sync():
                self.model(batch.tokens, batch.labels, batch.cu_seqlens, scale).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)

    def close(self) -> None:
        """Free its memory."""
        del self.model, self.optimizer
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


WAYS: dict[str, Callable[[Transformer, RunConfig, Ranks], Way]] = {
    "engine": ByEngine,
    "deepspeed": functools.partial(ByEngine, lean=False),
    "ddp": ByDDP,
}


def main(options: Options) -> None:
    """Measure every recipe in every way, and print a table."""
    ranks, records = join(), []
    if ranks.is_first:
        print("  ".join(COLUMNS), flush=True)
    for recipe in options.recipes:
        for compiled, keep in itertools.product(options.compile, options.keep_swiglu):
            config = configure(RECIPES[recipe](), options, compiled, keep, ranks)
            for way in options.ways:
                records.append(measure(config, way, options, ranks))
                if ranks.is_first:
                    print("  ".join(_format(records[-1][name]) for name in COLUMNS), flush=True)
                    if options.json:
                        write_records(options.json, records)
    leave()


def configure(
    config: RunConfig, options: Options, compiled: bool, keep: Keep, ranks: Ranks
) -> RunConfig:
    """Return the recipe's configuration with the sizes of the benchmark."""
    kernels = KernelsConfig(attention=options.attention, mlp=options.mlp, keep_swiglu=keep)
    sharding = dataclasses.replace(
        config.sharding, precision=options.precision, zero_stage=options.zero_stage
    )
    return dataclasses.replace(
        config,
        rows_per_step=options.rows * ranks.world_size,
        micro_rows=options.micro_rows,
        compile=compiled,
        kernels=kernels,
        sharding=sharding,
    )


def measure(config: RunConfig, way: str, options: Options, ranks: Ranks) -> dict[str, Any]:
    """Train for some steps in one way; the result is the first rank's."""
    start_s = time.perf_counter()
    row_length, device = config.data.packing.row_length, ranks.device
    keep_h = keeps_h(config, parameter_sizes(config.model, WIDTH), ranks, options.micro_rows)
    attend = choose_attention(config, ranks)
    mlp = choose_mlp(config.kernels.mlp, device, DTYPES[config.sharding.precision])
    with torch.device(device):
        model = Transformer(config.model, WIDTH, NUM_IDS, attend, keep_h=keep_h, mlp=mlp)
    fill_normal(model)
    if config.compile:
        for layer in model.layers:
            layer.compile(dynamic=False)
    trainer = WAYS[way](model, config, ranks)
    batches = [random_batch(size, row_length, device) for size in sizes(config, ranks)]
    trainer.step(batches)
    wait(device)
    start_s = time.perf_counter() - start_s
    for _ in range(options.warmup):
        trainer.step(batches)
    wait(device)
    seconds = [timed(trainer, batches, device) for _ in range(options.steps)]
    trainer.close()
    median_s, low_s, high_s = quantiles(seconds)
    tokens_per_s = config.rows_per_step * row_length / median_s
    flops = flops_per_token(config.model, row_length, WIDTH)
    peak = peak_flops(device_name(device), config.sharding.precision)
    record = {
        "recipe": config.recipe,
        "way": way,
        "compile": config.compile,
        "keep_swiglu": keep_h,
        "precision": config.sharding.precision,
        "zero_stage": None if way == "ddp" else config.sharding.zero_stage,
        "attention": options.attention,
        "mlp": options.mlp,
        "ranks": ranks.world_size,
        "rows_per_step": config.rows_per_step,
        "micro_rows": config.micro_rows,
        "tokens_per_s": tokens_per_s,
        "step_ms": 1000 * median_s,
        "step_ms_p20_p80": [1000 * low_s, 1000 * high_s],
        "steps_ms": [1000 * s for s in seconds],
        "mfu_causal": peak and flops.causal * tokens_per_s / (peak * ranks.world_size),
        "mfu_full": peak and flops.full * tokens_per_s / (peak * ranks.world_size),
        "memory_gib": peak_memory_bytes(device) / 2**30,
        "start_s": start_s,
    }
    reset_peak_memory(device)
    return record


@torch.no_grad()
def fill_normal(model: Transformer) -> None:
    """Draw the weights on their device: new values every time, like those of a new run."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, model.config.init_std)
        else:
            parameter.fill_(1.0)


def sizes(config: RunConfig, ranks: Ranks) -> list[int]:
    """Return the rows of each micro-batch."""
    assert config.micro_rows != "auto"
    return micro_batches(config.rows_per_step, config.micro_rows, ranks.world_size)


def random_batch(num_rows: int, row_length: int, device: torch.device) -> DeviceBatch:
    """Draw a micro-batch."""
    shape = num_rows, row_length + 1
    rows = torch.randint(2048, shape, device=device)
    languages = torch.zeros(shape, dtype=torch.uint8, device=device)[:, 1:]
    return DeviceBatch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), languages, None)


def timed(trainer: Way, batches: Sequence[DeviceBatch], device: torch.device) -> float:
    """Return the seconds of a step."""
    start_s = time.perf_counter()
    trainer.step(batches)
    wait(device)
    return time.perf_counter() - start_s


def _format(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
