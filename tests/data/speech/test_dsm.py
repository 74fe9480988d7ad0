"""Kyutai's TTS as units: moshi's own classes at a tiny size, with random weights."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny_tts import DELAY_STEPS, FrameRate, write_model, write_voices
from tresse.data.audio.recordings import read_recordings
from tresse.data.audio.waveforms import read_spans
from tresse.data.prepare import main
from tresse.data.speech.dsm import DsmSpeaker, Spoken, cut, load_speaker
from tresse.data.speech.speak_settings import DsmSettings
from tresse.data.store.corpus import verify_corpus
from tresse.data.texts.texts import Text

SETTINGS = {"codebooks": 4, "precision": "fp32"}
TEXTS = [
    Text("a", "en", ("The bear goes to the farm.", "He feeds the cows: all.", "Oh!")),
    Text("b", "fr", ("Il va.",)),
    Text("c", "fr", ('Puis <break time="0.4s"/> il nourrit.', "(Les vaches)")),
]
WORDS = [[6, 5, 1], [2], [3, 2]]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No Mimi, whose real size takes seconds, and no compiler."""
    from moshi.models.loaders import CheckpointInfo
    from moshi.utils.compile import no_compile

    monkeypatch.setattr(CheckpointInfo, "get_mimi", lambda *_, **__: FrameRate())
    with no_compile():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's files."""
    return write_model(tmp_path_factory.mktemp("tts") / "model")


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three voices."""
    return write_voices(tmp_path_factory.mktemp("tts") / "voices", 3)


@pytest.fixture
def speaker(folder: Path) -> DsmSpeaker:
    """The model, loaded."""
    return load_speaker(DsmSettings(tts_weights=folder, **SETTINGS), "cpu")


def drawn(voices: Path, *numbers: int) -> list[Path]:
    """Voices by their numbers."""
    return [voices / f"{i}.wav.test@1.safetensors" for i in numbers]


def test_units_are_the_frames_of_the_first_codebook_cut_at_the_words(
    speaker: DsmSpeaker, voices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    generate = speaker._model.generate

    def keep(*arguments):
        results.append(generate(*arguments))
        return results[-1]

    monkeypatch.setattr(speaker._model, "generate", keep)
    spoken = speaker.speak(TEXTS, drawn(voices, 0, 1, 2), seed=0)
    (result,) = results
    for i, (text, num_words) in enumerate(zip(TEXTS, WORDS, strict=True)):
        found = spoken[i]
        assert isinstance(found, Spoken)
        assert [len(words) for words in found.words] == num_words
        assert len(found.sentences) == len(text.sentences)
        steps = iter(step for _, step in result.all_transcripts[i])
        flat = [int(frame[i, 1, 0]) for frame in result.frames]
        assert flat[:DELAY_STEPS] == [-1] * DELAY_STEPS, "nothing is heard before the delay"
        for sentence, words in zip(found.sentences, found.words, strict=True):
            starts = [next(steps) for _ in words]
            assert [start - starts[0] for start in starts] == words
            first = DELAY_STEPS + starts[0]
            assert sentence.tolist() == flat[first : first + sentence.size]
            assert sentence.min() >= 0
            assert sentence.max() < 64
        end = result.end_steps[i]
        assert end is not None
        assert sum(map(len, found.sentences)) == end + 2 - result.all_transcripts[i][0][1]


def test_the_seed_and_the_voice_decide(speaker: DsmSpeaker, voices: Path) -> None:
    def units(seed: int, *numbers: int) -> list[list[int]]:
        spoken = speaker.speak(TEXTS[:2], drawn(voices, *numbers), seed)
        assert not any(isinstance(each, str) for each in spoken)
        return [np.concatenate(each[0]).tolist() for each in spoken]

    first = units(1, 0, 1)
    assert units(1, 0, 1) == first
    assert units(2, 0, 1) != first
    assert units(1, 2, 1) != first


def test_words_and_pauses_are_counted_as_the_model_takes_them(speaker: DsmSpeaker) -> None:
    assert [speaker._count_words(text) for text in TEXTS] == WORDS


def test_a_text_is_cut_at_first_words_and_ends_two_steps_after_its_last() -> None:
    units = np.arange(100, 140)
    spoken = cut(units, [2, 5, 9, 15], 20, [1, 3])
    assert isinstance(spoken, Spoken)
    assert [each.tolist() for each in spoken.sentences] == [
        [102, 103, 104],
        list(range(105, 122)),
    ]
    assert spoken.words == [[0], [0, 4, 10]]
    last = cut(units, [2], 39, [1])
    assert isinstance(last, Spoken)
    assert last.sentences[0][-1] == 139, "there are no frames beyond the last"


@pytest.mark.parametrize(
    ("steps", "end_step", "num_words", "reason"),
    [
        ([2, 5], None, [1, 1], "2 of 2 words"),
        ([2, 5], 9, [1, 2], "2 of 3 words were spoken"),
        ([2, 5], 9, [2, 0], "sentence 1 has no word"),
        ([2, 50], 60, [1, 1], r"words start at \[2, 50\] of 40 frames"),
    ],
)
def test_a_text_that_was_not_spoken_whole_has_a_reason(
    steps: list[int], end_step: int | None, num_words: list[int], reason: str
) -> None:
    found = cut(np.arange(40), steps, end_step, num_words)
    assert isinstance(found, str)
    assert re.search(reason, found)


def test_the_identity_is_that_of_mimis_weights(speaker: DsmSpeaker, folder: Path) -> None:
    from tresse.data.store.tensor_file import checksum_file

    assert speaker.identity.name == "mimi"
    assert speaker.identity.hash == checksum_file(folder / "mimi.safetensors")
    assert speaker.weights_hash == checksum_file(folder / "lm.safetensors")


def test_guidance_that_the_model_does_not_know_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"--guidance is 2\.5, expected one of 1, 2, 3"):
        load_speaker(DsmSettings(tts_weights=folder, guidance=2.5, **SETTINGS), "cpu")


def test_what_is_missing_in_a_folder_is_named(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    settings = DsmSettings(tts_weights=tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match=r"no config\.json in it"):
        load_speaker(settings, "cpu")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"names lm\.safetensors, which is not in its folder"):
        load_speaker(settings, "cpu")
    for name in ("lm.safetensors", "mimi.safetensors", "text.model"):
        (tmp_path / name).symlink_to(folder / name)
    for field in ("tokenizer_name", "tts_config"):
        less = {name: value for name, value in config.items() if name != field}
        (tmp_path / "config.json").write_text(json.dumps(less))
        with pytest.raises(ValueError, match=f"no {field}"):
            load_speaker(settings, "cpu")
    (tmp_path / "lm.pt").touch()
    (tmp_path / "config.json").write_text(json.dumps(config | {"moshi_name": "lm.pt"}))
    with pytest.raises(ValueError, match="which runs no code"):
        load_speaker(settings, "cpu")


def test_texts_become_a_corpus_with_words(folder: Path, voices: Path, tmp_path: Path) -> None:
    lines = [
        {"key": f"{i}", "lang": lang, "sentences": told}
        for i in range(3)
        for lang, told in {
            "en": ["The bear.", "He goes."],
            "fr": ["Il va.", "Puis il vit."],
        }.items()
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["speak", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "corpus")]
    command += ["--voices", str(voices), "--tts-weights", str(folder), "--codebooks", "4"]
    command += ["--precision", "fp32", "--batch", "4"]
    assert main(command) == 0
    corpus = verify_corpus(tmp_path / "corpus")
    assert corpus.languages == ("en", "fr")
    assert [corpus.num_sentences(language) for language in corpus.languages] == [6, 6]
    assert corpus.tokenizers[0].vocab_size == 64
    assert torch.get_default_dtype() == torch.float32


def test_kept_audio_is_that_of_the_units(folder: Path, voices: Path, tmp_path: Path) -> None:
    lines = [
        {"key": "a/1", "lang": "en", "sentences": ["The bear.", "He goes to the farm."]},
        {"key": "a/1", "lang": "fr", "sentences": ["Il va.", "Puis il vit."]},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (voice,) = drawn(voices, 1)
    command = ["speak", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "corpus")]
    command += ["--voices", str(voice), "--tts-weights", str(folder), "--codebooks", "4"]
    command += ["--precision", "fp32", "--keep-audio"]
    assert main(command) == 0
    corpus = verify_corpus(tmp_path / "corpus")
    recordings = read_recordings([tmp_path / "corpus" / "recordings.jsonl"])
    assert [(each.key, each.language) for each in recordings] == [("a/1", "en"), ("a/1", "fr")]
    for recording in recordings:
        units = corpus.document(recording.language, corpus.find(recording.language, recording.key))
        for sentence, sound in zip(units, read_spans(recording.sentences, 24_000), strict=True):
            frames = sound.reshape(-1, 1920)
            assert (frames == frames[:, :1]).all()
            np.testing.assert_allclose(frames[:, 0], sentence / 64, atol=1e-4)
    assert not (tmp_path / "corpus.parts").exists()
