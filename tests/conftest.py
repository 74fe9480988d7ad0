"""What all tests share: NaN in memory that nobody wrote, and a small world to train on."""

import os
from pathlib import Path

import pytest
import torch

from tests.support.processes import torchrun
from tests.support.small_run import STAGES, TRAIN, arguments, step_rows
from tresse.data.worlds.story_world import StoryWorld, generate

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan() -> None:
    """`torch.empty` gives NaN, so that a result that was not written shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora train, valid and cloze of a few hundred stories."""
    folder = tmp_path_factory.mktemp("world") / "data"
    small = StoryWorld(
        num_topics=3,
        aligned_documents=150,
        extra_documents=150,
        valid_documents=12,
        cloze_documents=21,
    )
    generate(small, folder)
    return folder


@pytest.fixture(scope="session")
def finished_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run of three stages on two ranks, without any accident."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    torchrun(2, TRAIN, *arguments(world, run_dir), "--data.cloze", str(world / "cloze"))
    assert [(row["stage"], row["step"]) for row in step_rows(run_dir)] == [
        (name, step + 1) for name, steps in STAGES.items() for step in range(steps)
    ]
    return run_dir
