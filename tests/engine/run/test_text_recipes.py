"""Recipes of text beside speech: the toy one trained from start to end, the others planned."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.processes import run
from tresse.data.packing.settings import Stream
from tresse.engine.checkpoint.checkpoint import export_stage
from tresse.engine.forecast.schedule import forecast_stages, vocabulary
from tresse.engine.run.recipes import RECIPES, dialogues, recognition, synthesis

SMALL = (
    "--data.story-world.aligned-documents 120 --data.story-world.valid-documents 12 "
    "--data.story-world.cloze-documents 36 --model.hidden-size 32 --model.num-layers 1 "
    "--model.num-heads 2 --model.num-kv-heads 1 --model.head-dim 16 --model.intermediate-size 64 "
    "--rows-per-step 4 --micro-rows 4 --valid-every 1000"
)
SETUPS = ["apart", "apart-sft", "cpt", "cpt-sft", "spirit", "spirit-sft"]


@pytest.mark.slow
def test_the_demo_of_text_trains_and_scores_every_stage(tmp_path: Path) -> None:
    tokens = " ".join(f"--stages.{number}.tokens 2400" for number in range(len(SETUPS)))
    folder = tmp_path / "run"
    command = [
        "engine/train.py",
        "demo-text",
        "--run-dir",
        str(folder),
        *f"{SMALL} {tokens}".split(),
    ]
    done = run(sys.executable, *command)
    lines = json.loads((folder / "table.json").read_text())
    assert [line["setup"] for line in lines] == SETUPS
    for line in lines:
        assert set(line["scores"]) == {"sTC", "QA"}
        assert len(line["scores"]["QA"]) == 16, "all pairs of four languages"
    assert sum(lines[0]["tokens"].values()) == 2400
    assert lines[1]["tokens"]["en-question-text"] == 0, "questions are not trained on"
    assert lines[1]["tokens"]["en-answer"] > 0
    assert "-> en-text" in done.stdout
    assert (folder / "tokenizer.json").exists()
    export_stage(folder / "spirit-sft", tmp_path / "exported", "fp32")
    added = json.loads((tmp_path / "exported" / "tokenizer.json").read_text())["added_tokens"]
    assert {"<asr>", "<tts>", "<mt>", "<Un0>"} <= {token["content"] for token in added}


@pytest.mark.parametrize("name", ["cslm-cpt", "cslm-sft", "spirit"])
def test_plans_without_a_corpus_count_the_text_of_llama_3(name: str) -> None:
    config = RECIPES[name]()
    assert vocabulary(config, {}).width == 130_432
    for stage, found in zip(
        config.stages, forecast_stages(config, config.rows_per_step, {}), strict=True
    ):
        counted = {
            language
            for stream in stage.streams
            for language in stream.loss_on or stream.all_languages
        }
        assert set(found.tokens) == counted
        assert sum(found.tokens.values()) == pytest.approx(stage.tokens)


def test_streams_of_cslm_learn_what_comes_second() -> None:
    assert recognition("zh").loss_on == ("zh-text",)
    assert recognition("zh").all_languages == ("zh", "zh-text")
    assert synthesis("zh").all_languages == ("zh-text", "zh")
    turns: Stream = dialogues("en", (7, 7))
    assert turns.all_languages == ("en-question-text", "en-answer-text", "en-answer")
    assert (turns.unit, turns.words, turns.language_order) == ("words", (7, 7), "fixed")
    assert turns.loss_on == turns.languages
