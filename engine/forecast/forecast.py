"""A run, forecast: does it fit, how long does it take, what does it write."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tresse.data.packing.packer import Plan
from tresse.engine.forecast.communication import collectives, floor_seconds
from tresse.engine.forecast.flops import Flops, flops_per_token, peak_flops
from tresse.engine.forecast.gpus import Gpu
from tresse.engine.forecast.memory import (
    SHARE,
    Memory,
    largest_micro_rows,
    micro_rows_of,
    step_memory,
)
from tresse.engine.forecast.schedule import StageForecast, forecast_stages, vocabulary
from tresse.engine.forecast.step_time import StepShape, Work, step_seconds, step_work
from tresse.engine.model import parameter_sizes
from tresse.engine.run.config import RunConfig

BYTES_SAVED = 12
"""Bytes of a parameter in a checkpoint: weight and two moments in fp32."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A run on a number of GPUs at a ZeRO level."""

    num_gpus: int
    zero_stage: int
    rows_per_step: int
    """Rows of a step: the recipe's, or the next multiple of the number of GPUs."""
    micro_rows: int
    """Rows of the largest micro-batch: the recipe's, or as many as fit; 1 if not even one does."""
    largest: int
    """The most rows that fit; 0 if not even one does."""
    keep_h: bool
    memory: Memory
    """Of a step with these rows, or with one."""
    fits: bool
    work: dict[str, Work]
    """Work of each part of a step; empty if it does not fit."""
    seconds: dict[str, float]
    """Predicted seconds of each part of a step; empty if it does not fit."""
    floors: dict[str, float]
    """Least seconds of each part; empty if it does not fit."""
    tokens_per_s: float
    """Predicted tokens per second of all GPUs."""
    mfu: float | None
    """Model FLOPs utilisation with the causal count; None if no peak is known."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A run, forecast for several numbers of GPUs."""

    config: RunConfig
    gpu: Gpu
    sizes: list[int]
    """Number of elements of each parameter."""
    flops: Flops
    layouts: list[Layout]
    stages: list[StageForecast]
    """What each stage trains on, in steps of the first layout."""
    num_checkpoints: int
    """Checkpoints that the run's folder holds at most."""

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, padding included."""
        return sum(self.sizes)

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint."""
        return BYTES_SAVED * self.num_parameters

    @property
    def num_tokens(self) -> int:
        """Targets of all stages."""
        return round(sum(sum(stage.tokens.values()) for stage in self.stages))

    def days(self, tokens_per_s: float) -> float:
        """Return the days of training at a rate of all GPUs, without scoring."""
        return self.num_tokens / tokens_per_s / 86400


def forecast_run(
    config: RunConfig,
    gpu: Gpu,
    numbers_of_gpus: Sequence[int],
    levels: Sequence[int],
    plans: dict[str, Plan],
) -> Forecast:
    """Forecast a run on each number of GPUs at each ZeRO level.

    plans: the rows of each stage, or none without a corpus.
    """
    ids = vocabulary(config, plans)
    sizes = parameter_sizes(config.model, ids.width)
    layouts = [
        forecast_layout(_at_level(config, level), gpu, number, sizes, ids.width)
        for number in numbers_of_gpus
        for level in levels
    ]
    stages = forecast_stages(config, layouts[0].rows_per_step, plans)
    return Forecast(
        config=config,
        gpu=gpu,
        sizes=sizes,
        flops=flops_per_token(config.model, config.data.packing.row_length, ids.width),
        layouts=layouts,
        stages=stages,
        num_checkpoints=sum(_checkpoints(config, stage.num_steps) for stage in stages) + 1,
    )


def memory_by_rows(forecast: Forecast, layout: Layout) -> dict[int, Memory]:
    """Return the memory of a layout with 1, 2, 4 and more rows in a micro-batch, as many as fit."""
    config = replace(
        _at_level(forecast.config, layout.zero_stage), rows_per_step=layout.rows_per_step
    )
    share = layout.rows_per_step // layout.num_gpus
    counts = sorted({min(2**k, share) for k in range(share.bit_length() + 1)} | {layout.micro_rows})
    return {
        rows: step_memory(config, forecast.sizes, layout.num_gpus, rows, keep_h=layout.keep_h)
        for rows in counts
    }


def _at_level(config: RunConfig, level: int) -> RunConfig:
    return replace(config, sharding=replace(config.sharding, zero_stage=level))


def forecast_layout(
    config: RunConfig, gpu: Gpu, num_gpus: int, sizes: Sequence[int], vocab_width: int
) -> Layout:
    """Forecast a step on a number of GPUs; sizes: number of elements of each parameter."""
    rows_per_step = math.ceil(config.rows_per_step / num_gpus) * num_gpus
    config = replace(config, rows_per_step=rows_per_step)
    usable = SHARE * gpu.memory_bytes
    largest = largest_micro_rows(config, sizes, num_gpus, usable)
    micro_rows = micro_rows_of(config, max(largest, 1), num_gpus)

    def memory_of(keep_h: bool) -> Memory:
        return step_memory(config, sizes, num_gpus, micro_rows, keep_h=keep_h)

    keep = config.kernels.keep_swiglu
    keep_h = keep == "yes" or (keep == "auto" and memory_of(True).device <= usable)
    memory = memory_of(keep_h)
    layout = Layout(
        num_gpus,
        config.sharding.zero_stage,
        rows_per_step,
        micro_rows,
        largest,
        keep_h,
        memory,
        fits=memory.device <= usable,
        work={},
        seconds={},
        floors={},
        tokens_per_s=0.0,
        mfu=None,
    )
    return _with_times(layout, config, gpu, sum(sizes), vocab_width) if layout.fits else layout


def _with_times(
    layout: Layout, config: RunConfig, gpu: Gpu, num_parameters: int, vocab_width: int
) -> Layout:
    shape = StepShape.of(
        config,
        layout.num_gpus,
        layout.micro_rows,
        num_parameters=num_parameters,
        vocab_width=vocab_width,
        keep_h=layout.keep_h,
    )
    work = step_work(config, shape)
    seconds = step_seconds(config, shape, gpu, work)
    best = gpu.fp32_flops if config.sharding.precision == "fp32" else gpu.best_flops
    floors = {name: part.floor_s(best, gpu.copy_bytes) for name, part in work.items()}
    links = collectives(config, num_parameters, shape.world_size, shape.num_micro)
    floors["communication"] = floor_seconds(links, gpu, shape.world_size)
    rate = shape.tokens / sum(seconds.values())
    peak = peak_flops(gpu.name, config.sharding.precision)
    causal = flops_per_token(config.model, config.data.packing.row_length, vocab_width).causal
    return replace(
        layout,
        work=work,
        seconds=seconds,
        floors=floors,
        tokens_per_s=rate * layout.num_gpus,
        mfu=peak and causal * rate / peak,
    )


def _checkpoints(config: RunConfig, num_steps: int) -> int:
    """Return how many checkpoints of a stage are kept at most."""
    settings = config.checkpoint
    milestones = len([step for step in settings.at if step < num_steps])
    milestones += num_steps // settings.keep_every if settings.keep_every else 0
    written = math.ceil(num_steps / settings.every) + milestones
    return min(settings.keep + milestones, written)
