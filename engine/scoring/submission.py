"""Answers to ZeroSpeech 2021's sets as the files that the challenge's program `zrc` reads.

OUT/lexical/dev.txt      a line "NAME SCORE" for each recording of sWUGGY; test.txt alike
OUT/syntactic/dev.txt    the same for sBLIMP
OUT/meta.yaml            what is said of the system; its authors fill in the rest

A score is the log-likelihood that decides our own accuracies, so that both agree.

Source: the package zerospeech-benchmarks 0.9.4 (docs/sLM21.md and zerospeech/submissions/).
"""

import json
from datetime import datetime
from pathlib import Path

from tresse.data.durable import staged_folder, write_text
from tresse.data.store.cloze import ITEMS, Item, read_items
from tresse.engine.scoring.questions import MEASURES, Answer
from tresse.engine.scoring.report import read_scores
from tresse.engine.scoring.score import read_answers

FILES = {
    "sWUGGY-dev": "lexical/dev.txt",
    "sWUGGY-test": "lexical/test.txt",
    "sBLIMP-dev": "syntactic/dev.txt",
    "sBLIMP-test": "syntactic/test.txt",
}
"""File of each task; the names of tasks are those that `prepare eval zerospeech` gives."""

META_FILE = "meta.yaml"
# A value in <> tells `zrc` that it is still to be filled in. Optional values are left out.
META = """\
benchmark_name: sLM21
model_info:
  system_description: {description}
  train_set: "<required: the data that the system was trained on>"
publication:
  authors: "<required: full names, separated by commas>"
  institution: "<required: name of the institution>"
  publication_year: {year}
open_source: true
"""


def write_submission(scored: Path, cloze: Path, out: Path, measure: str) -> dict[str, int]:
    """Write the answers of a scored stage as a submission; return the recordings of each file.

    scored: folder with scores.json and answers.jsonl. cloze: corpus that was asked. out: must not
    exist, or be empty. measure: one of MEASURES. ValueError if there are no answers to ZeroSpeech's
    sets, if an item has none, or if a document is not a recording of the challenge.
    """
    if measure not in MEASURES:
        raise ValueError(f"no measure {measure!r}; expected one of {', '.join(MEASURES)}")
    by_file = _read_scores(scored, cloze, measure)
    with staged_folder(out) as folder:
        for name, scores in by_file.items():
            (folder / name).parent.mkdir(exist_ok=True)
            lines = (f"{recording} {score!r}\n" for recording, score in scores.items())
            write_text(folder / name, "".join(lines))
        write_text(folder / META_FILE, _meta(scored, measure))
    return {name: len(scores) for name, scores in by_file.items()}


def _read_scores(scored: Path, cloze: Path, measure: str) -> dict[str, dict[str, float]]:
    """Return the score of every recording, by the file that it belongs to."""
    left = {(item.task, item.id): item for item in _read_items(cloze)}
    by_file: dict[str, dict[str, float]] = {}
    for answer in read_answers(scored):
        if answer.task in FILES:
            item = left.pop((answer.task, answer.id), None)
            if item is None:
                raise ValueError(_mismatch(scored, cloze, answer, f"is not in {cloze / ITEMS}"))
            scores = by_file.setdefault(FILES[item.task], {})
            scores[_recording(item, item.correct)] = answer.correct[measure]
            scores[_recording(item, item.incorrect)] = answer.incorrect[measure]
    if left:
        item = next(iter(left.values()))
        raise ValueError(_mismatch(scored, cloze, item, "has no answer"))
    return by_file


def _read_items(cloze: Path) -> list[Item]:
    """Return ZeroSpeech's items of a corpus; ValueError if there are none."""
    items = list(read_items(cloze / ITEMS))
    found = [item for item in items if item.task in FILES]
    if not found:
        tasks = ", ".join(dict.fromkeys(item.task for item in items)) or "none"
        raise ValueError(
            f"{cloze / ITEMS}: tasks are {tasks}, expected one of {', '.join(FILES)}; "
            "`prepare eval zerospeech` gives these names, or you do by TASK=FOLDER"
        )
    return found


def _mismatch(scored: Path, cloze: Path, which: Item | Answer, fault: str) -> str:
    return (
        f"{scored}: item {which.id} of {which.task} {fault}; "
        f"give --cloze the corpus that was scored, or score it: tresse score ... --cloze {cloze}"
    )


def _recording(item: Item, key: str) -> str:
    """Return the file name of a recording without its ending, from the key TASK/NAME."""
    task, _, name = key.partition("/")
    if "voice" not in item.labels or task != item.task or not name or set(name) & set("/ "):
        raise ValueError(
            f"document {key} of item {item.id} is not named after a recording of the challenge; "
            "prepare its sets with `prepare eval zerospeech`"
        )
    return name


def _meta(scored: Path, measure: str) -> str:
    tokens = read_scores(scored.name, scored, measure)["tokens"]
    counts = " and ".join(f"{count / 1e6:,.2f} M of {name}" for name, count in tokens.items())
    description = (
        f"Speech language model trained with Tresse on tokens of speech: {counts}; "
        f"scores are log-likelihoods ({measure})"
    )
    return META.format(description=json.dumps(description), year=datetime.now().year)
