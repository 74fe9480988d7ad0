"""Tables of pairs, written by the package `datasets`, become questions about their sounds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.evaluation_trees import SYNTACTIC, Lines, syntactic_lines, write_gold
from tests.support.foreign.audio_tables import Line, dataset, sound, to_disk, to_parquet
from tests.support.workers.slow_tokenizer import Loudness
from tresse.data.audio.sources import File, Span
from tresse.data.audio.waveforms import read_spans
from tresse.data.prepare import main
from tresse.data.store.cloze import Item, read_items
from tresse.data.store.corpus import Corpus, verify_corpus

SLOW = "tests.support.workers.slow_tokenizer:build"
AUDIO = ("positive", "negative")


def prepare(kind: str, *words: str | Path, out: Path) -> int:
    """Run the command and return the exit status."""
    flags = ["--lang", "en", "--tokenizer", SLOW, "--out", str(out)]
    return main(["eval", kind, *map(str, words), *flags])


def prepared(kind: str, *words: str | Path, out: Path) -> tuple[Corpus, list[Item]]:
    """Run a command that must succeed; return the corpus and its items."""
    assert prepare(kind, *words, out=out) == 0
    return verify_corpus(out), list(read_items(out / "items.jsonl"))


def units(corpus: Corpus, key: str) -> np.ndarray:
    """Return the units of a document of one sentence."""
    (found,) = corpus.document("en", corpus.find("en", key))
    return found


def sblimp(folder: Path, lines: Lines) -> list[Line]:
    """The lines of a gold.csv as a mirror of sBLIMP has them: a pair in each."""
    correct = [line for line in lines if line["correct"] == 1]
    incorrect = [line for line in lines if line["correct"] == 0]
    own = [name for name in SYNTACTIC if name in ("id", "voice", "type", "subtype")]
    return [
        {name: good[name] for name in own}
        | {
            column: {
                "bytes": (folder / f"{line['filename']}.wav").read_bytes(),
                "path": f"{line['filename']}.wav",
            }
            for column, line in (("negative", bad), ("positive", good))
        }
        for good, bad in zip(correct, incorrect, strict=True)
    ]


@pytest.mark.parametrize("write", [to_parquet, to_disk])
def test_a_mirror_of_sblimp_asks_what_zerospeech_asks(write: Callable, tmp_path: Path) -> None:
    folder = write_gold(tmp_path / "syntactic" / "dev", SYNTACTIC, syntactic_lines())
    content = dataset(sblimp(folder, syntactic_lines()), AUDIO)
    table = write(tmp_path / "mirror" / "train-00000-of-00001.parquet", content)
    given = table.parent if write is to_parquet else table
    gold, asked = prepared("zerospeech", folder, out=tmp_path / "gold")
    corpus, items = prepared("table", f"sBLIMP-dev={given}", out=tmp_path / "table")
    assert len(items) == 4
    for item, other in zip(items, asked, strict=True):
        assert item == replace(other, correct=item.correct, incorrect=item.incorrect)
        for key, own in ((item.correct, other.correct), (item.incorrect, other.incorrect)):
            np.testing.assert_array_equal(units(corpus, key), units(gold, own))
    assert items[3].correct == "sBLIMP-dev/island/wh, which/2/C/positive"


def pairs(*cells: Line) -> list[Line]:
    """Lines with two sounds and further cells."""
    return [
        {"positive": sound(None, 2 * i, 0.3), "negative": sound(None, 2 * i + 1, 0.3), **own}
        for i, own in enumerate(cells)
    ]


def test_voices_of_a_word_count_as_one_item_and_labels_are_kept(tmp_path: Path) -> None:
    words = pairs(
        {"id": "w", "voice": "A", "frequency": 12.0, "positive_word": "cat"},
        {"id": "w", "voice": "C", "frequency": None, "positive_word": "cat"},
    )
    path = to_parquet(tmp_path / "sWUGGY.parquet", dataset(words, AUDIO))
    _, items = prepared("table", path, out=tmp_path / "c")
    assert [(item.task, item.id, item.group) for item in items] == [
        ("sWUGGY", "w/A", "w"),
        ("sWUGGY", "w/C", "w"),
    ]
    assert [item.labels for item in items] == [{"voice": "A", "frequency": 12}, {"voice": "C"}]


def test_lines_without_ids_are_numbered_over_the_files(tmp_path: Path) -> None:
    for i in range(2):
        own = dataset(pairs({"n": 0}, {"n": 1}), AUDIO)
        to_parquet(tmp_path / "set" / f"train-0000{i}-of-00002.parquet", own)
    _, items = prepared("table", tmp_path / "set", out=tmp_path / "c")
    assert [(item.id, item.group, item.correct) for item in items] == [
        (str(i), "", f"set/{i}/positive") for i in range(4)
    ]


def test_columns_have_any_names_and_the_sounds_are_not_swapped(tmp_path: Path) -> None:
    lines = [{"good": sound("g.wav", 1, kind="wav"), "bad": sound("b.wav", 2, kind="wav"), "n": 7}]
    path = to_parquet(tmp_path / "t.parquet", dataset(lines, ("good", "bad")))
    flags = ["--columns.positive", "good", "--columns.negative", "bad", "--columns.id", "n"]
    corpus, (item,) = prepared("table", f"mine={path}", *flags, out=tmp_path / "c")
    assert item.id == "7"
    for key, column in ((item.correct, "good"), (item.incorrect, "bad")):
        (tmp_path / "x.wav").write_bytes(lines[0][column]["bytes"])
        (waveform,) = read_spans([Span(File(str(tmp_path / "x.wav")))], Loudness.sample_rate)
        np.testing.assert_array_equal(units(corpus, key), Loudness().encode([waveform])[0])


@pytest.mark.parametrize(
    ("cells", "flags", "message"),
    [
        ([{"id": 1}, {"id": 1}], [], "line 1: the pair 1 is there already (PATH: line 0)"),
        ([{"id": None}], [], "line 0: column 'id' is None, expected text or an integer"),
        ([{"id": 1, "voice": 0.5}], [], "line 0: column 'voice' is 0.5, expected text or"),
        ([{"id": 1}], ["--columns.id", "n"], "no column 'n'; it has positive, negative, id"),
        ([{"id": 1}], ["--columns.positive", "id"], "column 'id' is int64, expected a struct of"),
        ([{"id": 1}], ["--columns.negative", "x"], "no column 'x'; it has positive, negative, id"),
    ],
)
def test_a_table_that_has_no_pairs_is_named(
    cells: list[Line],
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = to_parquet(tmp_path / "t.parquet", dataset(pairs(*cells), AUDIO))
    assert prepare("table", path, *flags, out=tmp_path / "c") == 1
    assert message.replace("PATH", str(path)) in capsys.readouterr().err


def test_a_pair_with_a_broken_sound_stops_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = pairs({"id": 1}, {"id": 2})
    lines[1]["negative"]["bytes"] = b"no sound"
    path = to_parquet(tmp_path / "t.parquet", dataset(lines, AUDIO))
    assert prepare("table", path, out=tmp_path / "c") == 1
    assert f"{path}: line 1, negative: not an audio file" in capsys.readouterr().err


def test_flags_of_tables_are_refused_for_other_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("pairs", tmp_path, "--columns.id", "n", out=tmp_path / "c") == 1
    assert "--columns and --split are for table, the kind is pairs" in capsys.readouterr().err
