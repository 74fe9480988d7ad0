"""Submissions to ZeroSpeech 2021, evaluated from gold.csv alone by the challenge's rules."""

import csv
import itertools
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from tests.support.evaluation_trees import LEXICAL, SYNTACTIC, Lines, write_lines
from tresse.data.evaluation.commands import prepare_eval_items
from tresse.data.packing.settings import Packing
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.cloze import Item, read_items, write_items
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.commands import Measure, submission
from tresse.engine.run.ranks import Ranks
from tresse.engine.scoring.accuracy import accuracies
from tresse.engine.scoring.questions import MEASURES, ask, language_pairs
from tresse.engine.scoring.score import ANSWERS, SCORES, answer, to_jsonl
from tresse.engine.scoring.submission import write_submission

VOICES = ("A", "B", "C")
TASKS = {
    "sWUGGY-dev": "lexical/dev",
    "sWUGGY-test": "lexical/test",
    "sBLIMP-dev": "syntactic/dev",
    "sBLIMP-test": "syntactic/test",
}
BANDS = {"oov": 1, "1-5": 5, "6-20": 20, "21-100": 100, ">100": 10**9}
"""The challenge's bands of frequency, and the first frequency after each."""

Line = dict[str, str]


class Sum(nn.Module):
    """A model in which the loss of a unit is its number, whatever came before it."""

    def forward(
        self, tokens: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert tokens.shape == labels.shape
        losses = torch.where(labels == -100, 0.0, labels.float())
        return losses.sum(), losses


def units(name: str) -> list[int]:
    """The units of a recording; some recordings have equal ones, and tie."""
    return [1, *(ord(letter) % 4 for letter in name[: 3 + ord(name[-1]) % 2])]


def log_likelihoods(name: str) -> dict[str, float]:
    """What the model of these tests says of a recording, by its definition."""
    total = -float(sum(units(name)[1:]))
    mean = total / (len(units(name)) - 1)
    return dict(zip(MEASURES, (total, mean, total, mean), strict=True))


def words(rng: random.Random) -> Lines:
    """Words in all bands of frequency, in an order that does not tell the partners."""
    lines: Lines = []
    for id_, frequency in enumerate([0, 0, 0, 1, 4, 5, 19, 20, 99, 100, 4000]):
        length = rng.randint(3, 5)
        for voice, correct in itertools.product(VOICES, (1, 0)):
            known = (f"{float(frequency)}", f"word{id_}") if correct else ("", f"other{id_}")
            values = (file_name(rng), id_, voice, *known, "K AE T", length, correct)
            lines.append(dict(zip(LEXICAL, values, strict=True)))
    rng.shuffle(lines)
    return lines


def sentences(rng: random.Random) -> Lines:
    """Sentences of three types, whose ids start anew in every subtype."""
    lines: Lines = []
    kinds = itertools.product(("agreement", "binding", "npi"), ("one", "two"), range(2), VOICES)
    for (type_, subtype, id_, voice), correct in itertools.product(kinds, (1, 0)):
        values = (file_name(rng), id_, voice, type_, subtype, "a, b", correct)
        lines.append(dict(zip(SYNTACTIC, values, strict=True)))
    return lines


def file_name(rng: random.Random) -> str:
    """A file name like those of the challenge."""
    return "".join(rng.choices("abcdXYZ", k=11))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The challenge's four sets, a corpus of their units, and the answers of a stage to them."""
    folder, rng = tmp_path_factory.mktemp("zerospeech"), random.Random(0)
    documents = []
    for task, place in TASKS.items():
        is_lexical = place.startswith("lexical")
        lines = words(rng) if is_lexical else sentences(rng)
        (folder / place).mkdir(parents=True)
        write_lines(folder / place, LEXICAL if is_lexical else SYNTACTIC, lines)
        for name in (str(line["filename"]) for line in lines):
            documents.append(Document(f"{task}/{name}", "en", [np.array(units(name), np.uint16)]))
    write_corpus(folder / "corpus", documents, Tokenizer("test", "", "25/2", 60))
    folders = tuple(str(folder / place) for place in TASKS.values())
    prepare_eval_items("zerospeech", folders, corpus=folder / "corpus", lang="en")
    write_answers(folder / "corpus", folder / "stage")
    return folder


def write_answers(cloze: Path, stage: Path) -> None:
    """Answer the items of a corpus and write what a scored stage has."""
    items, opened = read_items(cloze / "items.jsonl"), Corpus.open(cloze)
    questions = ask(
        opened,
        items,
        Vocabulary.of(opened.tokenizers, Packing()),
        pairs=language_pairs(["en"]),
        row_length=64,
    )
    alone = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
    answers = answer(Sum(), questions, batch_tokens=500, ranks=alone)
    found = [accuracy.to_json() for accuracy in accuracies(answers)]
    stage.mkdir()
    (stage / ANSWERS).write_text(to_jsonl(answers))
    scores = {"tokens": {"en": 1_500_000}, "cloze": found, "truncated": 0}
    (stage / SCORES).write_text(json.dumps(scores))


def read_submitted(path: Path) -> dict[str, float]:
    """Read a file of a submission as the challenge does: names and scores, each name once."""
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    assert len({name for name, _ in lines}) == len(lines)
    return {name: float(score) for name, score in lines}


def evaluate(folder: Path, submitted: dict[str, float]) -> list[tuple[Line, float]]:
    """Score the pairs of a gold.csv, with a mean over voices; the line is the correct one's."""
    with (folder / "gold.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    right = [line for line in lines if line["correct"] == "1"]
    wrong = [line for line in lines if line["correct"] == "0"]
    if "word" in lines[0]:
        partners = {(line["voice"], line["id"]): line for line in wrong}
        wrong = [partners[line["voice"], line["id"]] for line in right]
    by_item: dict[tuple[str, ...], list[tuple[Line, float]]] = {}
    for line, other in zip(right, wrong, strict=True):
        a, b = submitted[line["filename"]], submitted[other["filename"]]
        key = (line.get("type", ""), line.get("subtype", ""), line["id"])
        by_item.setdefault(key, []).append((line, 0.5 if a == b else float(a > b)))
    return [(pairs[0][0], fmean(score for _, score in pairs)) for pairs in by_item.values()]


def tables(items: list[tuple[Line, float]]) -> dict[str, dict[str, float]]:
    """The challenge's tables: means over items by frequency and length, or by type."""
    if "type" in items[0][0]:
        return {"type": mean_by(items, lambda line: line["type"])}
    return {
        "frequency": mean_by(items, lambda line: band(float(line["frequency"]))),
        "length": mean_by(items, lambda line: line["length"]),
    }


def band(frequency: float) -> str:
    return next(name for name, end in BANDS.items() if frequency < end)


def mean_by(items: list[tuple[Line, float]], key: Callable[[Line], str]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for line, score in items:
        groups.setdefault(key(line), []).append(score)
    return {name: fmean(values) for name, values in groups.items()}


@pytest.mark.parametrize("measure", ["mean_full", "sum_full"])
def test_the_challenge_finds_our_accuracies(scored: Path, tmp_path: Path, measure: Measure) -> None:
    submission(scored / "stage", cloze=scored / "corpus", out=tmp_path / "out", measure=measure)
    own = json.loads((scored / "stage" / SCORES).read_text())["cloze"]
    by_task = {accuracy["task"]: accuracy for accuracy in own}
    found = []
    for task, place in TASKS.items():
        submitted = read_submitted(tmp_path / "out" / f"{place}.txt")
        items = evaluate(scored / place, submitted)
        assert by_task[task]["accuracy"][measure] == pytest.approx(fmean(s for _, s in items))
        for label, lines in tables(items).items():
            ours = by_task[task]["by"][label]
            assert {n: line["accuracy"][measure] for n, line in ours.items()} == pytest.approx(
                lines
            )
        found += [score for _, score in items]
    assert 0.2 < fmean(found) < 0.8
    assert 0.5 in found or 1 / 6 in found, "no pair ties"


def test_every_recording_has_its_log_likelihood(scored: Path, tmp_path: Path) -> None:
    for measure in MEASURES:
        out = tmp_path / measure
        counts = write_submission(scored / "stage", scored / "corpus", out, measure)
        assert counts == {f"{place}.txt": len(expected(scored / place)) for place in TASKS.values()}
        for place in TASKS.values():
            submitted = read_submitted(out / f"{place}.txt")
            assert submitted == {n: log_likelihoods(n)[measure] for n in expected(scored / place)}


def expected(folder: Path) -> list[str]:
    """Names that gold.csv lists."""
    with (folder / "gold.csv").open(newline="") as file:
        return [line["filename"] for line in csv.DictReader(file)]


def test_meta_names_the_benchmark_and_marks_what_is_to_be_filled_in(
    scored: Path, tmp_path: Path
) -> None:
    write_submission(scored / "stage", scored / "corpus", tmp_path / "out", "mean_full")
    meta = yaml.safe_load((tmp_path / "out" / "meta.yaml").read_text())
    assert meta["benchmark_name"] == "sLM21"
    assert meta["open_source"] is True
    assert "1.50 M of en" in meta["model_info"]["system_description"]
    assert isinstance(meta["publication"]["publication_year"], int)
    for value in (
        meta["model_info"]["train_set"],
        meta["publication"]["authors"],
        meta["publication"]["institution"],
    ):
        assert value.startswith("<required: ")


def test_a_submission_of_one_set_has_only_its_file(scored: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(scored / "corpus", corpus)
    items = [i for i in read_items(corpus / "items.jsonl") if i.task == "sBLIMP-dev"]
    write_items(corpus / "items.jsonl", items)
    write_answers(corpus, tmp_path / "stage")
    counts = write_submission(tmp_path / "stage", corpus, tmp_path / "out", "mean_full")
    assert list(counts) == ["syntactic/dev.txt"]
    written = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert written == ["dev.txt", "meta.yaml"]


def test_faults_are_named_and_nothing_is_written(scored: Path, tmp_path: Path) -> None:
    out, corpus = tmp_path / "out", tmp_path / "corpus"
    shutil.copytree(scored / "corpus", corpus)
    items = list(read_items(corpus / "items.jsonl"))

    def write(message: str, *changed: Item, stage: Path = scored / "stage") -> None:
        write_items(corpus / "items.jsonl", changed)
        with pytest.raises(ValueError, match=message):
            write_submission(stage, corpus, out, "mean_full")
        assert not out.exists()

    more = replace(items[0], id="99/A", correct="sWUGGY-dev/x", incorrect="sWUGGY-dev/y")
    write("stage: item 99/A of sWUGGY-dev has no answer; give --cloze the corpus", *items, more)
    write(f"stage: item {items[0].id} of sWUGGY-dev is not in .*items.jsonl", *items[1:])
    of_table = replace(items[0], correct="sWUGGY-dev/7/A/positive")
    write("7/A/positive of item .* is not named after a recording", of_table, *items[1:])
    of_pairs = replace(items[0], labels={})
    write("is not named after a recording", of_pairs, *items[1:])
    write("tasks are sSC, expected one of sWUGGY-dev, ", replace(items[0], task="sSC"))
    write(r"answers\.jsonl: no such file; `tresse score`", *items, stage=tmp_path)
    (tmp_path / ANSWERS).write_text('{"task": "sSC"}\n')
    write(r"answers\.jsonl:1: not an answer", *items, stage=tmp_path)
    out.mkdir()
    (out / "notes").touch()
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        write_submission(scored / "stage", scored / "corpus", out, "mean_full")
