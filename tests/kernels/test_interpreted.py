"""The files of `tests/kernels/interpreted`, each in a process that interprets Triton kernels."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.processes import ROOT, run

FILES = sorted((ROOT / "tests" / "kernels" / "interpreted").glob("test_*.py"))
AT_ONCE = 2

Done = Future[subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def processes(request: pytest.FixtureRequest) -> Iterator[dict[Path, Done]]:
    """The processes of the files that are asked for, some at once."""
    functions = [item for item in request.session.items if isinstance(item, pytest.Function)]
    ours = [item for item in functions if item.function is test_kernels_hold]
    asked = {item.callspec.params["path"] for item in ours}
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(AT_ONCE) as pool:
        patch.setenv("TRITON_INTERPRET", "1")
        command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
        started = {path: pool.submit(run, *command, str(path)) for path in FILES if path in asked}
        yield started
        for future in started.values():
            future.cancel()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kernels_hold(path: Path, processes: dict[Path, Done]) -> None:
    done = processes[path].result()
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
