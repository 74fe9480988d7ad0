"""k-means units: fitted once from a sample, the same each time, the nearest centroid of 80 ms."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file, save_file

from tests.support.synthetic_audio import buzz, write_buzz
from tresse.data.audio.kmeans import Features, KMeansUnits, fit
from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import File, Span
from tresse.data.prepare import main
from tresse.data.store.corpus import verify_corpus


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Twelve recordings of 4 seconds."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = [write_buzz(folder / f"{i}.flac", 4, seed=i) for i in range(12)]
    return [
        Recording(p.stem, "en", (Span(File(str(p)), 0, 2), Span(File(str(p)), 2))) for p in paths
    ]


@pytest.fixture(scope="module")
def units(recordings: list[Recording], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 16 units."""
    out = tmp_path_factory.mktemp("units") / "units.safetensors"
    fit(recordings, 16, out)
    return out


def test_the_same_seed_gives_the_same_file_and_another_another(
    recordings: list[Recording], units: Path, tmp_path: Path
) -> None:
    fit(recordings, 16, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == units.read_bytes()
    other = fit(recordings, 16, tmp_path / "other.safetensors", seed=1)
    assert other.identity.hash != KMeansUnits.open(units).identity.hash


def test_the_sample_is_as_long_as_asked_for(recordings: list[Recording], tmp_path: Path) -> None:
    out = tmp_path / "few.safetensors"
    with pytest.raises(ValueError, match="125 frames of 80 ms for 16 units"):
        fit(recordings, 16, out, hours=10 / 3600)
    assert not out.exists()


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("hours", "nan", "expected a finite number above 0"),
        ("hours", "-1", "expected a finite number above 0"),
        ("hours", "inf", "expected a finite number above 0"),
        ("units", "0", "expected at least 1"),
        ("units", "-3", "expected at least 1"),
    ],
)
def test_a_size_that_cannot_be_is_named(
    flag: str, value: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"path": "a.wav", "key": "a", "lang": "en"}\n')
    words = ["fit-kmeans", str(manifest), "--out", str(tmp_path / "u"), f"--{flag}", value]
    assert main(words) == 1
    assert re.search(rf"error: --{flag} is {value}(\.0)?, {expected}", capsys.readouterr().err)


def test_every_frame_has_the_nearest_centroid(units: Path) -> None:
    waveforms = [buzz(seconds, 16_000, seed=7) for seconds in (0.08, 0.0801, 1.0, 2.37)]
    found = KMeansUnits.open(units)
    tensors = load_file(units)
    assert found.identity.frame_rate == "25/2"
    assert found.identity.vocab_size == 16
    for waveform, own in zip(waveforms, found.encode(waveforms), strict=True):
        vectors = (Features().compute(waveform) - tensors["mean"]) / tensors["scale"]
        distances = np.linalg.norm(vectors[:, None] - tensors["centroids"], axis=2)
        np.testing.assert_array_equal(own, distances.argmin(axis=1))
        assert own.size == -(-waveform.size // 1280)
        np.testing.assert_array_equal(own, found.encode([waveform])[0])
    assert len(set(found.encode([buzz(9, 16_000, seed=3)])[0].tolist())) > 4


def test_features_are_of_the_frame_that_they_name() -> None:
    features = Features()
    sound = buzz(2, 16_000)
    changed = sound.copy()
    changed[10 * 1280 : 11 * 1280] *= 0.1
    differs = (features.compute(sound) != features.compute(changed)).any(axis=1)
    # The window of 25 ms reaches 12.5 ms into its neighbours.
    assert set(np.flatnonzero(differs)) == {9, 10, 11}
    assert features.compute(sound).shape == (25, 26)


def test_recordings_that_cannot_be_read_are_left_out_of_the_sample(
    recordings: list[Recording], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = Recording("x", "en", (Span(File(str(tmp_path / "none.wav"))),))
    fit([*recordings, missing], 16, tmp_path / "u.safetensors")
    assert "left out en/x" in caplog.text
    with pytest.raises(ValueError, match="0 frames of 80 ms"):
        fit([missing], 16, tmp_path / "v.safetensors")


def test_silence_is_left_out_of_the_sample(
    recordings: list[Recording], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(16_000 * 100, np.float32), 16_000)
    silent = Recording("quiet", "en", (Span(File(str(path))),))
    fit([*recordings, silent], 16, tmp_path / "u.safetensors")
    assert "left out en/quiet" in caplog.text
    assert "a silent sentence (all zero" in caplog.text
    with pytest.raises(ValueError, match="0 frames of 80 ms"):
        fit([silent], 16, tmp_path / "v.safetensors")


def test_the_command_fits_and_the_next_one_uses_the_units(
    recordings: list[Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, units = tmp_path / "m.jsonl", tmp_path / "u.safetensors"
    records = [
        {
            "path": str(r.sentences[0].source),
            "key": r.key,
            "lang": "en",
            "sentences": [[0, 2], [2, 4]],
        }
        for r in recordings
    ]
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(["fit-kmeans", str(manifest), "--units", "16", "--out", str(units)]) == 0
    hash_ = KMeansUnits.open(units).identity.hash
    assert f"16 units, {hash_}" in capsys.readouterr().out
    flags = ["--tokenizer", "kmeans", "--kmeans", str(units), "--out", str(tmp_path / "c")]
    assert main(["audio", str(manifest), *flags]) == 0
    corpus = verify_corpus(tmp_path / "c")
    assert (corpus.tokenizers[0].name, corpus.tokenizers[0].hash) == ("kmeans", hash_)
    assert corpus.num_tokens("en") == 12 * 2 * 25
    assert main(["fit-kmeans", str(manifest), "--units", "16", "--out", str(units)]) == 1
    assert "u.safetensors exists" in capsys.readouterr().err


def test_a_file_that_is_none_is_named(units: Path, tmp_path: Path) -> None:
    path = tmp_path / "u.safetensors"
    with pytest.raises(ValueError, match=r"u\.safetensors: cannot be read"):
        KMeansUnits.open(path)
    path.write_bytes(units.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"u\.safetensors: cannot be read"):
        KMeansUnits.open(path)
    save_file({"centroids": np.zeros((2, 26), np.float32)}, path)
    with pytest.raises(ValueError, match=r"u\.safetensors: not a file that fit-kmeans"):
        KMeansUnits.open(path)
