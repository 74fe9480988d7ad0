"""The C++ packer under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT

SOURCES = [*sorted((ROOT / "csrc").glob("*.cpp")), ROOT / "tests/csrc/packer_test.cpp"]
FLAGS = ["-std=c++20", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror"]


SANITIZERS = ("address,undefined", "thread")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compile the packer's C++ test program with each sanitizer, side by side."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler, "building tresse needs a C++ compiler, and so does this test"
    sources = [str(path) for path in SOURCES if path.name != "bindings.cpp"]
    made = {name: tmp_path_factory.mktemp("sanitized") / "packer_test" for name in SANITIZERS}
    running = []
    for name, program in made.items():
        options = [f"-fsanitize={name}", "-fno-sanitize-recover=all", f"-I{ROOT / 'csrc'}"]
        command = [compiler, *FLAGS, *options, *sources, "-o", str(program)]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for process in running:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    return made


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", SANITIZERS)
def test_all_modes_run_clean_under_the_sanitizers(sanitizers, programs, tmp_path):
    found = subprocess.run(
        [programs[sanitizers], tmp_path], capture_output=True, text=True, check=False
    )
    if "unexpected memory mapping" in found.stderr:
        pytest.skip("this compiler's ThreadSanitizer cannot run on this kernel's address layout")
    assert found.returncode == 0, found.stderr
    assert found.stdout == "36 packings hold\n"
