"""The real command on a GPU: DeepSpeed, NCCL, bf16, checkpoints and a resume."""

import shutil
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.processes import ROOT, run
from tests.support.small_run import STAGES, TRAIN, arguments, step_records
from tresse.engine.checkpoint.checkpoint import newest
from tresse.engine.run.typed_json import Record

NO_WAIT = "tests/support/workers/no_wait.py"
BF16 = ("--sharding.precision", "bf16")
WAYS = {
    "compiled": ("--compile",),
    "packed on the device": ("--data.pack-on", "device"),
    "level 2": ("--sharding.zero-stage", "2"),
    "level 3": ("--sharding.zero-stage", "3"),
    "offload": ("--sharding.offload-optimizer",),
    "one micro-batch": ("--micro-rows", "12"),
}


def train(*job: str, script: str = TRAIN) -> None:
    """Train on the GPU through torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run(*launcher, str(ROOT / script), *job, CUDA_VISIBLE_DEVICES="0")


def final_state(run_dir: Path) -> dict[str, bytes]:
    """Every tensor of the last stage's last checkpoint, weights and moments, as bytes."""
    path = newest(run_dir / list(STAGES)[-1])
    assert path is not None
    files = [load_file(file) for file in sorted(path.glob("*.safetensors"))]
    return {name: array.tobytes() for file in files for name, array in file.items()}


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in bf16 that was not interrupted and keeps its checkpoints."""
    run_dir = tmp_path_factory.mktemp("gpu") / "run"
    flags = ("--checkpoint.keep", "9", "--deterministic", "--kernels.attention", "sdpa")
    train(*arguments(world, run_dir), *BF16, *flags)
    return run_dir


def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(trained: Path, tmp_path: Path):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run_dir / "interleave")
    shutil.rmtree(run_dir / "en-fr")
    for path in sorted((run_dir / "en").glob("step-*"))[1:]:
        shutil.rmtree(path)
    train("--run-dir", str(run_dir))
    assert step_records(run_dir) == step_records(trained)
    assert final_state(run_dir) == final_state(trained)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_run_has_the_same_losses(world: Path, trained: Path, tmp_path: Path, way: str):
    run_dir = tmp_path / "run"
    train(*arguments(world, run_dir), *BF16, *WAYS[way])
    found, expected = losses(run_dir), losses(trained)
    assert found == pytest.approx(expected, abs=2e-2)
    assert expected[-1] < expected[0]


def test_a_step_waits_for_nothing(world: Path):
    train(str(world / "train"), script=NO_WAIT)


def losses(run_dir: Path) -> list[float]:
    """The loss of every step."""

    def loss(record: Record) -> float:
        return float(record["loss"])  # type: ignore[arg-type]

    return [loss(record) for record in step_records(run_dir)]
