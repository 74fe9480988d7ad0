"""A run of the three stages that takes seconds, for the tests that need a whole one."""

import subprocess
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.processes import TIMEOUT_S, end
from tresse.engine.checkpoint.checkpoint import newest
from tresse.engine.run.logbook import read_metrics
from tresse.engine.run.typed_json import Record

TRAIN = "engine/train.py"
KILLED = "tests/support/workers/killed.py"
STAGES = {"en": 8, "interleave": 4, "en-fr": 4}
"""Steps of 12 rows of 64 tokens in each stage."""


def arguments(world: Path, run_dir: Path) -> list[str]:
    """The three stages at a size that takes seconds."""
    flags = {
        "run-dir": run_dir,
        "data.corpus": world / "train",
        "data.valid": world / "valid",
        "data.packing.row-length": 64,
        "model.hidden-size": 32,
        "model.num-layers": 2,
        "model.intermediate-size": 64,
        "rows-per-step": 12,
        "micro-rows": 2,
        "checkpoint.every": 3,
        "valid-every": 4,
    }
    flags |= {f"stages.{i}.tokens": steps * 12 * 64 for i, steps in enumerate(STAGES.values())}
    return ["tiny", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]


def step_records(run_dir: Path) -> list[Record]:
    """Return the records of the steps, without the fields that depend on the clock."""
    kept = ("stage", "step", "loss", "loss_by_language", "grad_norm", "lr", "tokens")
    return [{k: r[k] for k in kept} for r in read_metrics(run_dir) if "loss" in r]


def final_state(run_dir: Path) -> dict[str, bytes]:
    """Every tensor of the last stage's last checkpoint, weights and moments, as bytes."""
    path = newest(run_dir / "en-fr")
    assert path is not None
    files = [load_file(file) for file in sorted(path.glob("*.safetensors"))]
    return {name: array.tobytes() for file in files for name, array in file.items()}


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Return once the run has logged a step; end it if it does not."""
    deadline = time.monotonic() + TIMEOUT_S
    while not any(row["step"] >= step for row in read_metrics(run_dir)):
        if process.poll() is not None or time.monotonic() > deadline:
            end(process.pid)
            pytest.fail(f"the run logged nothing: {process.communicate()[1]}")
        time.sleep(0.02)
