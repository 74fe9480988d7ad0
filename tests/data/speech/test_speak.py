"""The job from texts to a corpus, with a speaker that needs no model: the same on any ranks."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tresse.data.audio.recordings import read_recordings
from tresse.data.audio.waveforms import read_spans
from tresse.data.speech.dsm import Spoken
from tresse.data.speech.speak import make_batches, speak
from tresse.data.speech.speak_settings import SpeakSettings
from tresse.data.speech.voices import draw_voice, list_voices
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.texts.texts import Text

SETTINGS = SpeakSettings(batch=3)


class Letters:
    """Units are letters, voice and seed; may stop working after some batches."""

    identity = Tokenizer("mimi", "x", "25/2", 2048)
    weights_hash = "w"

    def __init__(self, batches: int = 1 << 30, *, keep_audio: bool = False) -> None:
        self.left, self.keep_audio = batches, keep_audio
        self.spoken: list[str] = []

    def speak(self, texts: Sequence[Text], voices: Sequence[Path], seed: int) -> list[Spoken | str]:
        """A sentence is its voice, a number of the batch, and a unit per letter."""
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("killed")
        self.spoken += [text.key for text in texts]
        return [self._one(*each, seed) for each in zip(texts, voices, strict=True)]

    def _one(self, text: Text, voice: Path, seed: int) -> Spoken | str:
        if "silent" in text.sentences[0]:
            return "0 of 1 words were spoken"
        head = [int(voice.stem), seed % 1000]
        sentences = [np.array([*head, *map(ord, each)]) for each in text.sentences]
        words = [[0, 2] for _ in sentences]
        if not self.keep_audio:
            return Spoken(sentences, words)
        frames = np.concatenate(sentences).astype(np.float32) / 2048
        return Spoken(sentences, words, frames.repeat(1920))


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five voices."""
    folder = tmp_path_factory.mktemp("voices")
    for i in range(5):
        (folder / f"{i}.safetensors").write_bytes(bytes([i]))
    return list_voices(folder)


def make_texts(number: int) -> list[Text]:
    """Pairs of translations, of many lengths; no. 4 is not spoken in French."""
    return [
        Text(f"{i}", lang, (f"{lang} " + "a" * (i * 7 % 11), "b"), f"t:{i}")
        if (i, lang) != (4, "fr")
        else Text("4", "fr", ("silent", "b"), "t:4")
        for i in range(number)
        for lang in ("en", "fr")
    ]


TEXTS = make_texts(60)


@pytest.fixture(scope="module")
def expected(voices: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The corpus of one process without accident."""
    out = tmp_path_factory.mktemp("expected") / "corpus"
    assert speak(TEXTS, Letters(), voices, out, SETTINGS) is not None
    return verify_corpus(out)


def test_documents_are_the_texts_in_order(expected: Corpus, voices: list[Path]) -> None:
    for language, number in {"en": 60, "fr": 59}.items():
        own = [
            text for text in TEXTS if text.language == language and text.sentences[0] != "silent"
        ]
        assert expected.num_documents(language) == number == len(own)
        for i, text in enumerate(own):
            assert expected.key(language, i) == text.key
            found = expected.document(language, i)
            for sentence, letters in zip(found, text.sentences, strict=True):
                assert "".join(map(chr, sentence[2:])) == letters
                assert sentence[0] == int(draw_voice(text.key, voices, 0).stem)
    skipped = [json.loads(x) for x in (expected.path / "skipped.jsonl").read_text().splitlines()]
    assert [(record["key"], record["lang"], record["where"]) for record in skipped] == [
        ("4", "fr", "t:4")
    ]
    assert not expected.path.with_name("corpus.parts").exists()


def test_a_document_has_one_voice_in_all_languages(expected: Corpus) -> None:
    heard = set()
    for i in range(60):
        if i == 4:
            continue
        languages = [expected.document(x, expected.find(x, f"{i}"))[0][0] for x in ("en", "fr")]
        assert languages[0] == languages[1]
        heard.add(int(languages[0]))
    assert heard == {0, 1, 2, 3, 4}


def test_batches_hold_every_text_once_and_similar_lengths_together() -> None:
    batches = make_batches(TEXTS, 3)
    assert sorted(i for batch in batches for i in batch) == list(range(len(TEXTS)))
    for start in range(0, len(batches), 16):
        window = batches[start : start + 16]
        assert {i // 48 for batch in window for i in batch} == {start // 16}
        lengths = [sum(map(len, TEXTS[i].sentences)) for batch in window for i in batch]
        assert lengths == sorted(lengths, reverse=True)
    assert all(len(batch) == 3 for batch in batches)


@pytest.mark.parametrize("world_size", [2, 7, 50])
def test_ranks_come_to_the_same_corpus(
    world_size: int,
    expected: Corpus,
    voices: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    found, counts = [], []
    for rank in reversed(range(world_size)):
        monkeypatch.setenv("RANK", str(rank))
        speaker = Letters()
        found.append(speak(TEXTS, speaker, voices, tmp_path / "corpus", SETTINGS))
        counts.append(len(speaker.spoken))
    assert [each is not None for each in found] == [False] * (world_size - 1) + [True]
    assert sum(counts) == len(TEXTS), "nothing was spoken twice"
    assert max(counts) - min(counts) <= 3
    assert Corpus.open(tmp_path / "corpus").id == expected.id
    assert speak(TEXTS, Letters(0), voices, tmp_path / "corpus", SETTINGS) is not None


def test_a_killed_run_resumes_with_another_number_of_ranks(
    expected: Corpus, voices: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Letters(11)
    with pytest.raises(RuntimeError, match="killed"):
        speak(TEXTS, first, voices, tmp_path / "corpus", SETTINGS)
    assert not (tmp_path / "corpus").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    speakers = [Letters(), Letters()]
    for rank, speaker in enumerate(speakers):
        monkeypatch.setenv("RANK", str(rank))
        speak(TEXTS, speaker, voices, tmp_path / "corpus", SETTINGS)
    spoken = [key for each in (first, *speakers) for key in each.spoken]
    assert len(spoken) == len(TEXTS)
    assert Corpus.open(tmp_path / "corpus").id == expected.id


def test_audio_is_kept_through_a_kill_and_lists_what_was_spoken(
    expected: Corpus, voices: list[Path], tmp_path: Path
) -> None:
    settings = SpeakSettings(batch=3, keep_audio=True)
    with pytest.raises(RuntimeError, match="killed"):
        speak(TEXTS, Letters(11, keep_audio=True), voices, tmp_path / "corpus", settings)
    speak(TEXTS, Letters(keep_audio=True), voices, tmp_path / "corpus", settings)
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.id == expected.id
    recordings = read_recordings([tmp_path / "corpus" / "recordings.jsonl"])
    assert len(recordings) == len(TEXTS) - 1 == len(list(corpus.path.rglob("*.flac")))
    for recording in recordings:
        units = corpus.document(recording.language, corpus.find(recording.language, recording.key))
        for sentence, sound in zip(units, read_spans(recording.sentences, 24_000), strict=True):
            np.testing.assert_allclose(sound[::1920] * 2048, sentence, atol=0.1)


def test_what_would_give_other_units_is_refused_where_a_run_was_begun(
    voices: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "corpus"
    with pytest.raises(RuntimeError, match="killed"):
        speak(TEXTS, Letters(1), voices, out, SETTINGS)
    for texts, own, settings, variant, name in (
        (TEXTS[2:], voices, SETTINGS, "", "texts"),
        (TEXTS, voices[1:], SETTINGS, "", "voices"),
        (TEXTS, voices, SpeakSettings(batch=4), "", "settings"),
        (TEXTS, voices, SpeakSettings(batch=3, seed=1), "", "settings"),
        (TEXTS, voices, SpeakSettings(batch=3, keep_audio=True), "", "settings"),
        (TEXTS, voices, SETTINGS, "bf16", "settings"),
    ):
        with pytest.raises(ValueError, match=f"{name} was"):
            speak(texts, Letters(), own, out, settings, variant)


def test_strict_stops_at_a_text_that_was_not_spoken(voices: list[Path], tmp_path: Path) -> None:
    settings = SpeakSettings(batch=3, on_fault="stop")
    with pytest.raises(ValueError, match=r"t:4: fr/4: 0 of 1 words .* \(--on-fault stop\)"):
        speak(TEXTS, Letters(), voices, tmp_path / "corpus", settings)


def test_a_damaged_report_in_the_corpus_is_named(voices: list[Path], tmp_path: Path) -> None:
    (tmp_path / "prepared.json").write_text("{}")
    with pytest.raises(ValueError, match=r"prepared\.json: damaged \(field 'job' is missing\); "):
        speak(TEXTS, Letters(), voices, tmp_path, SETTINGS)


def test_a_corpus_of_nothing_is_refused(voices: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text was spoken to its end, the first: 0 of 1"):
        speak([TEXTS[9]], Letters(), voices, tmp_path / "corpus", SETTINGS)
    assert not (tmp_path / "corpus").exists()


def test_chosen_voices_are_found_by_their_names(tmp_path: Path) -> None:
    for name in ("a/x.wav.1@2", "a/xy.wav.1@2", "b/z.wav.1@2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "a" / "x.wav").touch()
    assert [path.name[0] for path in list_voices(tmp_path)] == ["x", "x", "z"]
    chosen = tmp_path / "voices.json"
    for names, found in (
        (["b/z", "a/x"], ["z.wav.1@2", "x.wav.1@2"]),
        (["a/xy.wav"], ["xy.wav.1@2"]),
    ):
        chosen.write_text(json.dumps({"voices": names}))
        assert [path.stem for path in list_voices(tmp_path, chosen)] == found
    for names, fault in ((["c"], "chooses voice c, for which"), ([], "chooses no voice")):
        chosen.write_text(json.dumps({"voices": names}))
        with pytest.raises(ValueError, match=fault):
            list_voices(tmp_path, chosen)
    with pytest.raises(ValueError, match="no voices, expected files"):
        list_voices(tmp_path / "c")
