"""Result files of the benchmarks: JSON rows with the machine, commit, versions and date of each."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tresse", "numpy", "torch", "triton", "deepspeed")


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON, one line each, every one with where and when it was measured."""
    context = {
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    lines = (json.dumps({**row, **context}) for row in rows)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 20th and 80th percentile."""
    median, low, high = np.quantile(values, [0.5, 0.2, 0.8])
    return float(median), float(low), float(high)


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, and GPU."""
    return {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "gpu": _gpu()}


def commit() -> str:
    """Commit of the working tree, with a plus where files differ from it; empty outside git."""
    try:
        found = _run("git", "rev-parse", "--short=12", "HEAD")
        changed = _run("git", "status", "--porcelain", "--untracked-files=no", "csrc", "data",
                       "engine", "kernels")  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found + "+" * bool(changed)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, where installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().split("\n\n")[0].splitlines()
        fields = {
            name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        name, family, model = (fields.get(k, "") for k in ("model name", "cpu family", "model"))
        return f"{name} (family {family}, model {model})"
    return platform.processor()


def _gpu() -> str:
    torch = sys.modules.get("torch")  # a benchmark that uses one has imported it
    if torch is None or not torch.cuda.is_available():
        return ""
    return torch.cuda.get_device_name()


def _run(*command: str) -> str:
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
