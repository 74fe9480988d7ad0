"""What all tests share: NaN in memory that nobody wrote, and a small world to train on."""

import os
from pathlib import Path

import pytest
import torch

from tresse.data.story_world import StoryWorld, generate

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
