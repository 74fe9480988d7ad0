"""The C++ packer under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

import shutil
from pathlib import Path

import pytest

from tests.support.processes import ROOT, run

SOURCES = [*sorted((ROOT / "csrc").glob("*.cpp")), ROOT / "tests/csrc/packer_test.cpp"]
FLAGS = ["-std=c++20", "-Og", "-g1", "-pthread", "-Wall", "-Wextra", "-Werror"]


def build(sanitizers: str, folder: Path) -> str:
    """Compile the packer's own test program with sanitizers."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler, "building tresse needs a C++ compiler, and so does this test"
    sources = [str(path) for path in SOURCES if path.name != "bindings.cpp"]
    options = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-I{ROOT / 'csrc'}"]
    program = str(folder / "packer_test")
    run(compiler, *FLAGS, *options, *sources, "-o", program)
    return program


@pytest.mark.slow
@pytest.mark.parametrize(
    "sanitizers", ["address,undefined", pytest.param("thread", marks=pytest.mark.long)]
)
def test_all_modes_run_clean_under_the_sanitizers(sanitizers: str, tmp_path: Path) -> None:
    found = run(build(sanitizers, tmp_path), str(tmp_path), check=False)
    if "unexpected memory mapping" in found.stderr:
        pytest.skip("this compiler's ThreadSanitizer cannot run on this kernel's address layout")
    assert found.returncode == 0, found.stderr
    assert found.stdout == "36 packings hold\n"
