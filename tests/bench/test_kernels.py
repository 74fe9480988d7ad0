"""bench/kernels/run.py at tiny sizes on a CPU, and bench/on_gpu.sh with parts that do nothing."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.processes import ROOT, run
from tresse.bench.kernels.inputs import LLAMA, QWEN
from tresse.bench.kernels.providers import FORWARD, compare, differentiable
from tresse.bench.kernels.timing import Ceilings
from tresse.engine.run.recipes import LLAMA_1B, QWEN_360M

KERNELS = {"attention", "linear_cross_entropy", "swiglu_linear", "add_rmsnorm", "rope_qkv"}
KERNELS |= {"adamw", "cross_entropy", "rmsnorm", "gather", "mlp"}
CPU = torch.device("cpu")


def bench(*flags: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "bench" / "kernels" / "run.py")
    return run(sys.executable, script, "--device", "cpu", "--budget-ms", "1", *flags, check=check)


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_kernel_is_checked_and_timed_beside_pytorch_and_drawn(tmp_path: Path):
    out, picture = tmp_path / "lines.csv", tmp_path / "shares.png"
    done = bench("--csv", str(out), "--plot", str(picture))
    assert "No time above is that of a kernel" in done.stdout
    lines = lines_of(out)
    assert {line["kernel"] for line in lines} == KERNELS | {"copy", "matmul"}
    for line in lines:
        assert line["status"] == "ok"
        assert line["gpu"] == "none: cpu"
        assert "torch=" in line["versions"]
        assert 0 < float(line["p20_ms"]) <= float(line["ms"]) <= float(line["p80_ms"])
        if line["direction"]:
            assert float(line["error"]) < 2e-2
            ratio = float(line["floor_ms"]) / float(line["ms"])
            assert float(line["share"]) == pytest.approx(ratio)
    by_provider = {line["provider"] for line in lines if line["kernel"] == "swiglu_linear"}
    assert by_provider == {"tresse", "eager", "compile"}
    assert picture.read_bytes().startswith(b"\x89PNG")


WRONG = """
import sys
from tresse.bench.kernels import run
from tresse.bench.kernels.cases import layers
layers.rmsnorm = lambda x, weight, eps: 1.05 * layers.rmsnorm_formula(x, weight)
layers.swiglu_linear = lambda gate_up, weight: gate_up @ weight
options = run.Options(device="cpu", only="rmsnorm,swiglu_linear", budget_ms=1, csv=sys.argv[1])
sys.exit(run.main(options))
"""


@pytest.mark.slow
def test_a_wrong_result_and_a_failure_get_a_row_each_and_no_time(tmp_path: Path):
    out = tmp_path / "lines.csv"
    done = run(sys.executable, "-c", WRONG, str(out), check=False)
    assert done.returncode == 1
    ours = [line for line in lines_of(out) if line["provider"] == "tresse"]
    assert [line["kernel"] for line in ours] == ["rmsnorm", "swiglu_linear"]
    assert "y is off by 5.0e-02" in ours[0]["status"]
    assert "failed: RuntimeError" in ours[1]["status"]
    assert not any(line["ms"] for line in ours)
    timed = {line["provider"] for line in lines_of(out) if line["ms"]}
    assert timed == {"torch", "eager", "compile"}


@pytest.mark.slow
def test_times_of_a_cpu_are_no_results():
    out = ROOT / "bench" / "results" / "kernels.csv"
    before = out.exists()
    done = bench("--csv", str(out), check=False)
    assert done.returncode
    words = done.stderr.replace("│", " ").split()  # the message stands in a box
    assert "times of a CPU are no results" in " ".join(words)
    assert out.exists() == before


@pytest.mark.slow
def test_without_a_gpu_nothing_is_measured_and_no_result_replaced(tmp_path: Path):
    out = tmp_path / "lines.csv"
    out.write_text("kept")
    script = str(ROOT / "bench" / "kernels" / "run.py")
    done = run(sys.executable, script, "--csv", str(out), check=False)
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr
    assert out.read_text() == "kept"


@pytest.mark.slow
def test_a_profiler_gets_marked_calls_and_its_command(tmp_path: Path):
    trace = tmp_path / "trace.json"
    bench("--only", "rmsnorm", "--trace", str(trace))
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"rmsnorm forward", "rmsnorm backward", "rmsnorm forward+backward"} <= names
    command = bench("--ncu", "rmsnorm").stdout.splitlines()[-1]
    assert shlex.split(command)[:3] == ["ncu", "--profile-from-start", "off"]
    assert command.endswith("bench/kernels/run.py --ncu rmsnorm")


def test_shapes_are_those_of_the_recipes():
    for shape, model in [(LLAMA, LLAMA_1B), (QWEN, QWEN_360M)]:
        widths = shape.D, shape.F, shape.H, shape.Hkv, shape.K
        assert (model.hidden_size, model.intermediate_size) == widths[:2]
        assert (model.num_heads, model.num_kv_heads, model.head_dim) == widths[2:]
        assert shape.N == 51_200


def test_the_floor_is_the_slower_of_bytes_and_operations():
    ceilings = Ceilings(copy_gb_per_s=4000.0, matmul_tflop_per_s=800.0)
    assert ceilings.floor_ms(4e9, 0) == (1.0, "copy")
    assert ceilings.floor_ms(4e9, 1.6e12) == (2.0, "matmul")


def test_comparison_sees_one_wrong_row_nan_and_a_shape():
    want = [torch.randn(5000, 8)]

    def complaint(found: torch.Tensor) -> str:
        return compare(["y"], [found], want)[1]

    assert not complaint(want[0].bfloat16())
    wrong_row, unwritten = want[0].clone(), want[0].clone()
    wrong_row[4999] = 0
    unwritten[17, 3] = float("nan")
    assert "y is off" in complaint(wrong_row)
    assert "y is off by nan" in complaint(unwritten)
    assert "expected (5000, 8)" in complaint(want[0][1:])


def test_what_a_call_overwrites_is_put_back_before_each():
    leaf, cotangent = torch.randn(4, requires_grad=True), torch.ones(4)

    def doubling(x: torch.Tensor) -> torch.Tensor:
        x.data.mul_(2)
        return x * 1

    provider = differentiable(doubling, [leaf], [cotangent], overwrites=True)
    for _ in range(2):
        assert torch.equal(provider.results()[0], 2 * leaf.detach())
    call, seen = provider.calls[FORWARD], []
    for _ in range(2):
        assert call.before is not None
        call.before()
        seen.append(call.run()[0].detach().clone())
    assert torch.equal(*seen)


def on_gpu(
    tmp_path: Path, parts: str, PYTHON: str = sys.executable, MINUTES: str = "1"
) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "bench" / "on_gpu.sh"), str(tmp_path / "out")]
    return run(*command, check=False, PARTS=parts, PYTHON=PYTHON, MINUTES=MINUTES)


@pytest.mark.slow
def test_on_a_gpu_a_part_that_fails_or_hangs_does_not_keep_the_next_from_running(tmp_path: Path):
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\ncase $1 in\n"
        "bench/throughput.py) echo broken; exit 3;;\n"
        "bench/kernels/run.py) echo slow; exec sleep 100;;\n"
        'bench/packer.py) echo "packed";;\n'
        f'*) exec {shlex.quote(sys.executable)} "$@";;\nesac\n'
    )
    fake.chmod(0o755)
    done = on_gpu(tmp_path, "throughput kernels packer", PYTHON=str(fake), MINUTES="0.05")
    assert done.returncode == 1
    verdicts = dict(re.findall(r"^(\w+) +\d+ s  (.+)$", done.stdout, re.MULTILINE))
    assert verdicts["throughput"] == "failed with status 3"
    assert verdicts["kernels"].startswith("ended after")
    assert verdicts["packer"] == "passed"
    logs = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.log")}
    assert logs == {"throughput": "broken\n", "kernels": "slow\n", "packer": "packed\n"}


def test_on_a_gpu_an_unknown_part_is_an_error(tmp_path: Path):
    done = on_gpu(tmp_path, "tests lunch")
    assert done.returncode == 2
    assert "no part lunch" in done.stdout


def test_the_script_for_a_gpu_may_be_executed():
    assert os.access(ROOT / "bench" / "on_gpu.sh", os.X_OK)
