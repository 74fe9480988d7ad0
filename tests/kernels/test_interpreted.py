"""The files of `tests/kernels/interpreted`, in processes that interpret Triton kernels."""

import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, run

FILES = sorted((ROOT / "tests" / "kernels" / "interpreted").glob("test_*.py"))
LONG = [path for path in FILES if path.stem in ("test_flash_attention", "test_trajectory")]
SHORT = [path for path in FILES if path not in LONG]
"""A process imports for seconds, which is more than some of the files take: they share two."""

PARTS = [[path] for path in LONG if path.stem != "test_trajectory"] + [SHORT[::2], SHORT[1::2]]
TRAJECTORY = [path for path in LONG if path.stem == "test_trajectory"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "paths",
    [*PARTS, pytest.param(TRAJECTORY, marks=pytest.mark.long)],
    ids=lambda paths: " ".join(p.stem[5:] for p in paths),
)
def test_kernels_hold(paths: list[Path]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = run(*command, *map(str, paths), TRITON_INTERPRET="1")
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
