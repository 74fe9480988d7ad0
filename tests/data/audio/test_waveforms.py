"""Audio files of all kinds become the same waveform, whole or in stretches."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from tests.support.synthetic_audio import buzz, write_buzz
from tresse.data.audio import waveforms
from tresse.data.audio.sources import File, Span, TarMember
from tresse.data.audio.waveforms import AudioReader, read_joint, read_spans

RATE = 24_000
KINDS = ("wav", "flac", "ogg", "mp3")


def file(path: Path) -> File:
    return File(str(path))


def read(path: Path, start: float = 0, end: float | None = None, rate: int = RATE) -> np.ndarray:
    """One stretch of a file."""
    (waveform,) = read_spans([Span(file(path), start, end)], rate)
    return waveform


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_sound_that_was_written(kind: str, tmp_path: Path) -> None:
    path = write_buzz(tmp_path / f"a.{kind}", 3.1)
    found, expected = read(path), buzz(3.1)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    # 16 bits of WAV and FLAC; Ogg and MP3 lose more, but keep the wave's phase.
    loss = {"wav": 2e-5, "flac": 2e-5}.get(kind, 0.15)
    assert np.linalg.norm(found - expected) <= loss * np.linalg.norm(expected) + 2e-5 * 300


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [24_000, 22_050])
def test_stretches_are_cut_at_their_samples(kind: str, rate: int, tmp_path: Path) -> None:
    path = write_buzz(tmp_path / f"a.{kind}", 7, rate, channels=2)
    whole = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    # Out of order, and beyond a block of 65,536 frames: the MP3 must start again and skip.
    for start, end in ((0.5, 1.25), (4.1, 6.5), (0.1, 0.2), (5.0, None)):
        expected = whole[round(start * rate) : None if end is None else round(end * rate)]
        if rate != RATE:
            expected = soxr.resample(expected, rate, RATE, quality="HQ")
        np.testing.assert_allclose(read(path, start, end), expected, rtol=0, atol=1e-6)


def test_an_mp3_in_stretches_is_what_it_is_whole(tmp_path: Path) -> None:
    # Noise takes more bits than a frame has, so that frames borrow from each other.
    t = np.arange(40 * RATE) / RATE
    noise = 0.01 * np.random.default_rng(0).standard_normal(t.size)
    sound = 0.1 * np.sin(2 * np.pi * 150 * t) * np.sin(2 * np.pi * 4 * t) + noise
    path = tmp_path / "a.mp3"
    soundfile.write(path, sound, RATE)
    whole = soundfile.read(path, dtype="float32")[0]
    spans = [Span(file(path), i, i + 0.97) for i in range(40)]
    for span, found in zip(spans, read_spans(spans, RATE), strict=True):
        first = round(span.start * RATE)
        np.testing.assert_allclose(found, whole[first : first + found.size], rtol=0, atol=1e-6)


def test_stereo_is_mixed_evenly(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    left, right = buzz(1, seed=1), buzz(1, seed=2)
    soundfile.write(path, np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read(path), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_a_tone_survives_resampling(rate: int, tmp_path: Path) -> None:
    t = np.arange(rate * 2) / rate
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), rate, subtype="FLOAT")
    found = read(tmp_path / "a.wav")
    assert found.size == 2 * RATE
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)
    np.testing.assert_allclose(found[2400:-2400], expected[2400:-2400], atol=1e-5)


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_buzz(tmp_path / "a.flac", 2, 44_100)
    expected = read(path, 0.1, 1.9)
    monkeypatch.setattr(waveforms, "BLOCK_FRAMES", 997)
    np.testing.assert_array_equal(read(path, 0.1, 1.9), expected)


def test_a_member_of_a_tar_is_read_like_a_file(tmp_path: Path) -> None:
    content = write_buzz(tmp_path / "a.flac", 1.5).read_bytes()
    (tmp_path / "t.tar").write_bytes(b"x" * 512 + content + b"y" * 99)
    member = TarMember(str(tmp_path / "t.tar"), "a.flac", 512, len(content))
    (found,) = read_spans([Span(member, 0.5, 1)], RATE)
    np.testing.assert_array_equal(found, read(tmp_path / "a.flac", 0.5, 1))


def test_joint_sentences_keep_their_times(tmp_path: Path) -> None:
    long = write_buzz(tmp_path / "a.wav", 5)
    spans = [Span(file(long), 1, 2), Span(file(long), 2.5, 4)]
    joint = read_joint(spans, RATE)
    np.testing.assert_array_equal(joint.waveform, read(long, 1, 4))
    assert joint.bounds == [(0, 1), (1.5, 3)]
    parts = [write_buzz(tmp_path / f"{i}.wav", 1 + i / 2, seed=i) for i in range(2)]
    joint = read_joint([Span(file(path)) for path in parts], RATE)
    np.testing.assert_array_equal(joint.waveform, np.concatenate([read(p) for p in parts]))
    assert joint.bounds == [(0, 1), (1, 2.5)]
    with pytest.raises(ValueError, match=r"1\.wav: 1\.50 s after 0 s, expected at most 1\.2 s"):
        read_joint([Span(file(path)) for path in parts], RATE, max_seconds=2.2)


def test_times_beyond_the_end_are_refused_but_for_rounding(tmp_path: Path) -> None:
    path = write_buzz(tmp_path / "a.flac", 2)
    assert read(path, 1, 2.04).size == RATE
    with pytest.raises(ValueError, match=r"a\.flac: ends at 2\.00 s, a sentence at 2\.1 s"):
        read(path, 1, 2.1)
    with pytest.raises(ValueError, match=r"a\.flac: ends at 2\.00 s, a sentence at 9 s"):
        read(path, 8, 9)


def test_what_is_too_long_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = write_buzz(tmp_path / "a.flac", 2)
    with pytest.raises(ValueError, match=r"a\.flac: 2\.00 s after 0 s, expected at most 1\.5 s"):
        list(read_spans([Span(file(path))], RATE, max_seconds=1.5))


def damaged(kind: str) -> bytes:
    """A file that is broken in the way its name says."""
    content = BytesIO()
    soundfile.write(content, buzz(4), RATE, format=kind.split("-")[0])
    whole = content.getvalue()
    return {"cut": whole[: len(whole) // 2], "none": b"", "text": b"not audio " * 99}[
        kind.split("-")[1]
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("wav-cut", "cut short: 95978 bytes of sound, the header says 192000"),
        ("flac-cut", "cannot be decoded .*lost sync"),
        ("mp3-cut", "cut short: 84 frames of MP3, the header says 169"),
        ("wav-none", "not an audio file we know"),
        ("wav-text", "not an audio file we know"),
    ],
)
def test_a_broken_file_is_named_with_the_reason(kind: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / f"broken.{kind.split('-')[0]}"
    path.write_bytes(damaged(kind))
    with pytest.raises(ValueError, match=f"broken.*: {message}"):
        read(path)


def test_a_wav_from_a_pipe_is_whole_although_its_header_does_not_know(tmp_path: Path) -> None:
    path = write_buzz(tmp_path / "a.wav", 1)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert read(path).size == RATE


def test_a_missing_file_and_a_sample_that_is_no_number_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", tmp_path):
        with pytest.raises(ValueError, match=r"cannot be read \(not a regular file"):
            AudioReader(file(path))
    with pytest.raises(ValueError, match=r"none\.wav: cannot be read \(No such file"):
        read(tmp_path / "none.wav")
    with pytest.raises(ValueError, match=r"none\.tar:a: cannot be read \(No such file"):
        AudioReader(TarMember(str(tmp_path / "none.tar"), "a", 0, 9))
    sound = buzz(1)
    sound[77] = np.nan
    soundfile.write(tmp_path / "nan.wav", sound, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"nan\.wav: .*a sample is not a finite number"):
        read(tmp_path / "nan.wav")


def test_samples_of_an_absurd_magnitude_are_refused_even_where_channels_cancel(
    tmp_path: Path,
) -> None:
    path, sound = tmp_path / "loud.wav", buzz(1)
    soundfile.write(path, sound * 32768, RATE, subtype="FLOAT")
    assert np.abs(read(path)).max() > 1000, "the scale of 16-bit integers passes"
    loud = np.stack([sound, -sound], axis=1) * np.float32(1e30)
    soundfile.write(path, loud, RATE, subtype="FLOAT")
    reason = r"a sample is \S+e\+29 in magnitude, expected below 1e\+06; full scale is 1"
    with pytest.raises(ValueError, match=rf"loud\.wav: cannot be decoded \({reason}\)"):
        read(path)
