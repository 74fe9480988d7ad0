"""`tresse profile` on a CPU: the table, the trace, and what they are made of."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from tests.support.processes import run

pytestmark = pytest.mark.slow

SMALL = "tiny --rows-per-step 4 --micro-rows 1 --data.packing.row-length 64 --steps 2 --warmup 1"
TRESSE = str(Path(sys.executable).with_name("tresse"))


def test_a_profile_has_every_part_of_a_step_and_its_floor(tmp_path: Path) -> None:
    ranks = 2
    out = tmp_path / "profile"
    options = ["--nproc-per-node", str(ranks), "--standalone"]
    flags = ["--sharding.precision", "bf16", "--recompute-layers", "2", "--out", str(out)]
    printed = run(TRESSE, "profile", *options, *SMALL.split(), *flags, cwd=tmp_path).stdout
    found = json.loads((out / "profile.json").read_text())
    parts = {"matmul", "attention", "norm", "swiglu", "rope", "loss", "optimizer", "embedding"}
    assert parts <= {name for name, seconds in found["parts"].items() if seconds > 0}
    assert parts <= found["floors"].keys()
    assert 0 < found["busy_s"] <= found["step_s"] * 1.05
    assert found["tokens"] == 4 * 64 // ranks
    assert f"tiny on {ranks} x cpu" in printed
    assert "floor ms" in printed
    assert not (out / "corpus").exists()
    for rank in range(ranks):
        with gzip.open(out / f"trace-{rank}.json.gz") as file:
            names = {event.get("name") for event in json.load(file)["traceEvents"]}
        assert {"tresse.part.norm", "tresse.part.attention", "aten::mm"} <= names


def test_a_full_folder_and_an_unknown_recipe_are_mistakes(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    two = ["--nproc-per-node", "2", "--standalone"]
    said = run(TRESSE, "profile", *two, *SMALL.split(), "--out", str(tmp_path), check=False).stderr
    assert "is not an empty folder" in said
    assert "Traceback" not in said
    assert "no recipe 'huge'" in run(TRESSE, "profile", "huge", check=False).stderr
