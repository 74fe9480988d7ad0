"""The vocoder: mean spectra as defined, and sound that is encoded as the units it came from."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.synthetic_audio import buzz, write_buzz
from tresse.data.audio.kmeans import FORMAT, Features, KMeansUnits, fit
from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import File, Span
from tresse.data.audio.vocoder import Frames, fit_spectra

FRAMES = Frames(sample_rate=16_000, frame_ms=80, parts=2)


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 8 units, fitted to eight recordings of 4 seconds."""
    folder = tmp_path_factory.mktemp("units")
    paths = [write_buzz(folder / f"{i}.flac", 4, seed=i) for i in range(8)]
    fit([Recording(p.stem, "en", (Span(File(str(p))),)) for p in paths], 8, folder / "units")
    return folder / "units"


def test_log_spectra_are_means_over_parts_of_a_frame() -> None:
    sound = buzz(0.5, 16_000)[:7000]  # 5.5 frames
    found = FRAMES.log_spectra(sound)
    assert found.shape == (6, 2, 257)
    padded = np.pad(sound, (256, 6 * 1280 - 7000 + 256))
    window = np.hanning(513)[:-1]
    for frame, part in ((0, 0), (2, 1), (5, 0)):
        first = (8 * frame + 4 * part) * 160
        pieces = [padded[first + 160 * i : first + 160 * i + 512] * window for i in range(4)]
        logs = [np.log(np.maximum(np.abs(np.fft.rfft(piece)), 1e-4)) for piece in pieces]
        np.testing.assert_allclose(found[frame, part], np.mean(logs, axis=0), atol=2e-3)


def test_spectra_of_units_are_means_over_their_frames() -> None:
    sounds = [buzz(seconds, 16_000, seed=i) for i, seconds in enumerate((0.8, 1.6))]
    labels = [np.arange(10) % 3, np.arange(20) % 2]
    found = fit_spectra(zip(sounds, labels, strict=True), 4, FRAMES)
    frames = np.concatenate([FRAMES.log_spectra(sound) for sound in sounds])
    names = np.concatenate(labels)
    for unit in range(3):
        np.testing.assert_allclose(found[unit], frames[names == unit].mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found[3], frames.mean(axis=0), atol=1e-4)  # it never occurs


def test_sound_has_the_loudness_of_each_part_in_its_place() -> None:
    quiet, loud = (FRAMES.log_spectra(buzz(0.08, 16_000))[:, :1] - level for level in (5, 0))
    sound = FRAMES.synthesise(np.concatenate([np.hstack([loud, quiet]), np.hstack([quiet, loud])]))
    energies = (sound.reshape(4, 640)[:, 160:480] ** 2).sum(axis=1)
    assert min(energies[[0, 3]]) > 100 * max(energies[[1, 2]])


def test_iterations_bring_the_magnitudes_of_the_sound_closer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = FRAMES.log_spectra(buzz(1.2, 16_000))

    def error() -> float:
        return float(np.abs(FRAMES.log_spectra(FRAMES.synthesise(wanted)) - wanted).mean())

    found = error()
    monkeypatch.setattr("tresse.data.audio.vocoder.ITERATIONS", 0)
    assert found < 0.8 * error()


def test_sound_of_units_is_encoded_as_the_same_units(units: Path) -> None:
    tokenizer = KMeansUnits.open(units)
    given = tokenizer.encode([buzz(4, 16_000, seed=50 + i) for i in range(4)])
    sounds = [tokenizer.decode(each) for each in given]
    for each, sound in zip(given, sounds, strict=True):
        assert sound.dtype == np.float32
        assert sound.size == 1280 * each.size
        np.testing.assert_array_equal(tokenizer.decode(each), sound)
    agree = np.concatenate(given) == np.concatenate(tokenizer.encode(sounds))
    assert len(set(np.concatenate(given).tolist())) > 4
    assert agree.mean() > 0.8
    assert tokenizer.decode(given[0][:1]).size == 1280


def test_units_of_an_older_file_can_be_used_but_not_heard(units: Path, tmp_path: Path) -> None:
    tensors, path = load_file(units), tmp_path / "old.safetensors"
    settings = json.dumps({"version": 1, "features": vars(Features())})
    assert tensors.pop("spectra").shape == (8, 2, 257)
    save_file(tensors, path, {FORMAT: settings})
    old, new, sound = KMeansUnits.open(path), KMeansUnits.open(units), buzz(1, 16_000)
    np.testing.assert_array_equal(old.encode([sound])[0], new.encode([sound])[0])
    with pytest.raises(ValueError, match=r"cannot be heard: an older fit-kmeans"):
        old.decode(np.array([0, 1]))
