"""The files of `tests/interpreted`, each in a process that interprets Triton kernels."""

import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, run

FILES = sorted((ROOT / "tests" / "interpreted").glob("test_*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kernels_hold_in_the_interpreter(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path))
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
