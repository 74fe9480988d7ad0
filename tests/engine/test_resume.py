"""A run that was killed, stopped or moved to other ranks resumes as if nothing had happened."""

import json
import math
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.processes import ROOT, finish, start
from tests.support.small_run import (
    KILLED,
    STAGES,
    TRAIN,
    arguments,
    final_state,
    step_records,
    wait_for_step,
)
from tests.support.warm import torchrun
from tresse.engine.checkpoint.checkpoint import export_stage, newest, verify
from tresse.engine.checkpoint.state import read_state
from tresse.engine.run.logbook import read_metrics
from tresse.engine.run.provenance import read_starts
from tresse.engine.run.run_folder import read_changes

pytestmark = pytest.mark.slow


WRITER = "tresse.engine.checkpoint.writer"
# The function that dies, at which call, on which rank: a save is under way in all but the last.
ACCIDENTS = {
    "before the other rank's file is written": (f"{WRITER}.save_tensors", 3, 1),
    "before the other rank says that it has written": (f"{WRITER}._tell", 2, 1),
    "between the files and state.json": (f"{WRITER}.write_state", 2, 0),
    "between the rename and the pruning": (f"{WRITER}.all_checkpoints", 2, 0),
    "before an old checkpoint is removed": (f"{WRITER}.remove", 1, 0),
    "in the second stage between saves": ("tresse.engine.step.apply_gradient", 10, 1),
}


LONG = (
    "before the other rank says that it has written",
    "between the rename and the pruning",
    "before an old checkpoint is removed",
)


@pytest.mark.parametrize(
    "accident", [pytest.param(x, marks=pytest.mark.long) if x in LONG else x for x in ACCIDENTS]
)
def test_a_killed_run_equals_the_uninterrupted_one_bit_for_bit(
    world: Path, finished_run: Path, tmp_path: Path, accident: str
) -> None:
    run_dir = tmp_path / "run"
    target, call, rank = ACCIDENTS[accident]
    job = arguments(world, run_dir)
    killed = torchrun(2, KILLED, target, str(call), str(rank), *job, check=False)
    assert killed.returncode != 0
    torchrun(2, TRAIN, "--run-dir", str(run_dir))
    assert step_records(run_dir) == step_records(finished_run)
    assert final_state(run_dir) == final_state(finished_run)
    assert not list(run_dir.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("processes", "flags"),
    [
        (1, ["--micro-rows", "auto"]),
        pytest.param(3, [], marks=pytest.mark.long),
        (2, ["--sharding.zero-stage", "3"]),
    ],
)
def test_a_run_resumes_with_other_ranks_micro_batches_or_zero_level_and_is_scored_on_the_way(
    world: Path,
    killed_run: Path,
    finished_run: Path,
    tmp_path: Path,
    processes: int,
    flags: list[str],
) -> None:
    run_dir = shutil.copytree(killed_run, tmp_path / "run")
    assert newest(run_dir / "en") == run_dir / "en" / "step-00000006"
    scored = ["--data.cloze", str(world / "cloze"), "--score-every", "2", "--score-items", "5"]
    torchrun(processes, TRAIN, "--run-dir", str(run_dir), *flags, *scored)
    assert [start["ranks"] for start in read_starts(run_dir)] == [2, processes]
    for found, expected in zip(step_records(run_dir), step_records(finished_run), strict=True):
        assert found["tokens"] == expected["tokens"], "the rows are the same"
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    scores = [record for record in read_metrics(run_dir) if "cloze" in record]
    assert [(each["stage"], each["step"]) for each in scores] == [
        ("interleave", 2),
        ("en-fr", 2),
    ], "not at the end of a stage, when the whole set is asked"
    for each in scores:
        assert all(5 * score % 0.5 == 0 for score in each["cloze"].values()), "of 5 items"


def test_a_run_resumes_with_layers_recomputed_bit_for_bit_and_exports_its_stages(
    killed_run: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(killed_run, tmp_path / "run")
    flags = ["--recompute-layers", "2", "--checkpoint.export", "fp32"]
    torchrun(2, TRAIN, "--run-dir", str(run_dir), *flags)
    assert step_records(run_dir) == step_records(finished_run)
    state = final_state(finished_run)
    assert final_state(run_dir) == state
    for stage in STAGES:
        assert (run_dir / stage / "exported" / "tokenizer.json").exists()
    exported = load_file(run_dir / "en-fr" / "exported" / "model.safetensors")
    assert {name: array.tobytes() for name, array in exported.items()}.items() <= state.items()


def test_a_truncated_newest_checkpoint_is_named_and_the_one_before_it_used(
    killed_run: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(killed_run, tmp_path / "run")
    broken = run_dir / "en" / "step-00000006" / "model-00001-of-00002.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    done = torchrun(2, TRAIN, "--run-dir", str(run_dir))
    assert "step-00000006: model-00001-of-00002.safetensors has" in done.stderr
    assert "skipping this checkpoint" in done.stderr
    assert final_state(run_dir) == final_state(finished_run)


def test_pruning_keeps_good_checkpoints_and_removes_broken_newer_ones(
    killed_run: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(killed_run, tmp_path / "run")
    broken = run_dir / "en" / "step-00000006" / "state.json"
    broken.write_text("{")
    rhythm = ["--checkpoint.keep", "1", "--checkpoint.every", "4"]
    accident = ["tresse.engine.step.apply_gradient", "4", "0"]
    torchrun(1, KILLED, *accident, "--run-dir", str(run_dir), *rhythm, check=False)
    assert [path.name for path in (run_dir / "en").glob("step-*")] == ["step-00000004"]
    assert newest(run_dir / "en") == run_dir / "en" / "step-00000004"


def test_a_flipped_bit_in_a_checkpoint_is_found(finished_run: Path, tmp_path: Path) -> None:
    path = newest(finished_run / "en")
    assert path is not None
    copy = tmp_path / path.name
    copy.mkdir()
    for file in path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    verify(copy)
    content = bytearray((copy / "optimizer-00002-of-00002.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "optimizer-00002-of-00002.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"optimizer-00002.* has other content than its hash says"):
        verify(copy)


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM]
)
def test_a_signal_saves_and_exits_0_and_a_second_run_resumes(
    world: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, str(ROOT / TRAIN), *arguments(world, run_dir)]
    process = start(*command, "--checkpoint.every", "1000")
    wait_for_step(run_dir, 2, process)
    process.send_signal(number)
    done = finish(process)
    assert done.returncode == 0, done.stderr
    assert f"To resume: python {ROOT / TRAIN} --run-dir {run_dir}" in done.stdout
    stopped_at = step_records(run_dir)[-1]["step"]
    saved = newest(run_dir / "en")
    assert saved is not None
    assert read_state(saved).step == stopped_at
    torchrun(1, TRAIN, "--run-dir", str(run_dir))
    assert len(step_records(run_dir)) == sum(STAGES.values())


def test_a_signal_to_torchrun_stops_all_ranks_at_one_step_with_a_checkpoint(
    world: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node=2", str(ROOT / TRAIN)]
    process = start(*launcher, *arguments(world, run_dir), "--checkpoint.every", "1000")
    wait_for_step(run_dir, 2, process)
    process.send_signal(signal.SIGTERM)
    finish(process)  # torchrun's own status is its own
    saved = newest(run_dir / "en")
    assert saved is not None
    assert saved.name == f"step-{step_records(run_dir)[-1]['step']:08d}"


def test_a_flag_that_contradicts_the_run_is_an_error_that_names_the_field(
    finished_run: Path,
) -> None:
    done = torchrun(1, TRAIN, "--run-dir", str(finished_run), "--optim.lr", "1e-1", check=False)
    assert done.returncode != 0
    assert "optim.lr was 0.002, now 0.1" in done.stderr


def test_another_corpus_under_a_run_is_an_error(
    world: Path, killed_run: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(killed_run, tmp_path / "run")
    config = run_dir / "config.json"
    config.write_text(config.read_text().replace(str(world / "train"), str(world / "valid")))
    for what in ("run", "run/en/step-00000006"):
        done = torchrun(1, TRAIN, "--run-dir", str(run_dir), check=False)
        assert done.returncode != 0
        assert f"{tmp_path / what}: trained on the corpus" in done.stderr
        assert done.stderr.startswith("error: "), "no traceback of ours"
        (run_dir / "corpora.json").unlink(missing_ok=True)  # then the checkpoints tell


def test_a_stage_that_stopped_early_goes_on_as_if_it_had_not(
    world: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    flag = "--stages.2.stop-after"
    torchrun(2, TRAIN, *arguments(world, run_dir), flag, str(12 * 64 + 1))
    stopped = read_state(newest(run_dir / "en-fr") or run_dir)
    assert (stopped.step, stopped.finished) == (2, True), "rounded up to a step"
    torchrun(2, TRAIN, "--run-dir", str(run_dir), flag, "0")
    assert step_records(run_dir) == step_records(finished_run)
    assert final_state(run_dir) == final_state(finished_run)


def test_a_finished_run_gets_more_tokens_and_another_stage(
    finished_run: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    exported = run_dir / "en-fr" / "exported"
    export_stage(run_dir / "en-fr", exported, "fp32")
    done = torchrun(1, TRAIN, "--run-dir", str(run_dir), "--stages.0.tokens", "9999", check=False)
    assert "stage interleave has begun from the weights of stage en, which can no" in done.stderr

    longer = json.loads((run_dir / "config.json").read_text())
    longer["stages"][2]["tokens"] = 6 * 12 * 64
    more = {"name": "more", "tokens": 12 * 64, "streams": [{"languages": ["fr"]}]}
    longer["stages"].append(more)
    recipe = tmp_path / "longer.json"
    recipe.write_text(json.dumps(longer))
    flags = ["--run-dir", str(run_dir), "--checkpoint.export", "fp32"]
    torchrun(1, TRAIN, str(recipe), *flags)

    records, before = step_records(run_dir), step_records(finished_run)
    assert records[: len(before)] == before
    added = [(record["stage"], record["step"]) for record in records[len(before) :]]
    assert added == [("en-fr", 5), ("en-fr", 6), ("more", 1)]
    assert [line["field"] for line in read_changes(run_dir)] == ["stages.2.tokens", "stages.3"]
    assert read_state(exported).step == 6, "the export was replaced"
    torchrun(1, TRAIN, str(recipe), *flags)
    assert step_records(run_dir) == records, "nothing is left to do"


def test_a_run_reads_two_corpora_by_weights_and_resumes_only_with_both(
    world: Path, tmp_path: Path
) -> None:
    run_dir, corpora = tmp_path / "run", [str(world / "train"), str(world / "valid")]
    job = arguments(world, run_dir)
    several = [*job, "--data.corpus", *corpora, "--data.weights", "3", "1", "--data.valid", ""]
    done = torchrun(2, TRAIN, *several, "--stages.1.stop-after", "1", "--data.pack-on", "device")
    for name, targets in (("train", 3 * 8 * 12 * 64 // 4), ("valid", 8 * 12 * 64 // 4)):
        assert re.search(rf"en mono of {name}: .* {targets:,} targets", done.stdout)
    assert all(math.isfinite(record["loss"]) for record in step_records(run_dir))
    resumed = ["--run-dir", str(run_dir), "--data.corpus"]
    refused = torchrun(1, TRAIN, *resumed, *reversed(corpora), check=False)
    assert "trained on the corpus" in refused.stderr
    again = torchrun(1, TRAIN, *resumed, *corpora, "--stages.1.stop-after", "0", check=False)
    assert "stage en-fr has begun from the weights of stage interleave" in again.stderr


def test_an_edited_configuration_is_an_error(killed_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(killed_run, tmp_path / "run")
    config = run_dir / "config.json"
    config.write_text(config.read_text().replace('"lr": 0.002', '"lr": 0.001'))
    done = torchrun(1, TRAIN, "--run-dir", str(run_dir), check=False)
    assert done.returncode != 0
    assert "config.json: differs from what" in done.stderr
    assert "optim.lr was 0.002, now 0.001" in done.stderr
    config.write_text(config.read_text().replace('"lr": 0.001', '"lr": 0.002'))
    torchrun(1, TRAIN, "--run-dir", str(run_dir), "--optim.lr", "0.001")
    changes = [json.loads(line) for line in (run_dir / "changes.jsonl").read_text().splitlines()]
    assert changes == [{"field": "optim.lr", "old": 0.002, "new": 0.001}]
    assert len(step_records(run_dir)) == sum(STAGES.values())
