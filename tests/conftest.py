"""Parts that all tests share: NaN in unwritten memory, their order, a small world and its run."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.support import processes, warm
from tests.support.small_run import KILLED, STAGES, TRAIN, arguments, step_records
from tresse.data.worlds.story_world import generate
from tresse.data.worlds.world import StoryWorld

Shared = Callable[[str, Callable[[Path], object]], Path]
FOLDER = Path(__file__).parent


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan() -> None:
    """`torch.empty` gives NaN, so that a result that was not written shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than we may use cores, as many tests wait; at most 8, for memory."""
    return min(len(os.sched_getaffinity(0)) + 1, 8)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag that runs the longest tests too."""
    parser.addoption("--long", action="store_true", help="run tests marked long too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect long tests, and those that need a GPU where there is none; put slow tests first.

    pytest-xdist hands tests out in this order, so that no slow one is left alone at the end: the
    slowest are in files that stand beside this one.
    """
    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=[item for item in items if needs_gpu(item)])
        items[:] = [item for item in items if not needs_gpu(item)]
    if not config.getoption("--long"):
        config.hook.pytest_deselected(items=[item for item in items if is_long(item)])
        items[:] = [item for item in items if not is_long(item)]
    items.sort(key=lambda i: (i.get_closest_marker("slow") is None, i.path.parent != FOLDER))


def is_long(item: pytest.Item) -> bool:
    """Return whether a test is marked `long`."""
    return item.get_closest_marker("long") is not None


def needs_gpu(item: pytest.Item) -> bool:
    """Return whether a test is marked `gpu`, as all in tests/gpu are."""
    return item.get_closest_marker("gpu") is not None


def pytest_report_header() -> str:
    """Say why tests are deselected."""
    found = torch.cuda.is_available()
    return f"CUDA device: {'found' if found else 'none, so tests marked gpu are deselected'}"


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """A function that has a folder filled once for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if hasattr(request.config, "workerinput") else base

    def fill(name: str, build: Callable[[Path], object]) -> Path:
        folder, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                build(folder)
                done.touch()
        return folder

    return fill


@pytest.fixture(scope="session")
def world(shared: Shared) -> Path:
    """Corpora train, valid and cloze of a few hundred stories."""
    small = StoryWorld(
        num_topics=3,
        aligned_documents=150,
        extra_documents=150,
        valid_documents=12,
        cloze_documents=21,
    )
    return shared("world", lambda folder: generate(small, folder))


@pytest.fixture(scope="session")
def finished_run(world: Path, shared: Shared) -> Path:
    """The folder of a small run of three stages on two ranks, without a stop."""
    cloze = ["--data.cloze", str(world / "cloze")]
    run_dir = shared(
        "finished",
        lambda folder: processes.torchrun(2, TRAIN, *arguments(world, folder), *cloze),
    )
    assert [(row["stage"], row["step"]) for row in step_records(run_dir)] == [
        (name, step + 1) for name, steps in STAGES.items() for step in range(steps)
    ]
    return run_dir


@pytest.fixture(scope="session")
def killed_run(world: Path, shared: Shared) -> Path:
    """The folder of the same run killed in step 8, after checkpoints of steps 3 and 6; copy it."""
    accident = ["tresse.engine.step.apply_gradient", "8", "0"]
    return shared(
        "killed",
        lambda folder: warm.torchrun(2, KILLED, *accident, *arguments(world, folder), check=False),
    )
