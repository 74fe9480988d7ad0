"""Starting the project's commands from tests as a user would, and showing what they printed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 280


def environment() -> dict[str, str]:
    """One thread a process, no GPU, and the repository's root for imports."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
    }


def run(*command: str, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; on failure show its output."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(command)} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done


def torchrun(processes: int, script: str, *arguments: str, cwd: Path = ROOT, check: bool = True):
    """Run a script of the repository under torchrun on a free port."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    path = str(ROOT / script)
    return run(*launcher, f"--nproc-per-node={processes}", path, *arguments, cwd=cwd, check=check)
