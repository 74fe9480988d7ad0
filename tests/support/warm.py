"""torchrun without its imports: jobs fork from a process that has imported torch and DeepSpeed.

A rank of the main job imports for 6 s of CPU time and then trains a test's model for 1 s. The
standard library's fork server imports once, in a clean process, and starts each job by a fork;
the job is torchrun itself, which forks the ranks. All else is as in `processes.torchrun`: own
processes, environment, rendezvous and signals. Some tests keep to the real command.
"""

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.processes import ROOT, TIMEOUT_S, checked, end, environment

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "torch.distributed.run",
        "tresse.engine.run.ranks",  # before deepspeed
        "deepspeed",
        "deepspeed.runtime.zero.muon.muon_optimizer",
        "tresse.engine.stage",
        "tresse.engine.scoring.score",
        "tresse.engine.scoring.report",
        "tresse.engine.run.command_line",
        "tresse.engine.run.corpora",
        "tensorboard",
    ]
)


def torchrun(
    processes: int,
    script: str,
    *arguments: str,
    cwd: Path = ROOT,
    check: bool = True,
    meeting: Sequence[str] = ("--standalone",),
) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository under torchrun, on a free port or where `meeting` says."""
    command = [*meeting, "--run-path", "--start-method=fork"]
    command += [f"--nproc-per-node={processes}", str(ROOT / script), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        job = SERVER.Process(target=_job, args=(command, cwd, environment(), outputs))
        job.start()
        try:
            job.join(TIMEOUT_S)
            assert job.exitcode is not None, f"took more than {TIMEOUT_S} s"
        finally:
            if job.pid:
                end(job.pid)
        texts = [path.read_text() for path in outputs]
    return checked(subprocess.CompletedProcess(["torchrun", *command], job.exitcode, *texts), check)


def _job(command: list[str], cwd: Path, variables: dict[str, str], outputs: list[Path]) -> None:
    from torch.distributed.run import main

    gc.freeze()  # imported modules stay, so the garbage collector need not visit them
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    for stream, path in zip((sys.stdout, sys.stderr), outputs, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream.fileno())
        os.close(file)
    main(command)
