"""The log of a run survives a crash, a damaged disk, and TensorBoard."""

import dataclasses
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tresse.engine.run.logbook import Logbook, check_log, curve_name, read_metrics
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.recipes import demo

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


def test_a_last_line_that_a_crash_cut_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"stage": "en", "step": 1}\n{"stage": "en", "st')
    assert read_metrics(tmp_path) == [{"stage": "en", "step": 1}]


def test_a_resumed_stage_drops_the_records_that_it_will_repeat(tmp_path: Path) -> None:
    with Logbook(tmp_path, "en", 0, ALONE) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": float(step)})
    with Logbook(tmp_path, "fr", 0, ALONE) as log:
        log.write(1, {"loss": 9.0, "heldout_loss": {"fr": 1.0}})
    with Logbook(tmp_path, "en", 2, ALONE) as log:
        log.write(3, {"loss": 30.0})
    found = [(r["stage"], r["step"], r["loss"]) for r in read_metrics(tmp_path)]
    assert found == [("en", 1, 1.0), ("en", 2, 2.0), ("fr", 1, 9.0), ("en", 3, 30.0)]


def test_another_rank_writes_nothing(tmp_path: Path) -> None:
    with Logbook(tmp_path, "en", 0, dataclasses.replace(ALONE, rank=1)) as log:
        log.write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_damaged_log_is_repaired_and_what_is_lost_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f'{{"stage": "en", "step": {step}, "loss": 1.0}}\n'.encode() for step in range(1, 6)]
    lines[1:4] = [b"\0" * 40 + b"\n", b'{"stage": "en", \xff}\n', b"\n"]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: .*; a run that resumes repairs"):
        read_metrics(tmp_path)
    with Logbook(tmp_path, "en", 5, ALONE):
        pass
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 5]
    for number in (2, 3, 4):
        assert f"{path}:{number}: " in caplog.text
    assert f"{path}: 3 steps of en are not recorded, the first is 2" in caplog.text


def test_a_number_that_json_does_not_have_is_refused(tmp_path: Path) -> None:
    with (
        Logbook(tmp_path, "en", 0, ALONE) as log,
        pytest.raises(ValueError, match="compliant"),
    ):
        log.write(1, {"loss": float("nan")})


def test_a_run_goes_on_without_tensorboard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("no folder")
    with Logbook(tmp_path, "en", 0, ALONE) as log:
        log.write(1, {"loss": 1.0})
        log.write(2, {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 2
    assert caplog.text.count("no more curves") == 1


def test_stages_are_one_curve_over_their_tokens(tmp_path: Path) -> None:
    for stage, tokens in (("en", [10, 20]), ("fr", [30, 40])):
        with Logbook(tmp_path, stage, 0, ALONE, tokens=tokens[0] - 10, curve="en+fr") as log:
            for step, count in enumerate(tokens, 1):
                log.write(step, {"loss": float(count), "tokens": {"en": count - 1, "fr": 1}})
    events = EventAccumulator(str(tmp_path / "tensorboard" / "en+fr"))
    events.Reload()
    points = [(point.step, point.value) for point in events.Scalars("loss/all")]
    assert points == [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.0)]


def test_a_stage_that_starts_elsewhere_has_a_curve_of_its_own() -> None:
    stages = demo().stages
    names = [curve_name(stages, stage.name) for stage in stages]
    assert names == ["en+interleave+en-fr"] * 3 + ["baseline-en-fr"]


class Wandb(ModuleType):
    """Weights & Biases, as far as we use it: keeps what it is given."""

    class Error(Exception):
        """Base of its errors."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__("wandb")
        self.fails = fails
        self.given: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.num_finished = 0
        self.Settings = SimpleNamespace

    def init(self, **given: Any) -> "Wandb":
        if self.fails:
            raise Wandb.Error("No API key configured")
        self.given.append(given)
        return self

    def define_metric(self, name: str, **how: str) -> None:
        assert name == "tokens" or how == {"step_metric": "tokens"}

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.num_finished += 1


def test_a_resumed_stage_goes_on_in_its_run_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    for step, stage in enumerate(("en", "en", "fr")):
        curve = "en+other" if stage == "en" else stage
        with Logbook(tmp_path, stage, step, ALONE, curve=curve, wandb={"seed": 3}) as log:
            record = {"loss_by_language": {"en": 1.0 + step, "fr": None}, "tokens": {"en": step}}
            log.write(step + 1, record)
    first, resumed, other = wandb.given
    assert first == resumed
    assert (first["resume"], first["config"], first["project"]) == ("allow", {"seed": 3}, "tresse")
    assert first["name"] == f"{tmp_path.name}/en+other"
    assert other["id"] != first["id"]
    assert wandb.logged == [{"loss/en": 1.0 + step, "tokens": step} for step in range(3)]
    assert wandb.num_finished == 3
    assert len(read_metrics(tmp_path)) == 3


def test_a_run_goes_on_without_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Wandb(fails=True))
    with Logbook(tmp_path, "en", 0, ALONE, wandb={}) as log:
        log.write(1, {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 1
    assert caplog.text.count("Weights & Biases: no more curves (No API key configured)") == 1


def test_a_package_that_is_missing_is_an_error_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(demo(), log="wandb")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (tmp_path / "wandb").mkdir()  # its own files, not the package
    with pytest.raises(ValueError, match=r"pip install 'tresse\[wandb\]'"):
        check_log(config)
    (tmp_path / "wandb" / "__init__.py").touch()
    check_log(config)
    check_log(demo())
