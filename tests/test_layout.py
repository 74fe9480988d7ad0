"""The house rules that a machine can check: imports, names, links."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "kernels": {"kernels"},
    "data": {"data"},
    "engine": {"engine", "data", "kernels"},
}
MODULES = [path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]
PYTHON = [*MODULES, *sorted(ROOT.glob("bench/*.py")), *sorted(ROOT.glob("tests/*.py"))]


def imported(path: Path) -> set[str]:
    """Every module that the file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def identify(path: Path) -> str:
    """A path as a test's name."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_run_one_way(path: Path) -> None:
    folders = {name.split(".")[1] for name in imported(path) if name.startswith("tresse.")}
    assert folders <= ALLOWED[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("path", PYTHON, ids=identify)
def test_nothing_imports_the_main_job(path: Path) -> None:
    assert not any(name.startswith("tresse.engine.train") for name in imported(path))


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_no_module_hides_one_of_the_standard_library(path: Path) -> None:
    assert path.stem not in sys.stdlib_module_names


@pytest.mark.parametrize("folder", ALLOWED)
def test_the_folders_are_namespace_packages(folder: str) -> None:
    assert not list((ROOT / folder).rglob("__init__.py"))


@pytest.mark.parametrize("folder", ALLOWED)
def test_static_tools_find_the_folder_under_its_import_name(folder: str) -> None:
    assert (ROOT / ".typing" / "tresse" / folder).resolve() == ROOT / folder
