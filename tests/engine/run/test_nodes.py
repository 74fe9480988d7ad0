"""Runs on several nodes: they stop together, resume on other nodes, and name a node that is lost.

The nodes are launchers that meet on two addresses of the loopback device.
"""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.processes import end, finish, start
from tests.support.small_run import (
    KILLED,
    STAGES,
    TRAIN,
    arguments,
    final_state,
    step_records,
    wait_for_step,
)
from tests.support.warm import torchrun
from tresse.engine.checkpoint.checkpoint import newest
from tresse.engine.run.typed_json import Record

pytestmark = pytest.mark.slow

TRESSE = [str(Path(sys.executable).with_name("tresse")), "train"]
NUM_STEPS = 80
"""Steps of the first stage where a signal is to come before its end."""

Node = subprocess.Popen[str]
Done = subprocess.CompletedProcess[str]


def meetings() -> list[list[str]]:
    """The options of torchrun on each of two nodes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"--rdzv-endpoint=127.0.0.1:{probe.getsockname()[1]}"
    shared = ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=run", endpoint]
    return [[*shared, f"--local-addr={address}"] for address in ("127.0.0.1", "127.0.0.2")]


def finish_nodes(nodes: Sequence[Node]) -> list[Done]:
    """Wait for all nodes; if one takes too long, all are ended."""
    try:
        with ThreadPoolExecutor(len(nodes)) as threads:
            return list(threads.map(finish, nodes))
    finally:
        for node in nodes:
            end(node.pid)


def run_nodes(script: str, *job: str) -> list[Done]:
    """Run a script under torchrun on each of two nodes, with a rank each."""

    def run_node(options: list[str]) -> Done:
        return torchrun(1, script, *job, check=False, meeting=options)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(run_node, meetings()))


def final_scores(run_dir: Path) -> list[Record]:
    """The table at the end of a run."""
    return json.loads((run_dir / "table.json").read_text())


def losses(run_dir: Path) -> list[float]:
    """The loss of each step."""
    return [record["loss"] for record in step_records(run_dir)]


def scored(world: Path, run_dir: Path) -> list[str]:
    """The small run with a first stage that lasts, checkpoints only at its end, and scores."""
    flags = ["--stages.0.tokens", str(NUM_STEPS * 12 * 64), "--checkpoint.every", "100000"]
    return [*arguments(world, run_dir), *flags, "--data.cloze", str(world / "cloze")]


@pytest.fixture(scope="session")
def longer_run(world: Path, shared: Callable[..., Path]) -> Path:
    """The folder of that run on one node, without a stop."""
    return shared("longer", lambda folder: torchrun(2, TRAIN, *scored(world, folder)))


@pytest.mark.long
def test_a_signal_to_one_node_stops_both_with_a_checkpoint_and_one_node_goes_on(
    world: Path, longer_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    job = [*scored(world, run_dir), "--checkpoint.on-sigusr1", "stop"]
    nodes = [start(*TRESSE, *options, "--nproc-per-node=1", *job) for options in meetings()]
    wait_for_step(run_dir, 2, nodes[0])
    nodes[1].send_signal(signal.SIGUSR1)
    first, second = finish_nodes(nodes)
    assert (first.returncode, second.returncode) == (75, 75), first.stderr + second.stderr
    saved = newest(run_dir / "en")
    assert saved is not None
    assert saved.name == f"step-{len(step_records(run_dir)):08d}"
    assert second.stdout == second.stderr == "", "the first rank speaks for all"
    assert re.search(
        r"To resume: tresse train --nnodes=2 .* --local-addr=127\.0\.0\.1 .* --run-dir \S+ "
        r"\(on each node\)\n$",
        first.stdout,
    )
    torchrun(2, TRAIN, "--run-dir", str(run_dir))
    assert step_records(run_dir) == step_records(longer_run)
    assert final_state(run_dir) == final_state(longer_run)
    assert final_scores(run_dir) == final_scores(longer_run)


def test_a_run_of_one_node_goes_on_on_two_and_equals_the_uninterrupted_one(
    world: Path, killed_run: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(killed_run, tmp_path / "run")
    job = ["--run-dir", str(run_dir), "--data.cloze", str(world / "cloze")]
    first, second = run_nodes(TRAIN, *job)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.count("resuming from") == 1
    assert second.stdout == "", "the first rank speaks for all"
    assert step_records(run_dir) == step_records(finished_run)
    assert final_state(run_dir) == final_state(finished_run)
    assert final_scores(run_dir) == final_scores(finished_run)


@pytest.mark.long
def test_a_node_that_dies_is_named_and_the_same_commands_resume(
    world: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    accident = ["tresse.engine.step.apply_gradient", "11", "1"]
    job = [*arguments(world, run_dir), "--data.cloze", str(world / "cloze")]
    monkeypatch.setenv("DEADLY_TO_NODE", "1")
    first, second = run_nodes(KILLED, *accident, *job, "--timeouts.step-s", "60")
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 1
    assert re.search(
        r"^error: stage interleave, step \d: lost contact with other ranks\.\n"
        r"rank 1 \(process \d+ on \S+\): .*, no sign of life for \d+ s\n"
        rf"Resume with --run-dir {run_dir}$",
        first.stderr,
        re.MULTILINE,
    )
    assert len(step_records(run_dir)) > STAGES["en"]
    done = run_nodes(TRAIN, *job)
    assert [node.returncode for node in done] == [0, 0], done[0].stderr
    assert step_records(run_dir) == step_records(finished_run)
    assert final_state(run_dir) == final_state(finished_run)
    assert final_scores(run_dir) == final_scores(finished_run)
