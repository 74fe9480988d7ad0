"""Result files of the benchmarks; each result has its machine, commit, versions and date."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tresse.engine.run.provenance import PACKAGES, commit, machine, versions

ROOT = Path(__file__).resolve().parent.parent
OURS = (*PACKAGES, "transformers", "accelerate", "liger-kernel")
PEERS = (*OURS, "quack-kernels", "flash-attn", "flash-attn-4")


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write results as JSON, one per line, each with machine, commit, versions and date."""
    context = {
        "machine": machine(),
        "commit": commit(),
        "versions": versions(OURS),
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


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")
