"""Trace a few steps of a recipe, and say where their time goes.

    torchrun --nproc-per-node 4 engine/profiling/profile_steps.py 1b-interleave --data.corpus CORPUS

`tresse profile` starts it. The steps are those of engine/train.py, without log and checkpoints. A
recipe without a corpus reads random units.
"""

import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is imported: it would print marks

import torch
import tyro
from torch.profiler import ProfilerActivity, profile

from tresse.data.durable import check_vacant, write_text
from tresse.data.worlds.random_units import write_random_units
from tresse.engine.attention import choose_attention
from tresse.engine.batches import to_device
from tresse.engine.device import device_name, peak_memory_bytes, reset_peak_memory, wait
from tresse.engine.forecast.memory import step_memory
from tresse.engine.forecast.step_time import StepShape, step_work
from tresse.engine.model import DTYPES, parameter_sizes
from tresse.engine.profiling.attribution import PartTimes, part_times
from tresse.engine.profiling.labels import labelled, labels
from tresse.engine.profiling.machine import Rates, measure_rates
from tresse.engine.profiling.table import Profile, format_profile
from tresse.engine.run.command_line import parse_config, usage
from tresse.engine.run.config import RunConfig
from tresse.engine.run.corpora import open_corpora
from tresse.engine.run.ranks import Ranks, join, leave
from tresse.engine.run.typed_json import to_json
from tresse.engine.stage import Stage, build_stage, plan_stages
from tresse.engine.step import RunningStep, train_step
from tresse.kernels.mlp_backends import choose_mlp

RANDOM_STEPS = 2
"""Steps that a corpus of random units fills before it repeats."""
MEMORY_EVENTS = 100_000
"""Allocations that a memory snapshot holds at most."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trace a few steps of a recipe: a timeline, a memory snapshot, and a table of the parts."""

    out: Path | None = None
    """Folder to write; it must not exist, or be empty. The default is profiles/RECIPE-TIME."""
    steps: int = 3
    """Number of steps that are traced."""
    warmup: int = 3
    """Number of steps before them."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 1:
            raise ValueError(f"steps={self.steps}, warmup={self.warmup}; expected 1 or more")


def parse(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Return the options of a profile, and the other arguments, which are the main job's."""
    return tyro.cli(
        Options,
        args=arguments,
        prog="tresse profile [OPTION OF TORCHRUN ...] [RECIPE] [--field value ...]",
        description=f"{Options.__doc__}\n\nAll else is as for `tresse train`:\n\n{usage()}",
        return_unknown_args=True,
    )


def default_out(config: RunConfig) -> Path:
    """Return a folder named after the recipe and the time."""
    return Path("profiles") / f"{config.recipe}-{datetime.now():%Y%m%d-%H%M%S}"


def main() -> None:
    """Profile on every rank; the first one writes and prints."""
    options, others = parse(sys.argv[1:])
    config, ranks = parse_config(others), join()
    out = options.out or default_out(config)
    try:
        if ranks.is_first:
            check_vacant(out)
        out = ranks.from_first(out)
        with random_corpus(config, ranks) as corpus:
            found = run(cut(config, options, corpus, out), options, ranks, out)
    except (ValueError, OSError) as error:
        sys.exit(f"error on rank {ranks.rank}: {error}" if ranks.rank else f"error: {error}")
    if ranks.is_first:
        write_text(out / "profile.json", json.dumps(to_json(found), indent=2) + "\n")
        print(f"\n{format_profile(found)}\n")
        snapshot = ", memory.pickle (pytorch.org/memory_viz)" if found.device != "cpu" else ""
        print(f"wrote {out}: profile.json, trace-*.json.gz (ui.perfetto.dev){snapshot}")
    leave()


@contextmanager
def random_corpus(config: RunConfig, ranks: Ranks) -> Iterator[tuple[str, ...]]:
    """Write random units for a recipe without a corpus, and remove them at the end."""
    if config.data.corpus or config.data.story_world:
        yield config.data.corpus
        return
    languages = {x for stream in config.stages[0].streams for x in stream.languages}
    tokens = RANDOM_STEPS * config.rows_per_step * config.data.packing.row_length
    with tempfile.TemporaryDirectory(prefix="tresse-profile-") as folder:
        path = ranks.from_first(Path(folder) / "corpus")
        if ranks.is_first:
            write_random_units(path, sorted(languages), tokens)
        ranks.barrier()
        yield (str(path),)
        ranks.barrier()


def cut(config: RunConfig, options: Options, corpus: tuple[str, ...], out: Path) -> RunConfig:
    """Return the configuration with its first stage alone, as long as the profile."""
    steps = options.warmup + options.steps + 1  # the last one for the snapshot of memory
    tokens = steps * config.rows_per_step * config.data.packing.row_length
    stage = replace(config.stages[0], tokens=tokens, init="scratch")
    data = replace(config.data, corpus=corpus, valid="", cloze="")
    return replace(config, run_dir=str(out), stages=(stage,), data=data, init="")


def run(config: RunConfig, options: Options, ranks: Ranks, out: Path) -> Profile:
    """Take the steps, and return where the time of the traced ones went on this rank."""
    dtype = DTYPES[config.sharding.precision]
    rates = measure_rates(ranks.device, dtype)
    corpora = open_corpora(config, ranks)
    (plan,) = plan_stages(config, corpora, ranks).values()
    attend = labelled("attention", choose_attention(config, ranks))
    mlp = choose_mlp(config.kernels.mlp, ranks.device, dtype)
    mlp = mlp and labelled("swiglu", mlp)
    with labels():
        stage = build_stage(config, config.stages[0], plan, corpora, ranks, attend, mlp, own=None)
        steps = take_steps(stage)
        for _ in range(options.warmup):
            next(steps)
        wait(ranks.device)
        reset_peak_memory(ranks.device)
        with traced(ranks, out) as tracer:
            start_s = time.perf_counter()
            waits = [next(steps) for _ in range(options.steps)]
            wait(ranks.device)
            seconds = (time.perf_counter() - start_s) / options.steps
        peak_bytes = peak_memory_bytes(ranks.device)
        with memory_recorded(ranks, out):
            next(steps)
            wait(ranks.device)
    times = part_times(tracer.events()).per_step(options.steps)
    return summarise(stage, rates, times, seconds, sum(waits) / options.steps, peak_bytes)


def take_steps(stage: Stage) -> Iterator[float]:
    """Take steps as the main job does; yield the seconds that each waited for its rows."""
    config, running = stage.config, deque[RunningStep]()
    masked, num_languages = config.data.packing.mask_documents, len(stage.plan.languages)
    loader = iter(stage.loader(on_device=False))
    while True:
        asked_s = time.perf_counter()
        packed = next(loader)
        waited_s = time.perf_counter() - asked_s
        batches = [to_device(each, stage.ranks.device, masked, None) for each in packed]
        running.append(
            train_step(stage.engine, batches, num_languages, config.optim.lr, stage.ranks)
        )
        while len(running) > stage.steps_ahead:
            running.popleft().result()
        yield waited_s


@contextmanager
def traced(ranks: Ranks, out: Path) -> Iterator[Any]:
    """Trace what runs inside, and write the timeline of every rank."""
    on_gpu = ranks.device.type == "cuda"
    out.mkdir(parents=True, exist_ok=True)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as tracer:
        yield tracer
    tracer.export_chrome_trace(str(out / f"trace-{ranks.rank}.json.gz"))


@contextmanager
def memory_recorded(ranks: Ranks, out: Path) -> Iterator[None]:
    """Record what allocates the first GPU's memory inside, and write a snapshot."""
    records = ranks.device.type == "cuda" and ranks.is_first
    if records:
        torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS, stacks="python")
    yield
    if records:
        torch.cuda.memory._dump_snapshot(str(out / "memory.pickle"))
        torch.cuda.memory._record_memory_history(enabled=None)


def summarise(
    stage: Stage,
    rates: Rates,
    times: PartTimes,
    step_s: float,
    waited_s: float,
    peak_bytes: int,
) -> Profile:
    """Set what was measured of a step beside its floors and its predicted memory."""
    config, ranks, width = stage.config, stage.ranks, stage.plan.vocabulary.width
    sizes = parameter_sizes(config.model, width)
    shape = StepShape.of(
        config,
        ranks.world_size,
        stage.micro_rows,
        num_parameters=sum(sizes),
        vocab_width=width,
        keep_h=stage.keeps_h,
    )
    memory = step_memory(config, sizes, ranks.world_size, stage.micro_rows, keep_h=stage.keeps_h)
    return Profile(
        recipe=config.recipe,
        device=device_name(ranks.device),
        num_ranks=ranks.world_size,
        tokens=shape.tokens,
        num_micro=shape.num_micro,
        step_s=step_s,
        waited_s=waited_s,
        busy_s=times.busy,
        hidden_s=times.hidden_communication,
        parts=times.parts,
        floors={part: each.floor_s(*rates) for part, each in step_work(config, shape).items()},
        matmul_flops=rates.matmul_flops,
        copy_bytes=rates.copy_bytes,
        peak_bytes=peak_bytes,
        predicted_bytes=memory.device,
    )


if __name__ == "__main__":
    main()
