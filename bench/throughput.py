"""Tokens per second, MFU and peak memory of a recipe's step, beside plain DDP on the same model.

Random units are written as a corpus. torchrun trains the recipe, cut to one stage of `--steps`
steps, with engine/train.py. The results come from its metrics.jsonl, without the first steps. Then
the control, torch's DistributedDataParallel with fp32 weights, takes as many steps (bench/step.py).

    python bench/throughput.py --recipes 360m-interleave 1b-interleave --json bench/results/throughput.json
"""  # noqa: E501

import dataclasses
import json
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

from tresse.bench.records import quantiles, write_records
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.run.config import RunConfig
from tresse.engine.run.logbook import read_metrics
from tresse.engine.run.recipes import RECIPES
from tresse.engine.run.run_folder import write_config
from tresse.engine.run.typed_json import Record

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("recipe", "way", "ranks", "rows_per_step", "micro_rows", "tokens_per_s", "step_ms")
COLUMNS += ("mfu_causal", "mfu_full", "memory_gib", "data_wait_ms")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the training step of recipes: tokens per second, MFU, memory."""

    recipes: tuple[str, ...] = ("360m-interleave", "1b-interleave")
    """Names of the recipes to measure."""
    ranks: int = 1
    """Number of processes on this machine, one per GPU if it has any."""
    rows: int = 75
    """Rows per step on each rank; the paper has 75 of 2,048 tokens."""
    micro_rows: int = 25
    """Rows per forward and backward pass."""
    steps: int = 20
    """Number of steps, warm-up included."""
    warmup: int = 5
    """Number of first steps that do not count."""
    compile: bool = False
    """Compile each block (torch.compile)."""
    control: bool = True
    """Measure plain DDP too."""
    json: str = ""
    """File for the results; empty: none."""


def main(options: Options) -> None:
    """Measure every recipe and print a table."""
    records = []
    print("  ".join(COLUMNS))
    for recipe in options.recipes:
        for measured in (measure, measure_control)[: 1 + options.control]:
            with tempfile.TemporaryDirectory() as folder:
                records.append(measured(recipe, options, Path(folder)))
            print("  ".join(_format(records[-1].get(name)) for name in COLUMNS), flush=True)
            if options.json:
                write_records(options.json, records)
        if options.control:
            ours, control = (record["tokens_per_s"] for record in records[-2:])
            print(f"{recipe}: {ours / control:.3f} times the tokens per second of plain DDP")


def measure(recipe: str, options: Options, folder: Path) -> dict[str, Any]:
    """Run a recipe for a few steps and return the medians of its log."""
    config = cut(RECIPES[recipe](), options, folder)
    write_units(folder / "corpus", config.stages[0].tokens)
    write_config(config)
    command = [*torchrun("engine/train.py", options), "--run-dir", config.run_dir]
    logged = run_steps(command, Path(config.run_dir), options.steps)[options.warmup :]
    seconds, low, high = quantiles([record["step_s"] for record in logged])
    tokens = config.rows_per_step * config.data.packing.row_length
    return {
        "recipe": recipe,
        "way": "tresse",
        "ranks": options.ranks,
        "rows_per_step": config.rows_per_step,
        "micro_rows": config.micro_rows,
        "compile": config.compile,
        "precision": config.sharding.precision,
        "tokens_per_s": tokens / seconds,
        "step_ms": 1000 * seconds,
        "step_ms_p20_p80": [1000 * low, 1000 * high],
        "mfu_causal": _median(logged, "mfu_causal"),
        "mfu_full": _median(logged, "mfu_full"),
        "memory_gib": logged[-1]["memory_gib"],
        "data_wait_ms": 1000 * quantiles([record["data_wait_s"] for record in logged])[0],
    }


def measure_control(recipe: str, options: Options, folder: Path) -> dict[str, Any]:
    """Let plain DDP take the steps that count."""
    out = folder / "step.json"
    flags = {
        "recipes": recipe,
        "ways": "ddp",
        "rows": options.rows,
        "micro-rows": options.micro_rows,
        "steps": options.steps - options.warmup,
        "warmup": options.warmup - 1,
        "compile": options.compile,
        "precision": RECIPES[recipe]().sharding.precision,
        "json": out,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    subprocess.run(
        [*torchrun("bench/step.py", options), *words], check=True, stdout=subprocess.DEVNULL
    )
    return json.loads(out.read_text())[0]


def torchrun(script: str, options: Options) -> list[str]:
    """Return the command that starts a script on every rank."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.ranks}"]
    return [sys.executable, *launcher, str(ROOT / script)]


def run_steps(command: list[str], run_dir: Path, num_steps: int) -> list[Record]:
    """Train for `num_steps` steps and return their metrics.

    The process is stopped before it writes a checkpoint: 12 GB for 1B parameters can take longer
    than the steps.
    """
    at_once = os.environ | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "1"}  # the launcher would wait 30 s
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=at_once) as process:
        logged: list[Record] = []
        while len(logged) < num_steps and process.poll() is None:
            time.sleep(0.1)
            logged = [record for record in read_metrics(run_dir) if "loss" in record]
        process.terminate()
    if len(logged) < num_steps:
        raise subprocess.CalledProcessError(process.returncode, command)
    return logged


def cut(config: RunConfig, options: Options, folder: Path) -> RunConfig:
    """Return the config cut to a few steps of its first stage, on random units."""
    rows = options.rows * options.ranks
    tokens = options.steps * rows * config.data.packing.row_length
    data = dataclasses.replace(config.data, corpus=str(folder / "corpus"), story_world=None)
    return dataclasses.replace(
        config,
        run_dir=str(folder / "run"),
        data=data,
        stages=(dataclasses.replace(config.stages[0], tokens=tokens),),
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


def _median(records: list[dict[str, Any]], name: str) -> float | None:
    values = [record[name] for record in records if name in record]
    return quantiles(values)[0] if values else None


def _format(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name())
    main(tyro.cli(Options))
