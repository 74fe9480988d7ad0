"""One way's part of a round: fresh processes that train, and the time of each of their steps.

Ours is the real command, engine/train.py, on a corpus of random units; its times come from its
metrics.jsonl. The control is bench/step.py. The other ways are in bench/peers/.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tresse.bench.peers.workload import Compile, Workload
from tresse.data.worlds.random_units import write_random_units
from tresse.engine.run.config import CheckpointConfig, RunConfig
from tresse.engine.run.logbook import read_metrics
from tresse.engine.run.recipes import RECIPES
from tresse.engine.run.run_folder import write_config
from tresse.engine.run.typed_json import Record

ROOT = Path(__file__).resolve().parents[1]
LOG_LINES = 15  # of a way that failed
Sample = dict[str, Any]
"""`steps_ms`, `memory_gib`, `loss`, `micro_rows`, and what a way says of itself."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all ways do in a round."""

    recipe: str
    ranks: int
    rows: int
    micro_rows: int
    steps: int
    warmup: int
    compile: bool
    peer_compile: Compile
    peer_attention: str
    folders: dict[str, str]
    """The checkout of each way that is one."""

    @property
    def config(self) -> RunConfig:
        """The recipe."""
        return RECIPES[self.recipe]()


class WayFailedError(Exception):
    """A way ended with an error; the message has the last lines of its log."""


def measure(way: str, job: Job, folder: Path) -> Sample:
    """Train in a way in new processes; `folder` is empty and theirs."""
    if way == "tresse":
        return measure_ours(job, folder)
    if way == "tresse-compiled":
        return measure_ours(dataclasses.replace(job, compile=True), folder)
    if way == "ddp":
        return measure_control(job, folder)
    return measure_peer(way, job, folder)


def measure_ours(job: Job, folder: Path) -> Sample:
    """Train with the real command; it is stopped before it writes a checkpoint."""
    config = cut(job, folder)
    write_random_units(folder / "corpus", ["en"], config.stages[0].tokens)
    write_config(config)
    command = [*torchrun("engine/train.py", job), "--run-dir", config.run_dir]
    logged = run_steps(command, Path(config.run_dir), job, folder)[job.warmup :]
    return {
        "steps_ms": [1000 * record["step_s"] for record in logged],
        "memory_gib": logged[-1]["memory_gib"],
        "loss": logged[-1]["loss"],
        "micro_rows": job.micro_rows,
        "data_wait_ms": 1000 * float(np.median([record["data_wait_s"] for record in logged])),
        "compile": "layers" if job.compile else "none",
    }


def measure_control(job: Job, folder: Path) -> Sample:
    """Let plain DDP train the same model."""
    out = folder / "step.json"
    flags = {
        "recipes": job.recipe,
        "ways": "ddp",
        "rows": job.rows,
        "micro-rows": job.micro_rows,
        "steps": job.steps,
        "warmup": job.warmup - 1,  # it takes one more
        "compile": job.compile,
        "precision": job.config.sharding.precision,
        "json": out,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    run_to_end([*torchrun("bench/step.py", job), *words], job, folder)
    record = json.loads(out.read_text())[0]
    kept = {name: record[name] for name in ("steps_ms", "memory_gib", "micro_rows")}
    return kept | {"compile": "layers" if job.compile else "none"}


def measure_peer(way: str, job: Job, folder: Path) -> Sample:
    """Let a peer train; where memory is short, with fewer rows at a time and more micro-batches."""
    micro_rows = next(n for n in range(job.micro_rows, 0, -1) if job.rows % n == 0)
    out = folder / f"{way}-{micro_rows}.json"
    workload = Workload(
        way=way,  # type: ignore[arg-type]
        recipe=job.recipe,
        rows=job.rows,
        micro_rows=micro_rows,
        steps=job.steps,
        warmup=job.warmup,
        precision=job.config.sharding.precision,
        compile=job.peer_compile,
        attention=job.peer_attention,
        folder=job.folders.get(way, ""),
        out=str(out),
    )
    try:
        run_to_end([*torchrun("bench/peers/run.py", job), *workload.flags()], job, folder)
    except WayFailedError:
        short = out.exists() and "out_of_memory" in json.loads(out.read_text())
        if not short or micro_rows == 1:
            raise
        print(f"{way}: {micro_rows} rows at a time need more memory; with fewer", flush=True)
        return measure_peer(way, dataclasses.replace(job, micro_rows=micro_rows - 1), folder)
    compiled = "none" if way == "trainer" else job.peer_compile
    return json.loads(out.read_text()) | {"micro_rows": micro_rows, "compile": compiled}


def torchrun(script: str, job: Job) -> list[str]:
    """Return the command that starts a script on every rank."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.ranks}"]
    return [sys.executable, *launcher, str(ROOT / script)]


def environment(job: Job) -> dict[str, str]:
    """Return the variables of every way: as many threads, the same allocator, no network."""
    threads = max(1, len(os.sched_getaffinity(0)) // job.ranks)
    defaults = {
        "OMP_NUM_THREADS": str(threads),
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "1",  # the launcher would wait 30 s
    }
    return defaults | os.environ


def run_to_end(command: Sequence[str], job: Job, folder: Path) -> None:
    """Run a command; WayFailedError shows the end of its log."""
    log = folder / "log"
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=file, env=environment(job))
    if done.returncode:
        raise WayFailedError(end_of(log))


def run_steps(command: Sequence[str], run_dir: Path, job: Job, folder: Path) -> list[Record]:
    """Train for the steps of a round and return their metrics.

    The process is stopped before it writes a checkpoint: 12 GB for 1B parameters can take longer
    than the steps.
    """
    num_steps, log = job.warmup + job.steps, folder / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env=environment(job)) as process,
    ):
        logged: list[Record] = []
        while len(logged) < num_steps and process.poll() is None:
            time.sleep(0.1)
            logged = [record for record in read_metrics(run_dir) if "loss" in record]
        process.terminate()
    if len(logged) < num_steps:
        raise WayFailedError(end_of(log))
    return logged


def end_of(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def cut(job: Job, folder: Path) -> RunConfig:
    """Return the recipe cut to the steps of a round in its first stage, on random units."""
    config, rows = job.config, job.rows * job.ranks
    num_steps = job.warmup + job.steps
    tokens = num_steps * rows * config.data.packing.row_length
    data = dataclasses.replace(config.data, corpus=str(folder / "corpus"), story_world=None)
    return dataclasses.replace(
        config,
        run_dir=str(folder / "run"),
        data=data,
        stages=(dataclasses.replace(config.stages[0], tokens=tokens),),
        rows_per_step=rows,
        micro_rows=job.micro_rows,
        compile=job.compile,
        checkpoint=CheckpointConfig(every=num_steps),  # after all of them
    )
