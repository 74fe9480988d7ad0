"""The run's folder: its configuration on disk and its lock."""

import dataclasses
import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from tresse.engine.run.config import KernelsConfig
from tresse.engine.run.recipes import tiny
from tresse.engine.run.run_folder import (
    check_trained,
    find_changes,
    lock_run,
    read_changes,
    read_config,
    write_changes,
    write_config,
)


def test_what_is_trained_may_not_change_and_every_difference_is_named(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny(), run_dir=str(tmp_path))
    write_config(config)
    assert find_changes(config) == []
    stages = (dataclasses.replace(config.stages[0], tokens=5), *config.stages[1:])
    with pytest.raises(ValueError, match=r"stages\.0\.tokens was 800000, now 5; seed was 0, now 1"):
        find_changes(dataclasses.replace(config, stages=stages, seed=1))


def test_a_second_process_in_the_folder_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny(), run_dir=str(tmp_path / "run"))
    with multiprocessing.get_context("spawn").Pool(1) as other:
        other.apply(lock_run, (config,))
        with pytest.raises(ValueError, match=r"process \d+ on .* trains there"):
            lock_run(config)
    lock_run(config)  # the other one has ended


def test_how_it_is_trained_may_change(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny(), run_dir=str(tmp_path))
    write_config(config)
    kernels = KernelsConfig(attention="triton")
    changed = dataclasses.replace(config, micro_rows=1, valid_every=7, compile=True)
    assert find_changes(dataclasses.replace(changed, kernels=kernels)) == []


def test_a_damaged_configuration_is_named_with_its_field(tmp_path: Path) -> None:
    write_config(dataclasses.replace(tiny(), run_dir=str(tmp_path)))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"rows_per_step": 24', '"rows_per_step": "many"'))
    with pytest.raises(ValueError, match=r"config\.json: rows_per_step: "):
        read_config(tmp_path)


def test_a_lower_learning_rate_is_allowed_and_recorded(tmp_path: Path) -> None:
    started = dataclasses.replace(tiny(), run_dir=str(tmp_path))
    write_config(started)
    lower = dataclasses.replace(started, optim=dataclasses.replace(started.optim, lr=1e-3))
    changes = find_changes(lower)
    assert [tuple(change) for change in changes] == [("optim.lr", 2e-3, 1e-3)]
    write_changes(lower, changes)
    write_config(lower)
    check_trained(lower, tmp_path / "en", started)
    assert read_changes(tmp_path) == [{"field": "optim.lr", "old": 2e-3, "new": 1e-3}]
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.001, now 0\.002"):
        find_changes(started)


def test_a_stage_may_become_longer_and_stages_may_follow(tmp_path: Path) -> None:
    started = dataclasses.replace(tiny(), run_dir=str(tmp_path))
    en, interleave, en_fr = started.stages
    en_fr = dataclasses.replace(en_fr, stop_after=1000)
    started = dataclasses.replace(started, stages=(en, interleave, en_fr))
    write_config(started)
    longer = dataclasses.replace(en_fr, tokens=500_000, stop_after=0)
    more = dataclasses.replace(en, name="more")
    config = dataclasses.replace(started, stages=(en, interleave, longer, more))
    changes = find_changes(config)
    fields = ["stages.2.tokens", "stages.2.stop_after", "stages.3"]
    assert [change.field for change in changes] == fields
    assert [change.longer_stage for change in changes] == [2, 2, None]
    write_changes(config, changes)
    write_config(config)
    check_trained(config, tmp_path / "en", started)
    with pytest.raises(ValueError, match=r"stop_after was 0, now 1000; stage more was rem"):
        find_changes(started)


def test_an_edited_configuration_is_held_against_the_checkpoints(tmp_path: Path) -> None:
    trained = dataclasses.replace(tiny(), run_dir=str(tmp_path))
    edited = dataclasses.replace(trained, seed=3, micro_rows=2)
    write_config(edited)
    with pytest.raises(ValueError, match=r"config\.json: differs .*: seed was 0, now 3\. Restore"):
        check_trained(edited, tmp_path / "en", trained)


def test_an_unknown_field_is_named_with_the_nearest(tmp_path: Path) -> None:
    write_config(dataclasses.replace(tiny(), run_dir=str(tmp_path)))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"rope_theta"', '"rope_teta"'))
    with pytest.raises(
        ValueError, match=r"no field model\.rope_teta; did you mean model\.rope_theta"
    ):
        read_config(tmp_path)


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    lock_run(dataclasses.replace(tiny(), run_dir=str(tmp_path)))
    assert "no locks here ([Errno 38] Function not implemented)" in caplog.text
