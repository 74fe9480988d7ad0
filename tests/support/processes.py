"""Start the project's commands in tests as a user would, and show their output on a failure.

A command gets a process group of its own. When it takes too long, it ends with all its descendants.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 540
"""Enough on a machine that does ten other things, and below pytest's own limit."""


def environment() -> dict[str, str]:
    """One thread a process, no GPU, and the repository's root for imports."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def start(*command: str, cwd: Path = ROOT, **options: str) -> subprocess.Popen[str]:
    """Start a command whose output can be read; `options` are variables of its environment."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment() | options,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(
    process: subprocess.Popen[str], timeout: float = TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Wait for a command; one that takes too long is ended, and that is an error."""
    try:
        printed, errors = process.communicate(timeout=timeout)
    except BaseException:
        end(process.pid)
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)


def end(pid: int) -> None:
    """Kill a process and its descendants; ranks of torchrun have sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)


def run(
    *command: str, cwd: Path = ROOT, check: bool = True, timeout: float = TIMEOUT_S, **options: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; on failure show its output."""
    return checked(finish(start(*command, cwd=cwd, **options), timeout), check)


def checked(
    done: subprocess.CompletedProcess[str], check: bool
) -> subprocess.CompletedProcess[str]:
    """Return what is done, or raise an error that shows its output if it failed."""
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(done.args)} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done


def torchrun(
    processes: int, script: str, *arguments: str, cwd: Path = ROOT, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository under torchrun on a free port."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    path = str(ROOT / script)
    return run(*launcher, f"--nproc-per-node={processes}", path, *arguments, cwd=cwd, check=check)
