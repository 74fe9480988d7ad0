"""Folders of runs written by hand, with scores and measurements that a test can predict."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.support.corpora.vocabularies import vocabulary_of
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.checkpoint.state import State, folder_name, write_state
from tresse.engine.run.config import DataConfig, RunConfig, StageConfig
from tresse.engine.run.recipes import tiny
from tresse.engine.run.run_folder import write_config
from tresse.engine.run.sealed import write_sealed
from tresse.engine.scoring.accuracy import accuracies
from tresse.engine.scoring.questions import MEASURES, Answer
from tresse.engine.scoring.score import ANSWERS, SCORES, to_jsonl

NUM_STEPS, TOKENS_PER_STEP = 20, 1_000_000
NUM_LAYERS = 4
MIMI = Tokenizer("mimi", "", "25/2", 2048)
CELLS = (("sSC", "en"), ("sSC", "fr"), ("sSC", "en->fr"), ("sTC", "en"))


def config_of(folder: Path, seed: int = 0, **changes: object) -> RunConfig:
    """The settings of a run with a cloze set and a held-out corpus."""
    data = DataConfig(corpus=("corpora/train",), valid="corpora/valid", cloze="corpora/cloze")
    return replace(tiny(), run_dir=str(folder), data=data, seed=seed, **changes)  # type: ignore[arg-type]


def write_run(folder: Path, right: Sequence[float] = (0.5, 0.7, 0.8), seed: int = 0) -> Path:
    """Write a finished run whose stages answer so many items right, in every cell."""
    config = config_of(folder, seed)
    write_config(config)
    (folder / "corpora.json").write_text(json.dumps({"train": "1a2b", "valid": "3c", "cloze": "4"}))
    write_starts(folder, config)
    for number, (stage, share) in enumerate(zip(config.stages, right, strict=True)):
        write_steps(folder, stage, number)
        state = write_checkpoint(folder, config, stage, number)
        write_scores(folder / stage.name, state, share, seed=seed)
    return folder


def write_starts(folder: Path, config: RunConfig) -> None:
    """Write that the run was started on four ranks of a GPU."""
    stages = {
        stage.name: [
            {
                "languages": stream.languages,
                "mode": stream.mode,
                "corpus": "",
                "rows": NUM_STEPS * config.rows_per_step // len(stage.streams),
                "targets": dict.fromkeys(stream.languages, 5_000_000),
                "epochs": 1.25,
                "documents": 1200,
            }
            for stream in stage.streams
        ]
        for stage in config.stages
    }
    start = {
        "time": "2026-11-27T10:00:00+00:00",
        "commit": "0123456789ab+",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "machine": {"cpu": "a CPU", "cores": 2, "gpu": "NVIDIA H100 80GB HBM3"},
        "ranks": 4,
        "stages": stages,
    }
    (folder / "starts.jsonl").write_text(json.dumps(start) + "\n")


def write_steps(folder: Path, stage: StageConfig, number: int, num_steps: int = NUM_STEPS) -> None:
    """Add the steps of a stage, whose loss of English falls from 3 to 2."""
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(1, num_steps + 1):
            tokens = TOKENS_PER_STEP * (number * NUM_STEPS + step)
            record = {
                "stage": stage.name,
                "step": step,
                "loss": 3.0,
                "loss_by_language": {"en": 3.0 - step / NUM_STEPS, "fr": 4.0},
                "tokens": {"en": tokens - 1000, "fr": 1000},
                "tokens_per_s": 90_000.0 + step,
                "step_s": 0.5,
                "data_wait_s": 0.005,
                "memory_gib": 60.0,
                "mfu_causal": 0.5,
                "mfu_full": 0.55,
            }
            print(json.dumps(record), file=file)
        losses = {"en": 2.1 - number / 10, "fr": 12.0 if number == 0 else 2.5}
        cloze = {"sSC en->fr": 0.5 + number / 10}
        for extra in ({"heldout_loss": losses}, {"cloze": cloze}, {"stall_s": 0.1, "save_s": 2.0}):
            print(json.dumps({"stage": stage.name, "step": num_steps} | extra), file=file)


def write_checkpoint(
    folder: Path, config: RunConfig, stage: StageConfig, number: int, *, finished: bool = True
) -> State:
    """Write the state of a stage's checkpoint, without tensors."""
    state = State(
        stage=stage.name,
        step=NUM_STEPS,
        finished=finished,
        num_updates=NUM_STEPS,
        tokens={"en": TOKENS_PER_STEP * NUM_STEPS * (number + 1), "fr": 1000},
        corpus="1a2b",
        tokenizers=dict.fromkeys(("en", "fr"), MIMI),
        vocabulary=vocabulary_of(MIMI, has_specials=True),
        config=config,
    )
    path = folder / stage.name / folder_name(NUM_STEPS)
    path.mkdir(parents=True)
    write_state(path, state)
    return state


def write_scores(
    folder: Path, state: State, right: float, *, num_items: int = 300, seed: int = 0
) -> None:
    """Write answers, of which a share is right, and what else a scored stage has."""
    rng = np.random.default_rng(seed)
    answers = []
    for task, pair in CELLS:
        is_right = rng.permutation(num_items) < round(right * num_items)
        for index, value in enumerate(is_right.tolist()):
            correct, incorrect = (dict.fromkeys(MEASURES, x) for x in (float(value), 0.5))
            answers.append(Answer(task, str(index), pair, correct, incorrect))
    layers = np.linspace(0, 1, NUM_LAYERS + 1).tolist()
    alignment = {"num_sentences": 500, "aligned": layers, "random": [0.1] * len(layers)}
    contexts = {"alone": 2.0, "original": 2.2, "unrelated": 2.5, "num_documents": 9}
    positions = {"ends": [1, 2, 4, 8], "losses": [1.0, 2.0, 1.9, 1.8], "num_documents": 9}
    scores = {
        "checkpoint": state.digest,
        "questions": "q",
        "valid": "v",
        ANSWERS: "a",
        "tokens": state.tokens,
        "truncated": 0,
        "cloze": [accuracy.to_json() for accuracy in accuracies(answers)],
        "alignment": {"en-fr": alignment | {"retrieval": layers}},
        "perplexity": {
            "positions": {"en": positions},
            "translations": {"en->fr": contexts, "fr->en": contexts},
        },
    }
    (folder / ANSWERS).write_text(to_jsonl(answers))
    write_sealed(folder / SCORES, scores)
