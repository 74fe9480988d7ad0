"""The run's folder: its configuration on disk and its lock."""

import dataclasses
import multiprocessing
from pathlib import Path

import pytest

from tresse.engine.run.config import KernelsConfig
from tresse.engine.run.recipes import tiny
from tresse.engine.run.run_folder import (
    check_same_config,
    lock_run,
    read_config,
    write_config,
)


def test_what_is_trained_may_not_change_and_every_difference_is_named(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny(), run_dir=str(tmp_path))
    write_config(config)
    check_same_config(config)
    stages = (dataclasses.replace(config.stages[0], tokens=5), *config.stages[1:])
    with pytest.raises(ValueError, match=r"stages\.0\.tokens was 800000, now 5; seed was 0, now 1"):
        check_same_config(dataclasses.replace(config, stages=stages, seed=1))


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
    check_same_config(dataclasses.replace(changed, kernels=kernels))


def test_a_damaged_configuration_is_named_with_its_field(tmp_path: Path) -> None:
    write_config(dataclasses.replace(tiny(), run_dir=str(tmp_path)))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"rows_per_step": 24', '"rows_per_step": "many"'))
    with pytest.raises(ValueError, match=r"config\.json: rows_per_step: "):
        read_config(tmp_path)
