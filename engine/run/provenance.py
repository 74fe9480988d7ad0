"""What a run is computed by: code, versions and machine, and what it was planned to do.

runs/NAME/starts.jsonl has a record for each start of the run, resumptions included.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tresse.data.durable import naming
from tresse.data.lines import parse_records
from tresse.data.packing.packer import Plan, StreamPlan
from tresse.engine.run.typed_json import Record

ROOT = Path(__file__).resolve().parents[2]
FILE = "starts.jsonl"
PACKAGES = ("tresse", "numpy", "torch", "triton", "deepspeed")


def write_start(folder: Path, plans: Mapping[str, Plan], num_ranks: int) -> None:
    """Add this start to those of the run in a folder.

    plans: rows of each stage by its name.
    """
    start: Record = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "ranks": num_ranks,
        "stages": {name: [_stream(each) for each in plan.streams] for name, plan in plans.items()},
    }
    with naming(folder / FILE), (folder / FILE).open("a", encoding="utf-8") as file:
        print(json.dumps(start), file=file)


def read_starts(folder: Path) -> list[Record]:
    """Return the starts of a run, oldest first; ValueError names a line that is not JSON."""
    path = folder / FILE
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    records = parse_records((f"{path}:{number}", line) for number, line in enumerate(lines, 1))
    return [record for _, record in records]


def _stream(plan: StreamPlan) -> Record:
    """Return what a stream of a stage was planned to be."""
    return {
        "languages": plan.stream.languages,
        "mode": plan.stream.mode,
        "corpus": plan.corpus,
        "rows": plan.num_rows,
        "targets": plan.targets,
        "epochs": plan.epochs,
        "documents": plan.num_documents,
    }


def machine() -> Record:
    """Return the processor, the number of usable cores, and the GPU."""
    return {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "gpu": _gpu()}


def commit() -> str:
    """Return the commit of the working tree, with a plus when files differ from it.

    Outside git it comes from the environment variable COMMIT, or is empty.
    """
    if not (ROOT / ".git").exists():  # not a commit of the folder that tresse is installed in
        return os.environ.get("COMMIT", "")
    try:
        found = _run("git", "rev-parse", "--short=12", "HEAD")
        changed = _run("git", "status", "--porcelain", "--untracked-files=no", "csrc", "data",
                       "engine", "kernels")  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COMMIT", "")
    return found + "+" * bool(changed)


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of packages, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
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
    torch = sys.modules.get("torch")  # whatever uses a GPU has imported it
    if torch is None or not torch.cuda.is_available():
        return ""
    return torch.cuda.get_device_name()


def _run(*command: str) -> str:
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
