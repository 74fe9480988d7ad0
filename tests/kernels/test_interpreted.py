"""The files of `tests/kernels/interpreted`, each in a process that interprets Triton kernels."""

import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, run

FILES = sorted((ROOT / "tests" / "kernels" / "interpreted").glob("test_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kernels_hold(path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = run(*command, str(path), TRITON_INTERPRET="1")
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
