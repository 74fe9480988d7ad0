"""Texts spoken by Pico: the right sentences at the right times, stopped or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.processes import ROOT, environment, run
from tresse.data.audio.recordings import read_recordings
from tresse.data.audio.waveforms import read_spans
from tresse.data.jobs import Journal
from tresse.data.speech.pico import PicoSettings, draw_voice, find_sound, speak, speak_all
from tresse.data.texts.texts import Text, read_texts

pytest.importorskip("ttspico")

SETTINGS = PicoSettings(workers=1)
LINES = [
    {"key": f"{i}", "lang": lang, "sentences": told}
    for i in range(20)
    for lang, told in {
        "en": ["One cat.", f"And {i} dogs walk to the sea."],
        "fr": ["Un chat.", f"Et {i} chiens vont à la mer."],
    }.items()
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 texts."""
    path = tmp_path_factory.mktemp("texts") / "t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def spoken(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of their recordings."""
    out = tmp_path_factory.mktemp("speech") / "out"
    assert speak_all(read_texts([manifest]), out, SETTINGS) == 40
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_recordings_are_the_texts_in_order(manifest: Path, spoken: Path) -> None:
    texts, recordings = read_texts([manifest]), read_recordings([spoken / "recordings.jsonl"])
    for text, recording in zip(texts, recordings, strict=True):
        assert (text.key, text.language) == (recording.key, recording.language)
    assert len(list(spoken.rglob("*.flac"))) == 40
    assert not spoken.with_name("out.parts").exists()


def test_times_hold_the_sound_of_each_sentence_and_nothing_else(
    manifest: Path, spoken: Path
) -> None:
    text = read_texts([manifest])[0]
    recording = read_recordings([spoken / "recordings.jsonl"])[0]
    sounds = speak(text, SETTINGS)
    for span, sound in zip(recording.sentences, sounds, strict=True):
        (waveform,) = read_spans([span], 16_000)
        start, end = find_sound(sound)
        np.testing.assert_array_equal(waveform, sound[start:end] / np.float32(32768))
        outside = np.concatenate([sound[:start], sound[end:]])
        assert np.abs(outside.astype(int)).max() <= 200
    whole, rate = soundfile.read(str(recording.sentences[0].source), dtype="int16")
    assert rate == 16_000
    np.testing.assert_array_equal(whole, np.concatenate(sounds))


def test_a_sentence_is_said_the_same_way_each_time() -> None:
    text = Text("7", "en", ("One cat.", "One cat.", "Some dogs."))
    first, again = speak(text, SETTINGS), speak(text, SETTINGS)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first[0], first[1])


def test_sound_is_found_with_a_margin() -> None:
    sound = np.zeros(10_000, np.int16)
    sound[3000], sound[7000] = -32768, 201
    assert find_sound(sound) == (3000 - 640, 7001 + 640)
    sound[10], sound[9_900] = 300, 300
    assert find_sound(sound) == (0, 10_000)
    with pytest.raises(ValueError, match="gives no sound"):
        find_sound(np.full(10, 200, np.int16))


def test_a_voice_is_a_function_of_the_key_within_its_ranges() -> None:
    settings = PicoSettings(pitch=(85, 87), rate=(110, 110))
    voices = [draw_voice(str(i), settings) for i in range(300)]
    assert voices == [draw_voice(str(i), settings) for i in range(300)]
    assert {rate for _, rate in voices} == {110}
    pitches = [pitch for pitch, _ in voices]
    assert set(pitches) == {85, 86, 87}
    assert all(70 < pitches.count(pitch) < 130 for pitch in (85, 86, 87))
    other = PicoSettings(pitch=(85, 87), rate=(110, 110), seed=1)
    assert voices != [draw_voice(str(i), other) for i in range(300)]


def pitch_hz(sound: np.ndarray) -> float:
    """Return the frequency at which the autocorrelation is largest, 100 to 400 Hz."""
    spectrum = np.fft.rfft(sound.astype(float), 2 * sound.size)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)
    return 16_000 / (40 + int(np.argmax(correlation[40:160])))


def test_pitch_and_rate_are_heard() -> None:
    text = Text("7", "en", ("Some dogs walk to the sea.",))
    slow, fast = (speak(text, PicoSettings(rate=(rate, rate)))[0] for rate in (100, 150))
    (slow_start, slow_end), (fast_start, fast_end) = find_sound(slow), find_sound(fast)
    assert (slow_end - slow_start) / (fast_end - fast_start) == pytest.approx(1.5, rel=0.1)
    low, high = (speak(text, PicoSettings(pitch=(p, p)))[0] for p in (80, 120))
    assert pitch_hz(high) / pitch_hz(low) == pytest.approx(1.5, rel=0.15)


def test_a_killed_run_resumes_and_writes_the_same_files(
    manifest: Path, spoken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "data" / "prepare.py"), "pico", str(manifest)]
    command += ["--out", str(out), "--workers", "1"]
    process = subprocess.Popen(
        command, env=environment(), cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    parts = tmp_path / "out.parts"
    while process.poll() is None and not list(parts.glob("*.jsonl")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    with Journal.open(parts, json.loads((parts / "job.json").read_text()), rank=0) as journal:
        finished = [
            record
            for result in journal.results(journal.finished)
            for record in result["recordings"]
        ]
    before = {
        record["path"]: (parts / "speech" / record["path"]).stat().st_mtime_ns
        for record in finished
    }
    assert len(before) in (16, 32)
    assert "wrote" in run(*command).stdout
    assert contents(out) == contents(spoken)
    assert {path: (out / path).stat().st_mtime_ns for path in before} == before
    assert not parts.exists()


def test_other_texts_or_settings_are_refused_where_a_run_was_begun(
    manifest: Path, tmp_path: Path
) -> None:
    texts = read_texts([manifest])
    bad = [*texts[:16], Text("x", "en", ("!a",), "t:17"), Text("y", "xx", ("a",), "t:18")]
    with pytest.raises(ValueError, match="t:18: Pico has no voice for xx; it has en, fr"):
        speak_all(bad, tmp_path / "out", SETTINGS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    with pytest.raises(ValueError, match="not an empty folder"):
        speak_all(texts, tmp_path / "out", SETTINGS)


def test_what_pico_does_not_say_is_named(tmp_path: Path) -> None:
    texts = [Text("a", "en", ("中",), "t:1")]
    with pytest.raises(ValueError, match="t:1: Pico gives no sound for '中'"):
        speak_all(texts, tmp_path / "out", SETTINGS)
    with pytest.raises(ValueError, match="texts was"):
        speak_all([Text("a", "en", ("Yes.",), "t:1")], tmp_path / "out", SETTINGS)
    with pytest.raises(ValueError, match="settings was"):
        speak_all(texts, tmp_path / "out", PicoSettings(seed=1))


@pytest.mark.parametrize(
    "settings", [{"pitch": (49, 60)}, {"pitch": (90, 80)}, {"rate": (20, 501)}, {"workers": 0}]
)
def test_settings_that_pico_has_not_are_refused(settings: dict) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} is"):
        PicoSettings(**settings)
