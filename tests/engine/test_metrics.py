"""The log of a stage survives a crash."""

import dataclasses
from pathlib import Path

import torch

from tresse.engine.metrics import Logbook, read_metrics
from tresse.engine.run.ranks import Ranks

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
