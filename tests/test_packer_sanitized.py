"""The C++ packer under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [*sorted((ROOT / "csrc").glob("*.cpp")), ROOT / "tests/csrc/packer_test.cpp"]
FLAGS = ["-std=c++20", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror"]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_all_modes_run_clean_under_the_sanitizers(sanitizers, tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler, "building tresse needs a C++ compiler, and so does this test"
    sources = [str(path) for path in SOURCES if path.name != "bindings.cpp"]
    program = tmp_path / "packer_test"
    options = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *FLAGS, *options, *sources, "-o", str(program)], check=True)
    found = subprocess.run([program, tmp_path], capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in found.stderr:
        pytest.skip("this compiler's ThreadSanitizer cannot run on this kernel's address layout")
    assert found.returncode == 0, found.stderr
    assert found.stdout == "36 packings hold\n"
