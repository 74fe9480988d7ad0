"""The house rules that a machine can check: who imports whom, names, sizes of folders, links."""

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.processes import ROOT

ROOMS = {
    "kernels": {"kernels"},
    "data": {"data"},
    "engine": {"engine", "data", "kernels"},
    "bench": {"bench", "engine", "data", "kernels"},
}
"""Top folders that the modules of a top folder may import."""

DATA = {
    "": set(),
    "store": {""},
    "packing": {"", "store"},
    "formats": {"", "store"},
    "worlds": {"", "store"},
    "audio": {"", "store"},
    "texts": {"", "store"},
    "speech": {"", "store", "audio", "texts", "worlds"},
    "evaluation": {"", "store", "audio"},
}
"""Folders of data/ that each may import besides itself; data/prepare.py may import all."""

MAX_FILES = 14
"""Files in a folder: more than about a dozen cannot be taken in at a glance."""

PAGES = (
    "claim",
    "data",
    "format",
    "generate",
    "kernels",
    "layout",
    "nodes",
    "numerics",
    "paper",
    "speed",
    "tour",
)
"""Pages that say how things are now; docs/log.md says how they were."""

MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
FOLDERS = sorted({path.parent for path in (*MODULES, *(ROOT / "tests").rglob("*.py"))})


def imported(path: Path) -> set[str]:
    """Every module that the file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def module_name(path: Path) -> str:
    """The name that a file of ours is imported by."""
    return ".".join(("tresse", *path.relative_to(ROOT).with_suffix("").parts))


def own_imports(path: Path) -> set[str]:
    """The modules of ours that a file imports."""
    return imported(path) & {module_name(other) for other in MODULES}


def listed() -> set[str]:
    """The modules that docs/layout.md lists, each below the heading of its folder."""
    folder, names = "", set()
    for line in (ROOT / "docs" / "layout.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            folder = line.strip("# ").split(":")[0]
        elif found := re.match(r"(\w+\.py)  ", line):
            names.add(f"{folder}/{found[1]}")
    return {name for name in names if name.split("/")[0] in ROOMS}


def identify(path: Path) -> str:
    """A path as a test's name."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_run_one_way_between_the_rooms(path: Path) -> None:
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("tresse.")}
    assert rooms <= ROOMS[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("path", sorted((ROOT / "data").rglob("*.py")), ids=identify)
def test_imports_run_one_way_between_the_folders_of_data(path: Path) -> None:
    if path == ROOT / "data" / "prepare.py":
        return
    parts = [name.split(".")[2:-1] for name in own_imports(path)]
    folder = next(iter(path.relative_to(ROOT / "data").parts[:-1]), "")
    assert {next(iter(part), "") for part in parts} <= DATA[folder] | {folder}


def test_no_imports_run_in_a_circle() -> None:
    graph = {module_name(path): own_imports(path) for path in MODULES}
    TopologicalSorter(graph).prepare()  # CycleError names the modules


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))], ids=identify)
def test_nothing_imports_the_main_job(path: Path) -> None:
    assert not any(name.startswith("tresse.engine.train") for name in imported(path))


def test_no_test_imports_another() -> None:
    """Pytest imports a test by its path: to import it by name as well would run it twice."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        names = {name for name in imported(path) if name.startswith("tests.")}
        found = {name for name in names if any(p.startswith("test_") for p in name.split("."))}
        assert not found, identify(path)


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_no_module_hides_one_of_the_standard_library(path: Path) -> None:
    assert path.stem not in sys.stdlib_module_names


@pytest.mark.parametrize("folder", FOLDERS, ids=identify)
def test_a_folder_can_be_taken_in_at_a_glance(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MAX_FILES


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_are_namespace_packages(room: str) -> None:
    assert not list((ROOT / room).rglob("__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_static_tools_find_a_room_under_its_import_name(room: str) -> None:
    assert (ROOT / ".typing" / "tresse" / room).resolve() == ROOT / room


def test_the_page_of_the_house_lists_every_module_and_no_other() -> None:
    assert listed() == {identify(path) for path in MODULES}


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in PAGES)])
def test_a_page_names_files_that_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:bench|csrc|data|docs|engine|kernels|tests)/[\w/]+\.\w+)`", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()
