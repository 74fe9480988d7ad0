"""Result files of the benchmarks; each result has its machine, commit, versions and date."""

import csv
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
PACKAGES += ("transformers", "accelerate", "liger-kernel")
PEERS = ("quack-kernels", "flash-attn", "flash-attn-4")


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write results as JSON, one per line, each with machine, commit, versions and date."""
    context = {
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
        "date": _today(),
    }
    lines = (json.dumps({**record, **context}) for record in records)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def csv_context() -> dict[str, str]:
    """Return machine, commit, versions and date as columns of a CSV line."""
    found = machine()
    return {
        "gpu": found["gpu"],
        "cpu": found["cpu"],
        "commit": commit(),
        "versions": " ".join(f"{name}={number}" for name, number in versions(PEERS).items()),
        "date": _today(),
    }


def append_csv(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append a line to a CSV file; the first one also writes the header."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(record))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(record)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Return the lines of a CSV file; none where the file does not exist."""
    if not Path(path).exists():
        return []
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the 20th and the 80th percentile."""
    median, low, high = np.quantile(values, [0.5, 0.2, 0.8])
    return float(median), float(low), float(high)


def machine() -> dict[str, Any]:
    """Return the processor, the number of usable cores, and the GPU."""
    return {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "gpu": _gpu()}


def commit() -> str:
    """Return the commit of the working tree, with a plus when files differ from it.

    Outside git it comes from the environment variable COMMIT, or is empty.
    """
    try:
        found = _run("git", "rev-parse", "--short=12", "HEAD")
        changed = _run("git", "status", "--porcelain", "--untracked-files=no", "csrc", "data",
                       "engine", "kernels")  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COMMIT", "")
    return found + "+" * bool(changed)


def versions(others: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions of Python, of PACKAGES and of others, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *others):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


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
