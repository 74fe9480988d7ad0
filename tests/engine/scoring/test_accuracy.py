"""Accuracies of evaluation sets: ZeroSpeech's means, and the tables of a scored stage."""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.processes import run
from tresse.data.store.cloze import Item, write_items
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.engine.scoring.accuracy import Accuracy, Mean, accuracies, band, line_order, lines_of
from tresse.engine.scoring.questions import MEASURES, Answer
from tresse.engine.scoring.report import format_by_labels

VOICES = ("A", "C", "F")
BANDS = {0: "oov", 1: "1-5", 4: "1-5", 5: "6-20", 19: "6-20", 20: "21-100", 99: "21-100"}
BANDS |= {100: ">100", 7_000: ">100"}


def random_answer(item: Item, rng: np.random.Generator) -> Answer:
    """An answer; small integers, so that there are ties."""
    correct, incorrect = (
        dict(zip(MEASURES, map(float, rng.integers(0, 3, 4)), strict=True)) for _ in range(2)
    )
    return Answer(item.task, item.id, "en", correct, incorrect, item.group, item.labels)


def random_answers(items: Sequence[Item]) -> list[Answer]:
    """Answers in another order than the items."""
    rng = np.random.default_rng(0)
    scores = [random_answer(item, rng) for item in items]
    return [scores[i] for i in rng.permutation(len(scores))]


def word(id_: int, voice: str, frequency: int) -> Item:
    """A word in a voice."""
    return Item(
        task="sWUGGY-dev",
        id=f"{id_}/{voice}",
        prompt=None,
        correct=f"w{id_}{voice}",
        incorrect=f"n{id_}{voice}",
        languages=("en",),
        group=str(id_),
        labels={"frequency": frequency, "length": 9 + id_ % 3, "voice": voice},
    )


@pytest.fixture(scope="module")
def words() -> list[Item]:
    """Words of each band; of a third of them voice F is missing, so voices must not weigh."""
    frequencies = [*BANDS] * 4
    return [
        word(id_, voice, frequency)
        for id_, frequency in enumerate(frequencies)
        for voice in VOICES[: 2 if id_ % 3 == 0 else 3]
    ]


def by_id(scores: Sequence[Answer], keep: Callable[[Answer], bool] = lambda _: True) -> list[float]:
    """ZeroSpeech's by_pair table for mean_full: per id the mean over voices."""
    found = defaultdict(list)
    for score in scores:
        if keep(score):
            correct, incorrect = score.correct["mean_full"], score.incorrect["mean_full"]
            found[score.id.split("/")[0]].append(
                0.5 * (correct == incorrect) + 1.0 * (correct > incorrect)
            )
    return [sum(values) / len(values) for values in found.values()]


def band_of(score: Answer) -> str:
    """The band of a word."""
    return {str(frequency): name for frequency, name in BANDS.items()}[
        str(score.labels["frequency"])
    ]


def assert_mean(mean: Mean, values: Sequence[float]) -> None:
    """The mean is that of the values, and its error theirs."""
    assert mean.num_items == len(values)
    average = sum(values) / len(values)
    assert mean.accuracy["mean_full"] == pytest.approx(average, abs=1e-12)
    variance = sum((value - average) ** 2 for value in values) / (len(values) - 1)
    expected = math.sqrt(variance / len(values))
    assert mean.stderr["mean_full"] == pytest.approx(expected, abs=1e-12)


def test_swuggy_is_the_mean_over_ids_of_the_mean_over_voices(words: list[Item]) -> None:
    scores = random_answers(words)
    (found,) = accuracies(scores)
    assert_mean(found, by_id(scores))
    plain = by_id(
        [Answer(s.task, str(i), "en", s.correct, s.incorrect) for i, s in enumerate(scores)]
    )
    assert found.accuracy["mean_full"] != pytest.approx(sum(plain) / len(plain), abs=1e-6)


def test_tables_are_by_frequency_vocabulary_length_and_voice(words: list[Item]) -> None:
    scores = random_answers(words)
    (found,) = accuracies(scores)
    assert set(found.by) == {"frequency", "vocabulary", "length", "voice"}
    assert list(found.by["frequency"]) == ["oov", "1-5", "6-20", "21-100", ">100"]
    for name, mean in found.by["frequency"].items():
        assert_mean(mean, by_id(scores, lambda s, name=name: band_of(s) == name))
    assert set(found.by["vocabulary"]) == {"in-vocab", "oov"}
    heard = by_id(scores, lambda s: s.labels["frequency"] != 0)
    assert_mean(found.by["vocabulary"]["in-vocab"], heard)
    assert found.by["vocabulary"]["oov"] == found.by["frequency"]["oov"]
    assert list(found.by["length"]) == ["9", "10", "11"], "numbers by value"
    assert list(found.by["voice"]) == list(VOICES)
    for voice, mean in found.by["voice"].items():
        assert_mean(mean, by_id(scores, lambda s, voice=voice: s.labels["voice"] == voice))
    assert found.by["voice"]["F"].num_items == 24


def test_a_group_with_the_name_of_an_item_is_another_one() -> None:
    better, worse = dict.fromkeys(MEASURES, 1.0), dict.fromkeys(MEASURES, 0.0)
    scores = [
        Answer("t", "0", "en", better, worse, "1"),
        Answer("t", "0b", "en", better, worse, "1"),
        Answer("t", "1", "en", worse, better),
        Answer("t", "item 0", "en", worse, better),
    ]
    (found,) = accuracies(scores)
    assert found.num_items == 3
    assert found.accuracy["sum_full"] == pytest.approx(1 / 3)
    assert found.by == {}


def test_bands_are_cut_as_the_challenge_cuts_them() -> None:
    assert {frequency: band(frequency) for frequency in BANDS} == BANDS
    assert lines_of({"frequency": 0}) == {"vocabulary": "oov", "frequency": "oov"}
    assert lines_of({"frequency": "often", "type": "island"}) == {
        "frequency": "often",
        "type": "island",
    }
    names = ["wh", ">100", "9", "1-5", "island", "oov", "10", "6-20", "21-100"]
    ordered = ["oov", "1-5", "6-20", "21-100", ">100", "9", "10", "island", "wh"]
    assert sorted(names, key=line_order) == ordered


def write_evaluation(folder: Path, like: Corpus) -> list[Item]:
    """A corpus of words with the tokenizer of another."""
    rng = np.random.default_rng(1)
    items = [word(id_, voice, 30 * (id_ % 2)) for id_ in range(24) for voice in VOICES]
    documents = [
        Document(key, "en", [rng.integers(0, like.tokenizers[0].vocab_size, 5).tolist()])
        for item in items
        for key in (item.correct, item.incorrect)
    ]
    write_corpus(folder, documents, like.tokenizers[0])
    write_items(folder / "items.jsonl", items)
    return items


@pytest.mark.slow
def test_a_stage_is_scored_with_tables(world: Path, finished_run: Path, tmp_path: Path) -> None:
    items = write_evaluation(tmp_path / "words", Corpus.open(world / "train"))
    out = tmp_path / "scores"
    words = ["--cloze", str(tmp_path / "words"), "--out", str(out)]
    done = run(
        sys.executable, "-m", "tresse.engine.commands", "score", str(finished_run / "en-fr"), *words
    )
    lines = (out / "answers.jsonl").read_text().splitlines()
    scores = [Answer(**json.loads(line)) for line in lines]
    assert [(score.id, score.pair) for score in scores] == [(item.id, "en") for item in items]
    (cell,) = json.loads((out / "scores.json").read_text())["cloze"]
    by = {
        table: {name: Mean(**line) for name, line in own.items()}
        for table, own in cell["by"].items()
    }
    assert Accuracy(**cell | {"by": by}) == accuracies(scores)[0]
    assert cell["num_items"] == 24
    percent = 100 * by["vocabulary"]["oov"].accuracy["mean_full"]
    error = 100 * by["vocabulary"]["oov"].stderr["mean_full"]
    printed = [line.split() for line in done.stdout.splitlines()]
    assert ["sWUGGY-dev", "en", "by", "vocabulary", "items"] in printed
    assert ["oov", "12", f"{percent:.1f}", f"±{error:.1f}"] in printed


def test_a_table_of_a_single_item_has_no_error_and_a_large_one_is_left_to_the_file(
    tmp_path: Path,
) -> None:
    def mean(accuracy: float, stderr: float | None) -> dict:
        own = {"accuracy": dict.fromkeys(MEASURES, accuracy)}
        return own | {"num_items": 1 if stderr is None else 9, "stderr": {"mean_full": stderr}}

    small = {"island": mean(1.0, None), "wh": mean(0.25, 0.02)}
    large = {str(i): mean(0.5, 0.1) for i in range(21)}
    cells = [
        {"task": "sSC", "pair": "en->fr", "by": {}},
        {"task": "sBLIMP-dev", "pair": "en", "by": {"type": small, "subtype": large}},
    ]
    (tmp_path / "scores.json").write_text(json.dumps({"cloze": cells}))
    assert format_by_labels(tmp_path, "mean_full").splitlines() == [
        "sBLIMP-dev en by type  items",
        "island                     1  100.0",
        "wh                         9   25.0  ±2.0",
        "mean of the lines              62.5",
        "",
        "sBLIMP-dev en by subtype: 21 lines, in scores.json",
    ]
