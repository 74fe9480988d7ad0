"""Whole training steps of a recipe beside what others would train it with, measured in turn.

    python bench/throughput.py
    python bench/throughput.py --recipes 1b-interleave 360m-interleave --peer-dir nanochat \
        --json bench/results/throughput.json --plot bench/results/throughput.png

Ways, all with the same shapes, tokens, precision, clip and settings of AdamW:

    tresse           ours: the real command, engine/train.py
    tresse-compiled  the same with --compile; not measured by default
    ddp              the control: torch's DistributedDataParallel on our model (bench/step.py)
    trainer          Hugging Face's Trainer on transformers' model, as SlamKit uses it
    transformers     transformers' model, torch.compile and fused AdamW in a plain loop
    liger            the same with Liger's kernels; needs a GPU

With `--peer-dir` also a checkout of karpathy/nanochat or tiagoCuervo/interleaved_lm. Every round
takes all ways in turn, each in fresh processes that warm up (and compile) and then take their share
of the steps. A result is the median over the steps of all rounds, with the 20th and the 80th
percentile and each round's median.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
import tyro

from tresse.bench.peers.checkout import recognise
from tresse.bench.peers.workload import Compile
from tresse.bench.records import write_records
from tresse.bench.throughput_report import draw, make_records, ratios, table
from tresse.bench.throughput_ways import Job, Sample, WayFailedError, measure

Way = Literal["tresse", "tresse-compiled", "ddp", "trainer", "transformers", "liger"]
PACKAGES = {
    "trainer": ("transformers", "accelerate"),
    "transformers": ("transformers",),
    "liger": ("transformers", "liger_kernel"),
    "interleaved_lm": ("transformers",),
}
"""Packages without which a way is left out."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure training steps of recipes: tokens per second, MFU, memory, beside other ways."""

    recipes: tuple[str, ...] = ()
    """Names of the recipes to measure; empty: the paper's two on a GPU, `tiny` on CPUs."""
    ways: tuple[Way, ...] = ("tresse", "ddp", "trainer", "transformers", "liger")
    """Ways to train."""
    peer_dir: tuple[str, ...] = ()
    """Checkouts of nanochat or interleaved_lm to measure too."""
    ranks: int = 1
    """Number of processes on this machine, one per GPU if it has any."""
    rows: int = 0
    """Rows per step on each rank; 0: the paper's 75 on a GPU, 8 on CPUs."""
    micro_rows: int = 0
    """Rows per forward and backward pass; 0: 25 on a GPU, 4 on CPUs. The ways that are not ours
    take fewer where memory is short, and the record says how many."""
    steps: int = 20
    """Number of steps that count, of each way and over all rounds."""
    rounds: int = 4
    """Number of rounds."""
    warmup: int = 3
    """Number of first steps of each round that do not count."""
    compile: bool = False
    """Compile each block of our model, in `tresse` and `ddp`."""
    peer_compile: Compile = "whole"
    """What `transformers` and `liger` compile; `layers` starts sooner than `whole`."""
    peer_attention: str = "sdpa"
    """transformers' attn_implementation, such as flash_attention_2 where it is installed."""
    minutes: float = 0
    """Begin no further round of a recipe that would end after its share of these; 0: no limit."""
    json: str = ""
    """File for the results; empty: none."""
    plot: str = ""
    """Image file for a bar chart; empty: none."""


def main(options: Options) -> int:
    """Measure every recipe, print a table and the ratios; returns 1 if a way failed."""
    options = complete(options)
    try:
        folders = {recognise(folder): folder for folder in options.peer_dir}
    except ValueError as error:
        raise SystemExit(str(error)) from None
    ways = present([*options.ways, *folders])
    records, failed, start_s = [], [], time.monotonic()
    for number, recipe in enumerate(options.recipes, start=1):
        ends_s = start_s + 60 * options.minutes * number / len(options.recipes)
        rounds = Rounds(first_job(recipe, options, folders), ways, options, records)
        rounds.run(ends_s if options.minutes else float("inf"))
        records, failed = rounds.records(), failed + rounds.failed
    print(table(records))
    print("\n".join(ratios(records)), flush=True)
    if options.plot and find_spec("matplotlib") is None:
        print("no chart: matplotlib is not installed")
    elif options.plot:
        draw(records, options.plot)
    return 1 if failed else 0


def complete(options: Options) -> Options:
    """Fill in what depends on the machine."""
    on_gpu = torch.cuda.is_available()
    recipes = ("360m-interleave", "1b-interleave") if on_gpu else ("tiny",)
    return dataclasses.replace(
        options,
        recipes=options.recipes or recipes,
        rows=options.rows or (75 if on_gpu else 8),
        micro_rows=options.micro_rows or (25 if on_gpu else 4),
        rounds=min(options.rounds, options.steps),
    )


def present(ways: Sequence[str]) -> list[str]:
    """Return the ways that this machine can take; a line says why another is left out."""
    taken = []
    for way in ways:
        absent = [name for name in PACKAGES.get(way, ()) if find_spec(name) is None]
        if way == "liger" and not torch.cuda.is_available():
            print("liger is left out: Liger's kernels need a GPU", flush=True)
        elif absent:
            print(f"{way} is left out: not installed: {', '.join(absent)}", flush=True)
        else:
            taken.append(way)
    return taken


def first_job(recipe: str, options: Options, folders: dict[str, str]) -> Job:
    """Return what all ways do in the first round."""
    return Job(
        recipe=recipe,
        ranks=options.ranks,
        rows=options.rows,
        micro_rows=options.micro_rows,
        steps=options.steps,
        warmup=options.warmup,
        compile=options.compile,
        peer_compile=options.peer_compile,
        peer_attention=options.peer_attention,
        folders=folders,
    )


class Rounds:
    """The rounds of a recipe: samples of every way, written after each one."""

    def __init__(self, job: Job, ways: Sequence[str], options: Options, before: list) -> None:
        self.job, self.options, self.before = job, options, before
        self.samples: dict[str, list[Sample]] = {way: [] for way in ways}
        self.micro_rows = dict.fromkeys(ways, job.micro_rows)
        self.failed: list[str] = []

    def run(self, ends_s: float) -> None:
        """Take all rounds, or as many as end in time; the first one always."""
        share, rest = divmod(self.options.steps, self.options.rounds)
        for number in range(self.options.rounds):
            start_s = time.monotonic()
            for way in [way for way in self.samples if way not in self.failed]:
                self.take(way, number, share + (number < rest))
            if 2 * time.monotonic() - start_s > ends_s and number + 1 < self.options.rounds:
                print(f"{self.job.recipe}: no time for more than {number + 1} rounds", flush=True)
                return

    def take(self, way: str, number: int, steps: int) -> None:
        """Let a way train its steps of a round."""
        job = dataclasses.replace(self.job, steps=steps, micro_rows=self.micro_rows[way])
        try:
            with tempfile.TemporaryDirectory() as folder:
                sample = measure(way, job, Path(folder))
        except WayFailedError as error:
            if way == "tresse":  # nothing to compare with
                raise
            print(f"{way} failed, and takes no further part:\n{error}", flush=True)
            self.failed.append(way)
            return
        self.micro_rows[way] = sample["micro_rows"]
        self.samples[way].append(sample)
        times = " ".join(f"{ms:,.0f}" for ms in sample["steps_ms"])
        print(f"{job.recipe} round {number + 1} {way}: {times} ms", flush=True)
        if self.options.json:
            write_records(self.options.json, self.records())

    def records(self) -> list:
        """Return the records so far, those of earlier recipes included."""
        return self.before + make_records(self.job, self.samples)


if __name__ == "__main__":
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name())
    sys.exit(main(tyro.cli(Options, description=__doc__)))
