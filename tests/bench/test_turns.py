"""The tokens before the first sound of an answer: counted by hand, and of a model."""

import json
from pathlib import Path

import pytest

from tests.support.foreign.text_models import write_turns_stage
from tresse.bench.turns import Options, before_first_sound, main
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.text_tokenizer import identify_text_tokenizer
from tresse.engine.generation.turns import Turn

SWITCH = Turn("token", [2])


def test_a_full_chain_has_all_text_before_the_first_units() -> None:
    turns = [Turn("text", [1, 2]), SWITCH, Turn("units", [5, 6, 7]), SWITCH, Turn("text", [3])]
    assert before_first_sound([*turns, SWITCH, Turn("units", [8])]) == (2 + 1 + 3, 3 + 1 + 3)
    assert before_first_sound(turns[:2]) is None


def test_a_model_is_asked_and_the_result_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = write_turns_stage(tmp_path / "run")
    file = tmp_path / "run" / "tokenizer.json"
    questions = [Document(str(i), "en-text", [[1, i]]) for i in range(2, 8)]
    corpus = tmp_path / "questions"
    write_corpus(corpus, questions, identify_text_tokenizer(file), text_tokenizer=file)
    out = tmp_path / "turns.json"
    main(stage, Options(prompt=(corpus,), lang="en-text", limit=4, max_tokens=40, json=str(out)))
    (record,) = json.loads(out.read_text())
    assert record["questions"] == 4
    assert 1 <= record["answers"] <= 4
    assert record["speed_up"] == pytest.approx(record["full_chain"] / record["in_turns"])
    assert record["ms_per_token"] > 0
    assert "full_chain" in capsys.readouterr().out
