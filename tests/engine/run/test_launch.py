"""`tresse train`: torchrun's options are found anywhere, and the end is told in a line."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from tests.support.processes import run
from tresse.engine.run.launch import split

TRESSE = str(Path(sys.executable).with_name("tresse"))


@pytest.mark.parametrize(
    ("arguments", "options", "job"),
    [
        (
            "--nproc-per-node 2 demo --run-dir R",
            "--nproc-per-node 2",
            "demo --run-dir R",
        ),
        ("--run-dir R --nproc-per-node=2", "--nproc-per-node=2", "--run-dir R"),
        ("--standalone -- three.json --seed 1", "--standalone", "three.json --seed 1"),
        ("demo --max-restarts 3 --nnodes 1:2", "--max-restarts 3 --nnodes 1:2", "demo"),
        ("--nproc_per_node 2 tiny --help", "--nproc_per_node 2", "tiny --help"),
        ("--data.corpus C --compile", "", "--data.corpus C --compile"),
    ],
)
def test_options_of_torchrun_are_told_from_the_others(
    arguments: str, options: str, job: str
) -> None:
    assert split(get_args_parser(), arguments.split()) == (options.split(), job.split())


def tresse(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a verb in a folder of its own."""
    return run(TRESSE, *arguments, cwd=cwd, check=False)


def test_a_mistake_is_said_once_in_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    done = tresse("train", "--nproc-per-node", "2", "tiny", "--data.corpus", "none", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/none/corpus.json: cannot be read")
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_a_wrong_field_is_said_before_any_rank_starts(tmp_path: Path) -> None:
    done = tresse("train", "--nproc-per-node", "2", "tiny", "--optim.lrr", "1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("Perhaps you meant") == 1
    assert "run tresse train tiny --help" in " ".join(done.stderr.split())


def test_the_version_and_the_help_name_the_command(tmp_path: Path) -> None:
    assert tresse("--version", cwd=tmp_path).stdout == f"tresse {version('tresse')}\n"
    usage = tresse("train", "--help", cwd=tmp_path).stdout
    assert usage.startswith("usage: tresse train [OPTION ...] [RECIPE]")
    assert "--nproc-per-node" in usage


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_a_folder_that_cannot_be_read_is_a_line(tmp_path: Path, verb: str) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    os.mkfifo(corpus / "x")
    (corpus / "corpus.json").mkdir()
    done = tresse(verb, str(corpus), cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "corpus.json" in line
