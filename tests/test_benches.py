"""The benchmarks run, at a small size, and write rows that say where they were measured."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, run

pytestmark = pytest.mark.slow


def bench(name: str, size: str, out: Path) -> None:
    """Run a benchmark with flags that make it small."""
    script = str(ROOT / "bench" / f"{name}.py")
    run(sys.executable, script, *shlex.split(size), "--json", str(out))


def rows_of(path: Path) -> list[dict]:
    """Rows of a result file, each with its machine, commit and versions."""
    rows = json.loads(path.read_text())
    for row in rows:
        assert row["machine"]["cores"] >= 1
        assert row["versions"]["tresse"]
        assert row["date"]
    return rows


def test_throughput_measures_a_recipe_through_the_main_job(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    size = "--recipes tiny --rows 4 --micro-rows 2 --steps 4 --warmup 1 --no-compile"
    bench("throughput", size, out)
    (row,) = rows_of(out)
    assert row["recipe"] == "tiny"
    assert row["tokens_per_s"] == pytest.approx(1000 * 4 * 256 / row["step_ms"])
    assert row["mfu_causal"] is None, "no peak is known of a CPU"


def test_the_packer_is_measured_in_every_mode(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    bench("packer", "--tokens 1000000 --passes 2 --batches 2", out)
    rates = [value for row in rows_of(out) for name, value in row.items() if "tokens_per_s" in name]
    assert rates
    assert all(rate > 0 for rate in rates)


def test_audio_is_measured_with_the_share_of_decoding(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    bench("audio", "--tokenizers decode kmeans --kinds flac --hours 0.12 --units 50", out)
    for row in rows_of(out):
        assert row["hours"] >= 0.12
        assert 0 <= row["wait_share"] <= 1
        assert row["hours_per_s"] > 0
