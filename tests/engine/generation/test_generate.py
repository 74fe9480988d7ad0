"""The command: what it writes, in any batches, after a stop, with sound; its mistakes."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.families import EOS, UNITS, write_untrained
from tests.support.synthetic_audio import write_buzz
from tresse.data.audio.kmeans import KMeansUnits, fit
from tresse.data.audio.recordings import Recording, read_recordings
from tresse.data.audio.sources import File, Span
from tresse.data.packing.settings import Packing
from tresse.data.prepare import main as prepare
from tresse.data.store.corpus import Corpus
from tresse.engine import commands
from tresse.engine.generation.continuing import Continuer
from tresse.engine.generation.job import Amount, make_batches

PROMPTS = {
    ("a", "en"): [[1, 2], [3], [4, 4]],
    ("a", "fr"): [[11, 12], [13], [14]],
    ("b", "en"): [[5]],
    ("c/é", "en"): [[6, 7] * 8, [8]],
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of 34 units with eos and language switches."""
    folder = tmp_path_factory.mktemp("model") / "exported"
    write_untrained(folder)
    return folder


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A manifest of PROMPTS."""
    records = [
        {"key": key, "lang": lang, "sentences": sentences}
        for (key, lang), sentences in PROMPTS.items()
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def tresse(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Run `tresse` here; return its status."""
    monkeypatch.setattr(sys, "argv", ["tresse", *map(str, words)])
    try:
        commands.main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code)
            return 1
        return int(ended.code or 0)
    return 0


def lines(path: Path) -> Iterator[dict]:
    return map(json.loads, path.read_text().splitlines())


def test_the_output_has_prompts_with_continuations_in_order_and_packs_as_a_corpus(
    exported: Path, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["generate", exported, "--prompt", listed, "--continuations", "2", "--max-seconds", "2"]
    assert tresse(monkeypatch, *words, "--out", tmp_path / "out", "--batch", "3") == 0
    found = list(lines(tmp_path / "out" / "continuations.jsonl"))
    details = list(lines(tmp_path / "out" / "details.jsonl"))
    names = [(f"{key}#{i}", lang) for key, lang in PROMPTS for i in range(2)]
    assert [(record["key"], record["lang"]) for record in found] == names
    assert [(record["key"], record["lang"]) for record in details] == names
    for record, own in zip(found, details, strict=True):
        prompt = PROMPTS[own["prompt"], own["lang"]]
        given = record["prompt_sentences"]
        assert record["sentences"][:given] == prompt
        pieces = record["sentences"][given:]
        assert sum(map(len, pieces)) == own["units"] <= 25
        assert own["seconds"] == own["units"] * 0.08
        assert own["ended"] == "eos" or own["units"] + len(own["switches"]) == 25
        assert set(own["switches"]) - {0, own["units"]} == set(np.cumsum([*map(len, pieces)])[:-1])
        assert own["probabilities"].keys() == {"eos", "switch"}
        assert len(own["probabilities"]["switch"]["after_sentences"]) == len(prompt)
    assert any(own["switches"] for own in details)
    identity = ["--tokenizer-name", "test", "--tokenizer-hash", "abc", "--vocab-size", "34"]
    source = str(tmp_path / "out" / "continuations.jsonl")
    assert prepare(["manifest", source, *identity, "--out", str(tmp_path / "corpus")]) == 0
    corpus = Corpus.open(tmp_path / "corpus")
    assert (corpus.tokenizers[0], corpus.num_documents("en")) == (UNITS, 6)
    assert tresse(monkeypatch, *words, "--out", tmp_path / "other", "--batch", "7") == 0
    assert (tmp_path / "other/continuations.jsonl").read_bytes() == Path(source).read_bytes()


def test_a_stopped_job_leaves_no_output_and_resumes_to_the_same_bytes(
    exported: Path, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    words = ["generate", exported, "--prompt", listed, "--batch", "1", "--max-units", "20"]
    assert tresse(monkeypatch, *words, "--out", tmp_path / "whole") == 0
    run, calls = Continuer.run, []

    def stop_third(*arguments):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Continuer, "run", stop_third)
        assert tresse(monkeypatch, *words, "--out", tmp_path / "out") == 130
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.parts").is_dir()
    capsys.readouterr()
    assert tresse(monkeypatch, *words, "--out", tmp_path / "out", "--seed", "1") == 1
    assert "holds the work of another run: settings was" in capsys.readouterr().out
    calls.clear()
    monkeypatch.setattr(Continuer, "run", lambda *a: calls.append(None) or run(*a))
    assert tresse(monkeypatch, *words, "--out", tmp_path / "out") == 0
    assert len(calls) == 2  # of four batches, two were kept
    for name in ("continuations.jsonl", "details.jsonl", "prepared.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out.parts").exists()
    assert tresse(monkeypatch, *words, "--out", tmp_path / "out") == 0
    assert "was finished before" in capsys.readouterr().out


def test_ranks_share_the_batches_and_the_last_one_writes(
    exported: Path, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    words = ["generate", exported, "--prompt", listed, "--batch", "1", "--max-units", "5"]
    assert tresse(monkeypatch, *words, "--out", tmp_path / "whole") == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert not (tmp_path / "out").exists()
        assert tresse(monkeypatch, *words, "--out", tmp_path / "out") == 0
    assert "other ranks have not finished 2 of 4 groups" in capsys.readouterr().out
    for name in ("continuations.jsonl", "details.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_sound_is_written_for_units_that_can_be_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hum = write_buzz(tmp_path / "hum.flac", 8)
    tokenizer = fit([Recording("hum", "en", (Span(File(str(hum))),))], 8, tmp_path / "units")
    write_untrained(tmp_path / "exported", EOS, tokenizer.identity)
    words = ["generate", tmp_path / "exported", "--prompt", hum, "--lang", "en", "--audio"]
    words += ["--kmeans", tmp_path / "units", "--max-units", "30", "--out", tmp_path / "out"]
    assert tresse(monkeypatch, *words) == 0
    (record,) = lines(tmp_path / "out" / "continuations.jsonl")
    (listed,) = read_recordings([tmp_path / "out" / "recordings.jsonl"])
    units = np.concatenate(record["sentences"])
    samples, rate = soundfile.read(str(listed.sentences[0].source), dtype="float32")
    assert rate == 16_000
    np.testing.assert_allclose(
        samples, KMeansUnits.open(tmp_path / "units").decode(units), atol=1e-4
    )
    seconds = [span.seconds for span in listed.sentences]
    assert seconds == pytest.approx([0.08 * len(sentence) for sentence in record["sentences"]])


def test_mistakes_are_said_before_anything_is_written(
    exported: Path, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    out = tmp_path / "out"
    write_untrained(tmp_path / "short", Packing(row_length=16, separators="eos"))
    for words, message in (
        ([tmp_path / "short"], "jsonl:4: a prompt of 18 tokens; the model was trained on rows of"),
        ([exported, "--temperature", "-1"], "--temperature is -1.0, expected 0 or a number above"),
        ([exported, "--max-seconds", "0"], "--max-seconds is 0.0"),
        ([exported, "--batch", "0"], "--batch is 0, expected at least 1"),
        ([exported, "--audio"], "the model's units are those of test abc"),
        ([tmp_path], "no finished stage; expected the folder RUN/STAGE of one"),
    ):
        status = tresse(monkeypatch, "generate", *words, "--prompt", listed, "--out", out)
        printed = " ".join("".join(capsys.readouterr()).split())
        assert status in (1, 2)
        assert message in printed
        assert not list(tmp_path.glob("out*"))


def test_the_report_says_why_no_switch_is_reported(
    exported: Path, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    words = ["--prompt", listed, "--max-units", "2", "--out"]
    assert tresse(monkeypatch, "generate", exported, *words, tmp_path / "out") == 0
    assert "switch       fr" in (said := capsys.readouterr().out)
    assert "no language-switch token" not in said
    write_untrained(tmp_path / "plain", Packing(row_length=160))
    assert tresse(monkeypatch, "generate", tmp_path / "plain", *words, tmp_path / "none") == 0
    assert "this run has no language-switch token" in capsys.readouterr().out


def test_batches_hold_all_continuations_of_like_prompts_once() -> None:
    batches = make_batches([3, 9, 5], Amount(continuations=4, batch=3))
    assert [len(batch.rows) for batch in batches] == [3, 3, 3, 3]
    rows = [(batch.prompts[place], n) for batch in batches for place, n in batch.rows]
    assert rows == [(prompt, n) for prompt in (1, 2, 0) for n in range(4)]
    assert [batch.prompts for batch in batches] == [[1], [1, 2], [2, 0], [0]]
