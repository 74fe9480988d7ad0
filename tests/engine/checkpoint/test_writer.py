"""A checkpoint is written while training goes on, whole or not at all, and those asked for stay."""

import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.processes import ROOT, finish, start
from tests.support.small_run import TRAIN, arguments, step_records, wait_for_step
from tests.support.warm import torchrun
from tresse.engine.checkpoint import writer as module
from tresse.engine.checkpoint.checkpoint import Checkpoint, load_model, newest, open_finished
from tresse.engine.checkpoint.state import State
from tresse.engine.checkpoint.writer import Writer
from tresse.engine.run.config import CheckpointConfig
from tresse.engine.run.ranks import Ranks

TRESSE = str(Path(sys.executable).with_name("tresse"))
CPU = torch.device("cpu")
ALONE = Ranks(rank=0, world_size=1, device=CPU)
FIRST_OF_TWO: Any = SimpleNamespace(
    rank=0, world_size=2, is_first=True, barrier=lambda: None, any=bool
)
MOMENTS = {"exp_avg": torch.zeros(()), "exp_avg_sq": torch.zeros(())}


@pytest.fixture
def trained(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, State]:
    """An engine, in place of a real one, and the state of its stage."""
    checkpoint = open_finished(finished_run / "en")
    model = load_model(checkpoint, torch.float32, CPU)

    def full_state(_engine: object):
        for name, parameter in model.named_parameters():
            moments = {key: torch.zeros_like(parameter) for key in MOMENTS}
            yield name, {"weight": parameter.detach()} | moments

    monkeypatch.setattr(module, "full_state", full_state)
    return SimpleNamespace(module=model), checkpoint.state


class Gate:
    """Holds a function back until it is opened."""

    def __init__(self, function: Any) -> None:
        self.function, self.opened = function, threading.Event()

    def __call__(self, *inputs: Any) -> Any:
        """Call the function once the gate is open."""
        assert self.opened.wait(60)
        return self.function(*inputs)


@pytest.mark.slow
def test_what_is_written_is_the_state_at_the_save_not_a_later_one(
    trained: tuple[Any, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, state = trained
    gate = Gate(module.save_tensors)
    monkeypatch.setattr(module, "save_tensors", gate)
    weight = engine.module.norm.weight
    before = weight.detach().clone()
    writer = Writer(tmp_path, CheckpointConfig(), ALONE, 1.0)
    writer.save(engine, state)
    assert writer.completed() == []
    with torch.no_grad():
        weight += 1  # training goes on
    assert newest(tmp_path) is None
    gate.opened.set()
    writer.close()
    (saved,) = writer.completed()
    assert saved.step == state.step
    assert 0 < saved.stall_s <= saved.save_s
    path = newest(tmp_path)
    assert path is not None
    assert torch.equal(Checkpoint(path).weight("norm.weight", engine.module), before)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["raise_failure", "wait", "close", "save"])
def test_an_error_while_one_is_written_is_raised_by_the_next_call(
    trained: tuple[Any, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def full(_tensors: object, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "save_tensors", full)
    writer = Writer(tmp_path, CheckpointConfig(), ALONE, 1.0)
    writer.save(*trained)
    pending = writer._pending
    assert pending is not None
    assert pending.exception(60) is not None
    assert writer.has_failed
    assert writer.completed() == []
    with pytest.raises(OSError, match=r"No space left .*step-00000008\.tmp/model-00001-of-00001"):
        getattr(writer, method)(*(trained if method == "save" else ()))
    assert newest(tmp_path) is None


@pytest.mark.slow
def test_an_error_of_another_rank_is_one_of_the_first(
    trained: tuple[Any, State], tmp_path: Path
) -> None:
    writer = Writer(tmp_path, CheckpointConfig(), FIRST_OF_TWO, 60.0)
    writer.save(*trained)
    (tmp_path / "step-00000008.tmp" / "share-00001.json").write_text('{"error": "disk on fire"}')
    with pytest.raises(OSError, match="rank 1: disk on fire"):
        writer.wait()


@pytest.mark.slow
def test_a_rank_that_writes_nothing_is_named_and_not_waited_for_after_a_failure(
    trained: tuple[Any, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path, CheckpointConfig(), FIRST_OF_TWO, 0.1)
    writer.save(*trained)
    with pytest.raises(TimeoutError, match="rank 1 has not written its share"):
        writer.wait()
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    writer = Writer(tmp_path, CheckpointConfig(), FIRST_OF_TWO, 3600.0)
    writer.save(*trained)
    writer.hurry()
    with pytest.raises(TimeoutError, match="rank 1 has not written its share"):
        writer.wait()


@pytest.mark.slow
def test_checkpoints_that_are_asked_for_are_written_and_stay(world: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    rhythm = {"every": 3, "keep": 1, "keep-every": 6}
    flags = [word for name, n in rhythm.items() for word in (f"--checkpoint.{name}", str(n))]
    torchrun(1, TRAIN, *arguments(world, run_dir), *flags, "--checkpoint.at", "1", "5")
    steps = sorted(int(path.name.removeprefix("step-")) for path in (run_dir / "en").glob("step-*"))
    assert steps == [1, 5, 6, 8]


@pytest.mark.slow
@pytest.mark.parametrize("answer", [pytest.param("save", marks=pytest.mark.long), "stop"])
def test_sigusr1_saves_and_stops_only_if_told_to(world: Path, tmp_path: Path, answer: str) -> None:
    """To save, two ranks of `tresse train`, which passes it on; to stop, one process."""
    run_dir = tmp_path / "run"
    rhythm = ["--checkpoint.every", "1000", "--checkpoint.on-sigusr1", answer]
    rhythm += ["--checkpoint.keep", "9", "--stages.0.tokens", str(100 * 12 * 64)]
    command = [sys.executable, str(ROOT / TRAIN)]
    if answer == "save":
        command = [TRESSE, "train", "--standalone", "--nproc-per-node=2"]
    process = start(*command, *arguments(world, run_dir), *rhythm)
    wait_for_step(run_dir, 2, process)
    process.send_signal(signal.SIGUSR1)
    done = finish(process)
    assert done.returncode == 0, done.stderr
    steps = sorted(int(path.name.removeprefix("step-")) for path in (run_dir / "en").glob("step-*"))
    last = step_records(run_dir)[-1]
    if answer == "save":
        assert 2 < steps[0] < 100
        assert steps[1:] == [100]
        assert (last["stage"], last["step"]) == ("en-fr", 4)
    else:
        assert "Stopped and saved" in done.stdout
        assert steps == [last["step"]]


def test_the_folder_may_have_its_name_as_soon_as_the_last_rank_has_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, final = tmp_path / "step-00000003.tmp", tmp_path / "step-00000003"
    folder.mkdir()
    replace = Path.replace

    def replace_and_commit(path: Path, target: Path) -> None:
        replace(path, target)
        folder.rename(final)  # as the first rank does when it sees the file

    monkeypatch.setattr(Path, "replace", replace_and_commit)
    module._tell(folder, 1, {"files": {}})
    assert (final / "share-00001.json").read_text() == '{"files": {}}'
