"""A step whose gradient norm is not finite, or too high, changes nothing; the run says so."""

import math
from pathlib import Path

import pytest

from tests.support.small_run import STAGES, TRAIN, arguments, step_records
from tests.support.warm import torchrun
from tresse.engine.checkpoint.checkpoint import newest
from tresse.engine.checkpoint.state import read_state
from tresse.engine.run.logbook import read_metrics
from tresse.engine.step import high_norm

SPIKING = "tests/support/workers/spiking.py"


def updates(run_dir: Path, stage: str = "en") -> int:
    """The number of updates that the weights at the end of a stage have had."""
    path = newest(run_dir / stage)
    assert path is not None
    return read_state(path).num_updates


def test_a_norm_is_high_beyond_the_deviations_of_the_last_steps() -> None:
    recent = [1.0, 3.0] * 32
    deviation = math.sqrt(64 / 63)
    assert high_norm(recent, 6.0) == pytest.approx(2.0 + 6 * deviation)
    assert high_norm(recent[1:], 6.0) == math.inf, "63 norms tell too little"


@pytest.mark.slow
def test_a_run_stops_at_a_spike_and_goes_on_when_told_how(
    world: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    done = torchrun(2, SPIKING, "5", *arguments(world, run_dir), check=False)
    assert done.returncode != 0
    assert done.stderr.count("error: stage en, step 5: loss ") == 1
    assert "rows 48 to 59 of the stage. The checkpoint before it is good" in done.stderr
    assert [record["step"] for record in step_records(run_dir)] == [1, 2, 3, 4]
    assert "Traceback" not in done.stderr.split("\nE")[0]
    torchrun(2, TRAIN, "--run-dir", str(run_dir), "--spikes.policy", "rewind")
    assert step_records(run_dir) == step_records(finished_run), "it was an accident"


@pytest.mark.slow
def test_a_step_is_left_out(world: Path, finished_run: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    policy = ["--spikes.policy", "skip"]
    done = torchrun(2, SPIKING, "5", *arguments(world, run_dir), *policy)
    assert done.stderr.count("stage en, step 5: loss ") == 1
    records = [record for record in read_metrics(run_dir) if "loss" in record]
    skipped = [record["skipped_steps"] for record in records]
    assert skipped == [0, 0, 0, 0, 1, 1, 1, 1] + [0] * 8
    assert records[4]["tokens"] == records[3]["tokens"], "targets of no update do not count"
    assert updates(run_dir) == STAGES["en"] - 1
    assert step_records(run_dir)[:5] == [
        *step_records(finished_run)[:4],
        step_records(finished_run)[4] | {"tokens": records[3]["tokens"]},
    ]


@pytest.mark.slow
def test_a_run_goes_back_and_leaves_out_the_rows(world: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    policy = ["--spikes.policy", "rewind"]
    done = torchrun(2, SPIKING, "5", *arguments(world, run_dir), *policy)
    assert "going back to the newest checkpoint" in done.stderr
    assert updates(run_dir) == STAGES["en"] - 2, "the checkpoint is of step 3: 4 and 5 are left out"
    steps = [record["step"] for record in step_records(run_dir) if record["stage"] == "en"]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    tokens = [record["tokens"]["en"] for record in step_records(run_dir)][:8]
    assert tokens == [768 * count for count in (1, 2, 3, 4, 4, 4, 5, 6)]
