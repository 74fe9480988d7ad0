"""Tokens per second, MFU and peak memory of a recipe's step, through the real command.

Writes random units as a corpus, starts torchrun on engine/train.py with the recipe cut to one stage
of `--steps` steps, and reads its metrics.jsonl; the first steps warm up and are left out.

    python bench/throughput.py --recipes 360m-interleave 1b-interleave --json bench/results/throughput.json
"""  # noqa: E501

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from tresse.bench.rows import quantiles, write_rows
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.metrics import read_metrics
from tresse.engine.run.config import RunConfig
from tresse.engine.run.recipes import RECIPES
from tresse.engine.run.run_folder import Record, write_config

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("recipe", "ranks", "rows_per_step", "micro_rows", "tokens_per_s", "step_ms")
COLUMNS += ("mfu_causal", "mfu_full", "memory_gib", "data_wait_ms")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the step of recipes."""

    recipes: tuple[str, ...] = ("360m-interleave", "1b-interleave")
    """Which recipes."""
    ranks: int = 1
    """Processes on this machine, one per GPU where there are any."""
    rows: int = 75
    """Rows of a step on each rank; the paper has 75 of 2,048 tokens."""
    micro_rows: int = 25
    """Rows of a forward and backward pass."""
    steps: int = 20
    """Steps to take."""
    warmup: int = 5
    """Steps left out at the beginning."""
    compile: bool = True
    """Compile each block."""
    json: str = ""
    """File for the rows."""


def main(options: Options) -> None:
    """Measure every recipe and print a table."""
    rows = []
    print("  ".join(COLUMNS))
    for recipe in options.recipes:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(recipe, options, Path(folder)))
        print("  ".join(_format(rows[-1][column]) for column in COLUMNS), flush=True)
        if options.json:
            write_rows(options.json, rows)


def measure(recipe: str, options: Options, folder: Path) -> dict[str, Any]:
    """Run a recipe for a few steps and return the medians of what it logged."""
    run = cut(RECIPES[recipe](), options, folder)
    write_units(folder / "corpus", run.stages[0].tokens)
    write_config(run)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.ranks}"]
    script = str(ROOT / "engine" / "train.py")
    command = [sys.executable, *launcher, script, "--run-dir", run.run_dir]
    logged = run_steps(command, Path(run.run_dir), options.steps)[options.warmup :]
    seconds, low, high = quantiles([row["step_s"] for row in logged])
    tokens = run.rows_per_step * run.data.packing.row_length
    return {
        "recipe": recipe,
        "ranks": options.ranks,
        "rows_per_step": run.rows_per_step,
        "micro_rows": run.micro_rows,
        "compile": run.compile,
        "precision": run.sharding.precision,
        "tokens_per_s": tokens / seconds,
        "step_ms": 1000 * seconds,
        "step_ms_p20_p80": [1000 * low, 1000 * high],
        "mfu_causal": _median(logged, "mfu_causal"),
        "mfu_full": _median(logged, "mfu_full"),
        "memory_gib": logged[-1]["memory_gib"],
        "data_wait_ms": 1000 * quantiles([row["data_wait_s"] for row in logged])[0],
    }


def run_steps(command: list[str], run_dir: Path, num_steps: int) -> list[Record]:
    """Run a training and return what it logged; it ends there and writes no checkpoint.

    That of 1B parameters has 12 GB, which can take longer than the steps.
    """
    at_once = os.environ | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "1"}  # the launcher would wait 30 s
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=at_once) as process:
        logged: list[Record] = []
        while len(logged) < num_steps and process.poll() is None:
            time.sleep(0.1)
            logged = [row for row in read_metrics(run_dir) if "loss" in row]
        process.terminate()
    if len(logged) < num_steps:
        raise subprocess.CalledProcessError(process.returncode, command)
    return logged


def cut(run: RunConfig, options: Options, folder: Path) -> RunConfig:
    """Keep the first stage of a recipe for a few steps, on random units."""
    rows = options.rows * options.ranks
    tokens = options.steps * rows * run.data.packing.row_length
    data = dataclasses.replace(run.data, corpus=str(folder / "corpus"), story_world=None)
    return dataclasses.replace(
        run,
        run_dir=str(folder / "run"),
        data=data,
        stages=(dataclasses.replace(run.stages[0], tokens=tokens),),
        rows_per_step=rows,
        micro_rows=options.micro_rows,
        compile=options.compile,
    )


def write_units(out: Path, tokens: int) -> None:
    """Write at least `tokens` random units as stories of 450 in sentences of 45."""
    rng = np.random.default_rng(0)
    num_documents = tokens // 450 + 2
    documents = (
        Document(key=f"{i:08d}", language="en", sentences=list(rng.integers(0, 2048, (10, 45))))
        for i in range(num_documents)
    )
    write_corpus(out, documents, Tokenizer("random", "", "25/2", 2048))


def _median(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return quantiles(values)[0] if values else None


def _format(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name())
    main(tyro.cli(Options))
