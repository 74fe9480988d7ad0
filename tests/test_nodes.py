"""The job script of docs/nodes.md, under commands that stand in for those of SLURM."""

import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, finish, start
from tests.support.small_run import arguments, step_records, wait_for_step
from tresse.engine.run.logbook import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.long]

FAKES = {
    "scontrol": """
        if [ $1 = show ]; then echo 127.0.0.1; echo 127.0.0.2; else echo "$@" >> requeued; fi
    """,
    # The highest status of its tasks is that of srun.
    "srun": """
        while [ $1 != tresse ]; do shift; done
        for i in 1 2; do "$@" --local-addr 127.0.0.$i & echo $! > task-$i; tasks="$tasks $!"; done
        highest=0
        for task in $tasks; do
          wait $task; status=$?
          if [ $status -gt $highest ]; then highest=$status; fi
        done
        exit $highest
    """,
}
JOB = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}


def job_script(job: list[str]) -> str:
    """The script, for a small run with a rank on each of two nodes."""
    page = (ROOT / "docs" / "nodes.md").read_text()
    (script,) = re.findall(r"```\n(#!/bin/bash\n.*?)```", page, re.DOTALL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changes = {
        "29500": str(port),
        "--nproc-per-node 8": "--nproc-per-node 1",
        "1b-interleave --run-dir /shared/runs/braid --data.corpus /shared/corpora/train": " ".join(
            job
        ),
    }
    for old, new in changes.items():
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    return script


def test_the_job_requeues_itself_after_the_signal_and_then_finishes(
    world: Path, tmp_path: Path
) -> None:
    run_dir, path = tmp_path / "run", tmp_path / "bin"
    path.mkdir()
    for name, body in FAKES.items():
        (path / name).write_text(f"#!/bin/bash{body}")
        (path / name).chmod(0o755)
    flags = ["--stages.0.tokens", str(80 * 12 * 64), "--checkpoint.every", "100000"]
    (tmp_path / "job.sh").write_text(job_script([*arguments(world, run_dir), *flags]))
    folders = [str(path), str(Path(sys.executable).parent), os.environ["PATH"]]
    variables = JOB | {"SLURM_CPUS_PER_TASK": "1", "PATH": os.pathsep.join(folders)}
    process = start("bash", "job.sh", cwd=tmp_path, **variables)
    wait_for_step(run_dir, 2, process)
    os.kill(int((tmp_path / "task-2").read_text()), signal.SIGUSR1)
    done = finish(process)
    assert done.returncode == 75, done.stderr
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert 2 <= len(step_records(run_dir)) < 80
    done = finish(start("bash", "job.sh", cwd=tmp_path, **variables))
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert read_metrics(run_dir)[-1]["stage"] == "en-fr"
