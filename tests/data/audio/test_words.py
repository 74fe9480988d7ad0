"""Times of words, from the files that know them to the units at which words begin."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.foreign.audio import cut, write_cuts, write_moshi
from tests.support.synthetic_audio import SMALL, write_buzz
from tests.support.workers.slow_tokenizer import Loudness
from tresse.data.audio.encoder import place_words
from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.readers.any_format import read_audio
from tresse.data.audio.recordings import read_recordings
from tresse.data.audio.tokenise import tokenise
from tresse.data.left_out import LeftOut
from tresse.data.naming import Naming

RATE = Fraction("25/2")


def write_manifest(folder: Path, **more: Any) -> Path:
    write_buzz(folder / "a.wav", 4.0, seed=1)
    record = {"path": "a.wav", "key": "a", "lang": "en", "sentences": [[0, 2], [2.4, 4]]}
    (folder / "m.jsonl").write_text(json.dumps(record | more) + "\n")
    return folder / "m.jsonl"


def test_a_corpus_keeps_the_words_of_a_manifest(tmp_path: Path):
    manifest = write_manifest(tmp_path, words=[[0.4, 0.8, 0.81], [2.4, 3.2]])
    (recording,) = recordings = read_recordings([manifest])
    assert recording.words == ((0.4, 0.8, 0.81), (2.4, 3.2))
    settings = JobSettings(words=True, min_seconds=SMALL.min_seconds)
    corpus = tokenise(recordings, Loudness(), tmp_path / "c", settings).corpus
    assert corpus is not None
    assert corpus.words("en", 0) == [[0, 10, 11], [0, 10]]
    plain = tokenise(recordings, Loudness(), tmp_path / "plain", SMALL).corpus
    assert plain is not None
    assert plain.words("en", 0) is None


def test_recordings_without_words_are_named(tmp_path: Path):
    recordings = read_recordings([write_manifest(tmp_path)])
    with pytest.raises(ValueError, match=r"m\.jsonl:1: en/a has no times of words; leave out"):
        tokenise(recordings, Loudness(), tmp_path / "c", JobSettings(words=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([[0.1]], "for 2 sentences"),
        ([[0.1], []], "words of sentence 1 are"),
        ([[0.1], ["x"]], "words of sentence 1 are"),
        ([[0.5, 0.1], [2.5]], "do not fall"),
        ([[0.1], [2.5, 4]], "before its end at 4"),
    ],
)
def test_words_that_cannot_be_are_refused(words: Any, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=rf"m\.jsonl:1: .*{message}"):
        read_recordings([write_manifest(tmp_path, words=words)])


def read(path: Path, format: Any) -> Any:
    (recording,) = read_audio([path], format, Naming(lang="en"), None, LeftOut("stop"))
    return recording


def test_moshis_words_are_kept(tmp_path: Path):
    recording = read(write_moshi(tmp_path / "d"), "moshi")
    assert len(recording.words) == len(recording.sentences)
    for starts, span in zip(recording.words, recording.sentences, strict=True):
        assert starts[0] == span.start
        assert all(span.start <= start < span.end for start in starts)
    assert sum(map(len, recording.words)) > len(recording.sentences)


@pytest.mark.parametrize("as_fields", [False, True])
def test_lhotses_words_are_within_their_cut(as_fields: bool, tmp_path: Path):
    items: list[Any] = [["the", 0.0, 0.3, None], ["", 0.3, 0.2, None], ["girl", 0.5, 0.4, None]]
    if as_fields:
        items = [{"symbol": word, "start": a, "duration": b} for word, a, b, _ in items]
    line = cut("small/100/a_0", 1.5, 2.0)
    line["supervisions"][0]["alignment"] = {"word": items}
    recording = read(write_cuts(tmp_path / "cuts.jsonl.gz", line), "lhotse")
    assert recording.words == ((1.5, 2.0),)
    line["supervisions"][0]["alignment"]["word"].append(["late", 2.0, 0.1, None])
    with pytest.raises(
        ValueError, match=r"words of sentence 0 begin at .*, before its end at 3\.5"
    ):
        read(write_cuts(tmp_path / "late.jsonl.gz", line), "lhotse")
    del line["supervisions"][0]["alignment"]
    assert read(write_cuts(tmp_path / "other.jsonl.gz", line), "lhotse").words == ()


@given(st.data())
def test_every_word_has_a_unit(data: st.DataObject):
    times = st.floats(0, 100, allow_nan=False)
    starts = sorted(data.draw(st.lists(times, min_size=1, max_size=20)))
    num_units = data.draw(st.integers(len(starts), 60))
    places = place_words(starts, 0.0, num_units, RATE)
    assert places[0] == 0
    assert all(a < b for a, b in zip(places, [*places[1:], num_units], strict=True))


def test_more_words_than_units_are_an_error():
    with pytest.raises(ValueError, match="a sentence of 3 words has 2 units"):
        place_words([0.0, 0.1, 0.2], 0.0, 2, RATE)


def test_a_recording_with_more_words_than_units_is_left_out_or_an_error(tmp_path: Path):
    starts = [round(0.001 * i, 3) for i in range(40)]  # of 2 s, which are 25 units
    recordings = read_recordings([write_manifest(tmp_path, words=[starts, [2.4]])])
    stop = JobSettings(words=True, on_fault="stop")
    with pytest.raises(ValueError, match=r"m\.jsonl:1: en/a: a sentence of 40 words has 25 units"):
        tokenise(recordings, Loudness(), tmp_path / "c", stop)
    with pytest.raises(ValueError, match="40 words has 25 units"):  # nothing else is there
        tokenise(recordings, Loudness(), tmp_path / "skip", JobSettings(words=True))
