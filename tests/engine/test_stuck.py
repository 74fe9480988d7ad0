"""Runs that cannot go on: a rank that stands still, a lost launcher, a full disk, a restart."""

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.processes import ROOT, end, finish, start
from tests.support.small_run import KILLED, TRAIN, arguments, step_records
from tests.support.warm import torchrun
from tresse.engine.run.logbook import read_metrics
from tresse.engine.run.watch import Sign, describe

TRESSE = str(Path(sys.executable).with_name("tresse"))
DEADLINE_S = 240


def wait_for(found: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is so; show the output of a process that has ended before."""
    deadline = time.monotonic() + DEADLINE_S
    while not found():
        if process.poll() is not None or time.monotonic() > deadline:
            end(process.pid)
            pytest.fail(f"it never came: {process.communicate()}")
        time.sleep(0.05)


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of the ranks, in their order."""
    ranks = [p for p in psutil.Process(process.pid).children() if "RANK" in p.environ()]
    return sorted(ranks, key=lambda p: int(p.environ()["RANK"]))


def endless(world: Path, run_dir: Path, *flags: str, processes: int) -> subprocess.Popen[str]:
    """Start a run that does not end by itself."""
    job = [*arguments(world, run_dir), "--stages.0.tokens", str(10**9), *flags]
    return start(TRESSE, "train", f"--nproc-per-node={processes}", *job)


def logged(run_dir: Path, steps: int) -> Callable[[], bool]:
    """Tell whether a run has logged so many steps."""
    return lambda: (run_dir / "metrics.jsonl").exists() and len(read_metrics(run_dir)) >= steps


@pytest.mark.slow
def test_a_rank_that_stands_still_is_named_and_the_run_ends(world: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    limits = ["--timeouts.step-s", "12", "--checkpoint.every", "100000"]
    process = endless(world, run_dir, *limits, processes=2)
    wait_for(logged(run_dir, 3), process)
    stopped = ranks_of(process)[1]
    stopped.suspend()
    done = finish(process, DEADLINE_S)
    assert done.returncode == 1
    assert "no progress for 12 s (--timeouts.step-s)" in done.stderr
    assert f"rank 1 (process {stopped.pid} on " in done.stderr
    assert "no sign of life for " in done.stderr
    assert "The other 1 wait: stage en, step " in done.stderr
    assert done.stderr.count("error: ") == 1
    assert not stopped.is_running()


@pytest.mark.slow
@pytest.mark.long
def test_a_second_ctrl_c_ends_a_run_whose_rank_stands_still(world: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = endless(world, run_dir, "--checkpoint.every", "100000", processes=2)
    wait_for(logged(run_dir, 3), process)
    stopped = ranks_of(process)[1]
    stopped.suspend()
    process.send_signal(signal.SIGINT)
    time.sleep(2)  # so close, two are one
    process.send_signal(signal.SIGINT)
    done = finish(process, DEADLINE_S)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        130,
        "ended at once; finished work is kept",
    )
    assert not stopped.is_running()


@pytest.mark.slow
def test_ranks_whose_launcher_is_gone_save_and_end(world: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = endless(world, run_dir, "--checkpoint.every", "100000", processes=2)
    wait_for(logged(run_dir, 3), process)
    ranks = ranks_of(process)
    process.kill()
    psutil.wait_procs(ranks, DEADLINE_S)
    assert not any(rank.is_running() for rank in ranks)
    assert list((run_dir / "en").glob("step-*")), "they saved"


@pytest.mark.slow
@pytest.mark.long
def test_after_the_death_of_a_rank_torchrun_restarts_the_run_and_it_ends_the_same(
    world: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    accident = ["tresse.engine.step.apply_gradient", "7", "1"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "--max-restarts=1", str(ROOT / KILLED), *accident]
    process = start(
        sys.executable,
        *command,
        *arguments(world, run_dir),
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )
    done = finish(process, DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout
    assert step_records(run_dir) == step_records(finished_run)


@pytest.mark.slow
def test_a_full_disk_is_a_line_and_the_run_resumes(
    world: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    job = [sys.executable, TRAIN, *arguments(world, run_dir), "--checkpoint.every", "5"]
    done = finish(start("bash", "-c", f"ulimit -f 50; exec {shlex.join(job)}"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.match(r"error: \[Errno 27\] File too large: '.*\.safetensors'; the checkpoints", last)
    assert last.endswith(f"To resume: python {TRAIN} --run-dir {run_dir}")
    torchrun(1, TRAIN, "--run-dir", str(run_dir))
    assert [r["loss"] for r in step_records(run_dir)] == pytest.approx(
        [r["loss"] for r in step_records(finished_run)], abs=1e-4
    )


def sign(rank: int, phase: str = "step", place: str = "stage en, step 51") -> Sign:
    """What a rank was doing for ten minutes."""
    return Sign(rank, "a", 100 + rank, phase, place, 600.0)  # type: ignore[arg-type]


def test_the_rank_to_blame_is_the_silent_one_or_the_one_at_something_else() -> None:
    others = "The other 3 wait: stage en, step 51: step"
    silent = describe([sign(rank) for rank in range(4)], {2: 590.0})
    assert silent.splitlines() == [
        "rank 2 (process 102 on a): stage en, step 51: step, for 1190 s, no sign of life for 590 s",
        others,
    ]
    behind = describe([sign(0), sign(1), sign(2, "rows"), sign(3)], {})
    assert behind.splitlines() == [
        "rank 2 (process 102 on a): stage en, step 51: rows, for 600 s",
        others,
    ]
    alike = describe([sign(0), sign(1)], {})
    assert [line.split(":")[0] for line in alike.splitlines()] == [
        "rank 0 (process 100 on a)",
        "rank 1 (process 101 on a)",
    ]
