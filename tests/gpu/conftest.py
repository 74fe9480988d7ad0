"""Tests that need a CUDA device: all are marked `gpu`, and deselected where there is none.

On a machine with a GPU: `python -m pytest tests/gpu`.
"""

import os
from pathlib import Path

import pytest

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to be deterministic


@pytest.hookimpl(tryfirst=True)  # before they are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
