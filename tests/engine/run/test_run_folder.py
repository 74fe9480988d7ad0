"""The run's files: the configuration, and metrics that survive a crash."""

import dataclasses
import multiprocessing
from pathlib import Path

import pytest
import torch

from tresse.engine.run.config import KernelsConfig
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.recipes import tiny
from tresse.engine.run.run_folder import (
    Logbook,
    check_same_run,
    lock_run,
    read_config,
    read_metrics,
    write_config,
)

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


def test_a_last_line_that_a_crash_cut_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"stage": "en", "step": 1}\n{"stage": "en", "st')
    assert read_metrics(tmp_path) == [{"stage": "en", "step": 1}]


def test_a_resumed_stage_drops_the_rows_that_it_will_repeat(tmp_path: Path) -> None:
    with Logbook(tmp_path, "en", 0, ALONE) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": float(step)})
    with Logbook(tmp_path, "fr", 0, ALONE) as log:
        log.write(1, {"loss": 9.0, "heldout_loss": {"fr": 1.0}})
    with Logbook(tmp_path, "en", 2, ALONE) as log:
        log.write(3, {"loss": 30.0})
    found = [(row["stage"], row["step"], row["loss"]) for row in read_metrics(tmp_path)]
    assert found == [("en", 1, 1.0), ("en", 2, 2.0), ("fr", 1, 9.0), ("en", 3, 30.0)]


def test_another_rank_writes_nothing(tmp_path: Path) -> None:
    with Logbook(tmp_path, "en", 0, dataclasses.replace(ALONE, rank=1)) as log:
        log.write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_what_is_trained_may_not_change_and_every_difference_is_named(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny(), run_dir=str(tmp_path))
    write_config(config)
    check_same_run(config)
    stages = (dataclasses.replace(config.stages[0], tokens=5), *config.stages[1:])
    with pytest.raises(ValueError, match=r"stages\.0\.tokens was 800000, now 5; seed was 0, now 1"):
        check_same_run(dataclasses.replace(config, stages=stages, seed=1))


def test_a_second_process_in_the_folder_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny(), run_dir=str(tmp_path / "run"))
    with multiprocessing.get_context("spawn").Pool(1) as other:
        other.apply(lock_run, (config,))
        with pytest.raises(ValueError, match="another process trains there"):
            lock_run(config)
    lock_run(config)  # the other one has ended


def test_how_it_is_trained_may_change(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny(), run_dir=str(tmp_path))
    write_config(config)
    kernels = KernelsConfig(attention="triton")
    changed = dataclasses.replace(config, micro_rows=1, valid_every=7, compile=True)
    check_same_run(dataclasses.replace(changed, kernels=kernels))


def test_a_damaged_configuration_is_named_with_its_field(tmp_path: Path) -> None:
    write_config(dataclasses.replace(tiny(), run_dir=str(tmp_path)))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"rows_per_step": 24', '"rows_per_step": "many"'))
    with pytest.raises(ValueError, match=r"config\.json: rows_per_step: "):
        read_config(tmp_path)
