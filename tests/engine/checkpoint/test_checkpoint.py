"""The uses of a finished stage: transformers, another run, scores in another folder."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.processes import run
from tests.support.small_run import TRAIN, arguments, step_records
from tests.support.warm import torchrun
from tresse.engine.checkpoint.checkpoint import (
    export_stage,
    load_model,
    open_checkpoint,
    open_finished,
)
from tresse.engine.checkpoint.writer import Writer
from tresse.engine.run.config import CheckpointConfig
from tresse.engine.run.logbook import read_metrics
from tresse.engine.run.ranks import Ranks

TRESSE = str(Path(sys.executable).with_name("tresse"))
ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))

pytestmark = pytest.mark.slow


def test_an_exported_stage_gives_the_same_logits_in_transformers(
    finished_run: Path, tmp_path: Path
) -> None:
    export_stage(finished_run / "en-fr", tmp_path / "exported", "fp32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    checkpoint = open_finished(finished_run / "en-fr")
    ours = load_model(checkpoint, torch.float32, torch.device("cpu"))
    vocab = checkpoint.state.vocabulary.num_used
    assert theirs.config.eos_token_id == checkpoint.state.vocabulary.eos
    tokens = torch.randint(0, vocab, (3, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-5)


def test_a_checkpoint_can_be_read_by_whoever_may_read_the_run(finished_run: Path) -> None:
    path = open_finished(finished_run / "en").path
    modes = {file.stat().st_mode & 0o777 for file in path.iterdir()}
    assert modes == {(path / "state.json").stat().st_mode & 0o777}


def test_an_unfinished_stage_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished stage"):
        export_stage(tmp_path, tmp_path / "exported", "fp32")


def test_another_run_starts_from_a_stage_of_this_one(
    world: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    init = ["--init", str(finished_run / "en-fr"), "--stages.1.tokens", "800"]
    torchrun(1, TRAIN, *arguments(world, run_dir), *init)
    before, after = step_records(finished_run), step_records(run_dir)
    assert after[0]["loss"] < before[0]["loss"] - 0.1, "the weights came along"
    trained = before[-1]["tokens"]
    assert after[0]["tokens"]["en"] == trained["en"] + 12 * 64, "and so did the count of targets"


def test_a_run_logs_speed_memory_waiting_and_held_out_loss(finished_run: Path) -> None:
    rows = read_metrics(finished_run)
    steps = [row for row in rows if "loss" in row]
    for row in steps:
        assert row["tokens_per_s"] > 0
        assert 0 <= row["data_wait_s"] <= row["step_s"]
        assert row["memory_gib"] > 0
    heldout = {(r["stage"], r["step"]): r["heldout_loss"] for r in rows if "heldout_loss" in r}
    assert list(heldout) == [("en", 4), ("en", 8), ("interleave", 4), ("en-fr", 4)]
    assert set(heldout["en-fr", 4]) == {"en", "fr"}
    saves = [row for row in rows if "save_s" in row]
    assert [(row["stage"], row["step"]) for row in saves][-1] == ("en-fr", 4)
    assert all(0 < row["stall_s"] < row["save_s"] for row in saves)
    assert steps[-1]["loss_by_language"].keys() == {"en", "fr"}


def test_a_mono_stage_trains_on_its_budget_to_the_token(finished_run: Path) -> None:
    state = open_finished(finished_run / "en").state
    assert state.tokens == {"en": 8 * 12 * 64, "fr": 0}


def test_scores_hold_the_alignment_of_every_layer(finished_run: Path) -> None:
    scores = json.loads((finished_run / "en-fr" / "scores.json").read_text())
    alignment = scores["alignment"]["en-fr"]
    assert len(alignment["aligned"]) == len(alignment["random"]) == 2 + 1
    assert alignment["num_sentences"] > 50
    assert all(-1 <= value < 0.9999 for value in alignment["random"])


def test_scores_are_made_again_for_another_cloze_set(
    world: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    other = tmp_path / "cloze"
    shutil.copytree(world / "cloze", other)
    lines = (other / "items.jsonl").read_text().splitlines(keepends=True)
    (other / "items.jsonl").write_text("".join(lines[:10]))
    scores = run_dir / "en" / "scores.json"
    torchrun(1, TRAIN, "--run-dir", str(run_dir))
    assert scores.read_bytes() == (finished_run / "en" / "scores.json").read_bytes()
    torchrun(1, TRAIN, "--run-dir", str(run_dir), "--data.cloze", str(other))
    assert sum(cell["num_items"] for cell in json.loads(scores.read_text())["cloze"]) == 10 * 4


def test_a_step_and_an_exported_folder_are_scored_like_the_stage(
    world: Path, finished_run: Path, tmp_path: Path
) -> None:
    stage = finished_run / "en"
    (step,) = stage.glob("step-*8")
    export_stage(step, tmp_path / "exported", "fp32")
    expected = (stage / "answers.jsonl").read_text()
    assert open_checkpoint(step).path == step
    flags = ["--cloze", str(world / "cloze"), "--out", str(tmp_path / "scores")]
    run(TRESSE, "score", str(tmp_path / "exported"), *flags)
    assert (tmp_path / "scores" / "answers.jsonl").read_text() == expected


@pytest.mark.parametrize("name", ["scores.json", "answers.jsonl"])
def test_changed_scores_are_made_again(finished_run: Path, tmp_path: Path, name: str) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    file = run_dir / "interleave" / name
    original = file.read_text()
    file.write_text(original.replace("1", "2", 1))
    done = torchrun(1, TRAIN, "--run-dir", str(run_dir))
    assert f"interleave: {name} was changed" in done.stderr
    assert file.read_text() == original


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_finished(finished_run / "en")
    model = load_model(checkpoint, torch.float32, ALONE.device)
    with torch.no_grad():
        model.norm.weight[3] = float("inf")
    weights = [(name, {"weight": p.detach()}) for name, p in model.named_parameters()]
    monkeypatch.setattr("tresse.engine.checkpoint.writer.full_state", lambda _: weights)
    engine = SimpleNamespace(module=model)
    with pytest.raises(FloatingPointError, match=r"stage en, step 8: 1 tensors .* norm\.weight"):
        Writer(tmp_path, CheckpointConfig(), ALONE, 1.0).save(engine, checkpoint.state)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(checkpoint, "weight", lambda name, _: dict(weights)[name]["weight"])
    with pytest.raises(ValueError, match=r"step-00000008: norm\.weight is not finite; use another"):
        load_model(checkpoint, torch.float32, ALONE.device)


@pytest.mark.long
def test_a_compiled_run_has_the_losses_of_an_eager_one(
    world: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    torchrun(1, TRAIN, *arguments(world, run_dir), "--compile", "--data.valid", "")
    for found, expected in zip(step_records(run_dir), step_records(finished_run), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
