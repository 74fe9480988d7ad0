"""The choice of voices: scores by a known embedder, and resemblyzer's on Pico's voices."""

import itertools
import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tresse.data.prepare import main
from tresse.data.speech.choose_voices import choose_voices, format_scores
from tresse.data.speech.embedders import SpeakerEmbedder, load_embedder, mel_filters
from tresse.data.speech.pico import PicoSettings, speak_all
from tresse.data.speech.voices import list_voices
from tresse.data.texts.texts import Text

RATE = 8_000
needs_resemblyzer = pytest.mark.skipif(
    find_spec("resemblyzer") is None, reason="resemblyzer is not installed"
)


class Means:
    """Angle of the vector: a waveform's mean."""

    sample_rate = RATE

    def embed(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors of lengths 1, 2, ..."""
        angles = np.array([waveform.mean() for waveform in waveforms])
        lengths = 1 + np.arange(len(angles))
        return lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


class Silent(Means):
    """A model that gives zeros."""

    def embed(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Zeros."""
        return 0 * super().embed(waveforms)


def build(device: str) -> SpeakerEmbedder:
    """Build the embedder that --embedder names."""
    assert device in ("cpu", "cuda:0")
    return Means()


def write_voice(folder: Path, angles: dict[str, Sequence[float]], key: str = "k") -> None:
    """A document per language, of a constant sound per sentence."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "recordings.jsonl").open("a") as file:
        for language, own in angles.items():
            sound = np.repeat(np.array(own, np.float32), RATE)
            soundfile.write(folder / f"{language}-{key}.wav", sound, RATE, subtype="FLOAT")
            times = [[i, i + 1] for i in range(len(own))]
            record = {"path": f"{language}-{key}.wav", "key": key, "lang": language}
            print(json.dumps(record | {"sentences": times}), file=file)


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """Angles between a sentence and its translation, in radians: steady's are small."""
    folder = tmp_path / "voices"
    write_voice(folder / "steady", {"en": [0.1, 0.5], "fr": [0.1, 0.6]})
    write_voice(folder / "far" / "changing", {"en": [0.0, 0.9], "fr": [0.9, 0.0]})
    write_voice(folder / "three", {"en": [0.0], "fr": [0.3], "de": [0.6]}, "a")
    write_voice(folder / "three", {"en": [0.2], "es": [0.2]}, "b")
    write_voice(folder / "three", {"en": [0.7]}, "alone")
    return folder


def test_a_score_is_the_mean_cosine_over_sentences_and_pairs_of_languages(
    voices: Path, tmp_path: Path
) -> None:
    scores = choose_voices(voices, Means(), 0.9, tmp_path / "voices.json")
    expected = {
        "steady": (np.mean(np.cos([0, 0.1])), 2),
        "three": (np.mean(np.cos([0.3, 0.6, 0.3, 0])), 4),
        "far/changing": (np.cos(0.9), 2),
    }
    assert list(scores) == list(expected), "best first"
    for voice, (similarity, num_pairs) in expected.items():
        assert scores[voice].similarity == pytest.approx(similarity, abs=1e-6)
        assert scores[voice].num_pairs == num_pairs
    found = json.loads((tmp_path / "voices.json").read_text())
    assert found["voices"] == ["steady", "three"]
    assert list(found["similarity"]) == list(expected)
    table = format_scores(scores, 0.9).splitlines()
    assert [line.endswith("left out") for line in table] == [False, False, False, True]


def test_the_chosen_ones_are_the_voices_of_speak(voices: Path, tmp_path: Path) -> None:
    command = ["choose-voices", str(voices), "--out", str(tmp_path / "voices.json")]
    command += ["--min-similarity", "0.99", "--embedder", "tests.data.speech.test_voices:build"]
    assert main(command) == 0
    for name in ("steady.test@1", "three.test@1"):
        (tmp_path / "embeddings").mkdir(exist_ok=True)
        (tmp_path / "embeddings" / f"{name}.safetensors").touch()
    (chosen,) = list_voices(tmp_path / "embeddings", tmp_path / "voices.json")
    assert chosen.name == "steady.test@1.safetensors"


def test_what_cannot_be_chosen_from_is_an_error(
    voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "voices.json"
    with pytest.raises(ValueError, match=r"none of 3 voices reaches 0\.999; lower --min") as error:
        choose_voices(voices, Means(), 0.999, out)
    names = [line.split()[0] for line in str(error.value).splitlines()[2:]]
    assert names == ["voice", "steady", "three", "far/changing"]
    assert "0.622" in str(error.value), "the scores are not lost"
    with pytest.raises(ValueError, match=r"recordings\.jsonl:1: en/k has a silent sentence"):
        choose_voices(voices, Silent(), 0.9, out)
    with pytest.raises(ValueError, match="no voices, expected a folder with recordings"):
        choose_voices(tmp_path / "nothing", Means(), 0.9, out)
    write_voice(voices / "uneven", {"en": [0.1, 0.2], "fr": [0.1]})
    with pytest.raises(
        ValueError,
        match=r"/uneven/.*:2: fr/k has 1 sentences, its translation en/k \(.*:1\) has 2",
    ):
        choose_voices(voices / "uneven", Means(), 0.9, out)
    write_voice(voices / "english", {"en": [0.1]})
    with pytest.raises(ValueError, match="no key has recordings in two languages"):
        choose_voices(voices / "english", Means(), 0.9, out)
    assert not out.exists()
    for name in ("speaker", "json:nothing", "nowhere:build"):
        command = ["choose-voices", str(voices), "--out", str(out), "--embedder", name]
        assert main(command) == 1
        assert name in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(2,), (1, 5), (2, 5, 1)])
def test_vectors_of_another_shape_are_named(
    shape: tuple[int, ...], voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Means, "embed", lambda *_: np.ones(shape))
    message = rf"embedder Means gave vectors {re.escape(str(list(shape)))} for 2 waveforms, exp"
    with pytest.raises(ValueError, match=rf"{message}ected \[2, D\]"):
        choose_voices(voices, Means(), 0.9, tmp_path / "voices.json")


def test_what_is_no_embedder_is_named() -> None:
    with pytest.raises(ValueError, match=r"--embedder json:dumps .* has no sample_rate, embed;"):
        load_embedder("json:dumps", "cpu")


def test_mel_filters_have_equal_areas_and_cover_what_lies_between() -> None:
    filters = mel_filters(16_000, 4096, 40).double()
    areas = filters.sum(dim=1) * 16_000 / 4096
    assert torch.allclose(areas, torch.ones(40).double(), rtol=0.02)
    hz = torch.arange(2049) * 16_000 / 4096
    centres = (filters * hz).sum(dim=1) / filters.sum(dim=1)
    assert (centres.diff() > 0).all()
    linear = centres[centres < 900].diff()
    assert torch.allclose(linear, linear.mean(), rtol=0.03), "linear below 1 kHz"
    ratios = centres[centres > 1200][1:] / centres[centres > 1200][:-1]
    assert torch.allclose(ratios, ratios.mean(), rtol=0.03), "logarithmic above"


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pico at three pitches, in English and French, and in English of the two countries."""
    pytest.importorskip("ttspico")
    folder = tmp_path_factory.mktemp("pico")
    told = {
        "en": ("The wolf goes to the farm.", "Then he feeds the little cows."),
        "fr": ("Le loup va à la ferme.", "Puis il nourrit les petites vaches."),
    }
    for pitch in (80, 100, 130):
        settings = PicoSettings(pitch=(pitch, pitch), rate=(100, 100), workers=1)
        texts = [Text(str(i), x, told[x]) for i in range(2) for x in told]
        speak_all(texts, folder / str(pitch), settings)
    return folder


@needs_resemblyzer
def test_resemblyzer_hears_pico_at_other_pitches_as_other_speakers(
    pico: Path, tmp_path: Path
) -> None:
    embedder = load_embedder("resemblyzer", "cpu")
    scores = choose_voices(pico, embedder, 0.0, tmp_path / "voices.json")
    assert {score.num_pairs for score in scores.values()} == {4}
    assert all(0.4 < score.similarity < 0.95 for score in scores.values())
    vectors = {}
    for pitch, language in itertools.product(("80", "100", "130"), ("en", "fr")):
        sounds = [soundfile.read(path)[0] for path in sorted((pico / pitch / language).iterdir())]
        found = embedder.embed([sound.astype(np.float32) for sound in sounds])
        vectors[pitch, language] = found[0] / np.linalg.norm(found[0])
    for language in ("en", "fr"):
        near = vectors["80", language] @ vectors["100", language]
        far = vectors["80", language] @ vectors["130", language]
        assert far < near < 1


@needs_resemblyzer
def test_embeddings_are_those_of_the_package() -> None:
    # Its normalize_volume and embed_utterance, version 0.1.4 with librosa 0.11.0.
    expected = {
        152: 0.18901,
        28: 0.184527,
        120: 0.172761,
        15: 0.15426,
        180: 0.152952,
        155: 0.152766,
    }
    noise = np.random.default_rng(0).standard_normal(40_000)
    (found,) = load_embedder("resemblyzer", "cpu").embed([(0.01 * noise).astype(np.float32)])
    found /= np.linalg.norm(found)
    assert set(np.argsort(-found)[:6].tolist()) == set(expected)
    np.testing.assert_allclose(found[list(expected)], list(expected.values()), atol=2e-6)


@needs_resemblyzer
def test_a_quiet_waveform_is_made_louder_and_a_batch_changes_nothing() -> None:
    embedder = load_embedder("resemblyzer", "cpu")
    rng = np.random.default_rng(0)
    waveforms = [(0.02 * rng.standard_normal(n)).astype(np.float32) for n in (50_000, 8_000, 200)]
    alone = np.concatenate([embedder.embed([waveform]) for waveform in waveforms])
    np.testing.assert_allclose(embedder.embed(waveforms), alone, atol=1e-6)
    quiet = embedder.embed([waveform / 100 for waveform in waveforms])
    np.testing.assert_allclose(quiet, alone, atol=1e-5)
