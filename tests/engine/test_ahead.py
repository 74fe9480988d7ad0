"""A run one step ahead of the results that it reads, as on a GPU, is the same run."""

import signal
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, finish, start
from tests.support.small_run import TRAIN, arguments, step_records, wait_for_step
from tests.support.warm import torchrun
from tresse.engine.checkpoint.checkpoint import newest
from tresse.engine.run.logbook import read_metrics

AHEAD = "tests/support/workers/ahead.py"

pytestmark = pytest.mark.slow


def test_steps_checkpoints_and_held_out_losses_are_the_same(
    world: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    torchrun(2, AHEAD, *arguments(world, run_dir))
    assert step_records(run_dir) == step_records(finished_run)
    found, expected = (
        [(r["stage"], r["step"], r["heldout_loss"]) for r in read_metrics(folder) if has_loss(r)]
        for folder in (run_dir, finished_run)
    )
    assert found == expected
    for stage in ("en", "interleave", "en-fr"):
        names = [sorted(path.name for path in (folder / stage).glob("step-*"))
                 for folder in (run_dir, finished_run)]  # fmt: skip
        assert names[0] == names[1]
    steps = [record for record in read_metrics(run_dir) if "loss" in record]
    assert all(record["step_s"] > 0 and record["skipped_steps"] == 0 for record in steps)


def has_loss(record: dict) -> bool:
    """Return whether a record is of a measurement of the held-out loss."""
    return "heldout_loss" in record


@pytest.mark.long
def test_a_signal_saves_the_step_that_was_last_launched(world: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node=2", str(ROOT / AHEAD)]
    long = ["--checkpoint.every", "1000", "--stages.0.tokens", str(200 * 12 * 64)]
    process = start(*launcher, *arguments(world, run_dir), *long)
    wait_for_step(run_dir, 3, process)
    process.send_signal(signal.SIGTERM)
    finish(process)
    saved = newest(run_dir / "en")
    assert saved is not None
    stopped_at = step_records(run_dir)[-1]["step"]
    assert saved.name == f"step-{stopped_at:08d}"
    torchrun(2, TRAIN, "--run-dir", str(run_dir))
    steps = [record["step"] for record in step_records(run_dir) if record["stage"] == "en"]
    assert steps == list(range(1, 201))
