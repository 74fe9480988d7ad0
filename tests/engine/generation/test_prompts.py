"""Prompts from manifests of units, corpora and sound, and every fault of them by its place."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.families import UNITS, write_untrained
from tests.support.synthetic_audio import write_buzz
from tresse.data.audio.kmeans import KMeansUnits, fit
from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import File, Span
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from tresse.engine.generation.prompts import PromptSettings, read_prompts
from tresse.engine.generation.sounds import SoundSettings, open_decoder

DOCUMENTS = {
    ("a", "en"): [[1, 2], [3], [4, 4]],
    ("a", "fr"): [[11, 12], [13], [14]],
    ("b", "en"): [[5]],
    ("c", "en"): [[6, 7], [8]],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """An exported model of 34 units, in English and French."""
    folder = tmp_path_factory.mktemp("model") / "exported"
    write_untrained(folder)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def kmeans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recording of 4 seconds, and a file of 8 units fitted to it."""
    folder = tmp_path_factory.mktemp("kmeans")
    sound = write_buzz(folder / "hum.flac", 8)
    fit([Recording("hum", "en", (Span(File(str(sound))),))], 8, folder / "units")
    return sound, folder / "units"


def manifest(path: Path, documents: dict[tuple[str, str], list[list[int]]] = DOCUMENTS) -> Path:
    records = [
        {"key": key, "lang": lang, "sentences": sentences}
        for (key, lang), sentences in documents.items()
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(
    checkpoint: Checkpoint, *paths: Path, sound: SoundSettings | None = None, **settings: Any
) -> dict[tuple[str, str], list[list[int]]]:
    """Prompts as (key, language) -> sentences."""
    found = read_prompts(
        PromptSettings(prompt=paths, **settings), sound or SoundSettings(), checkpoint
    )
    return {(p.key, p.language): [np.asarray(s).tolist() for s in p.sentences] for p in found}


def test_a_corpus_has_the_same_prompts_as_the_manifest_of_its_units(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    listed = manifest(tmp_path / "m.jsonl")
    documents = [Document(key, lang, own) for (key, lang), own in DOCUMENTS.items()]
    write_corpus(tmp_path / "corpus", documents, UNITS)
    a_in_both = {name: own[:2] for name, own in DOCUMENTS.items() if name[0] == "a"}
    cases: list[tuple[dict[str, Any], dict]] = [
        ({}, DOCUMENTS),
        ({"lang": ("fr",)}, {("a", "fr"): DOCUMENTS["a", "fr"]}),
        ({"keys": ("a",), "sentences": 2}, a_in_both),
        ({"keys": ("c",)}, {("c", "en"): DOCUMENTS["c", "en"]}),
        ({"limit": 2}, {name: own for name, own in DOCUMENTS.items() if name[0] != "c"}),
    ]
    for settings, expected in cases:
        assert read(checkpoint, listed, **settings) == expected
        assert read(checkpoint, tmp_path / "corpus", **settings) == expected
    with pytest.raises(ValueError, match="--limit takes the first documents"):
        read(checkpoint, listed, keys=("a",), limit=1)


def test_sound_becomes_the_units_of_the_models_tokenizer(
    kmeans: tuple[Path, Path], tmp_path: Path
) -> None:
    sound, units = kmeans
    tokenizer = KMeansUnits.open(units)
    write_untrained(tmp_path / "exported", tokenizer=tokenizer.identity)
    opened = open_checkpoint(tmp_path / "exported")
    record = {"path": str(sound), "key": "x", "lang": "fr", "sentences": [[0, 1], [1, 2.5]]}
    (tmp_path / "r.jsonl").write_text(json.dumps(record))
    found = read(
        opened, sound, tmp_path / "r.jsonl", sound=SoundSettings(kmeans=units), lang=("fr",)
    )
    assert {name: [len(s) for s in own] for name, own in found.items()} == {
        ("hum", "fr"): [100],
        ("x", "fr"): [13, 19],
    }
    assert found["hum", "fr"][0][:12] == found["x", "fr"][0][:12]  # the window reaches past 1 s
    with pytest.raises(ValueError, match=r"hum\.flac: --lang must name the language"):
        read(opened, sound, sound=SoundSettings(kmeans=units))
    with pytest.raises(ValueError, match=r"--tokenizer kmeans needs --kmeans FILE"):
        read(opened, sound, lang=("fr",))


def test_another_tokenizer_is_an_error_for_sound_and_corpora(
    checkpoint: Checkpoint, kmeans: tuple[Path, Path], tmp_path: Path
) -> None:
    sound, units = kmeans
    with pytest.raises(ValueError, match=r"units are those of test abc, .*--tokenizer module:func"):
        read(checkpoint, sound, lang=("en",))
    other = replace(KMeansUnits.open(units).identity, hash="0" * 16)
    write_untrained(tmp_path / "exported", tokenizer=other)
    with pytest.raises(ValueError, match=r"the tokenizer is kmeans .*, but the model's units are"):
        read(
            open_checkpoint(tmp_path / "exported"),
            sound,
            sound=SoundSettings(kmeans=units),
            lang=("en",),
        )
    write_corpus(tmp_path / "corpus", [Document("a", "en", [[1]])], replace(UNITS, hash="x"))
    with pytest.raises(ValueError, match=r"tokens of test x, .* but the vocabulary has test abc"):
        read(checkpoint, tmp_path / "corpus")


@pytest.mark.parametrize(
    ("documents", "settings", "message"),
    [
        ({("a", "en"): [[1], [34]]}, {}, r"m\.jsonl:1: sentence 1, token 0 is 34, outside"),
        ({("a", "de"): [[1]]}, {}, r"m\.jsonl:1: language 'de'; .* was trained on en, fr"),
        (DOCUMENTS, {"lang": ("de",)}, r"--lang de: no document in this language in .*m\.jsonl"),
        (DOCUMENTS, {"keys": ("a", "z")}, r'--keys "z": no document with this key in .*m\.jsonl'),
        ({}, {}, r"m\.jsonl: empty; expected a document in each line"),
    ],
)
def test_a_prompt_that_cannot_be_is_named(
    documents: dict, settings: dict, message: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read(checkpoint, manifest(tmp_path / "m.jsonl", documents), **settings)


def test_a_prompt_that_is_there_twice_or_not_at_all_is_named(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    paths = manifest(tmp_path / "m.jsonl"), manifest(tmp_path / "n.jsonl")
    with pytest.raises(ValueError, match=r"n\.jsonl:1: document 'a' \(en\) is in .*m\.jsonl:1 too"):
        read(checkpoint, *paths)
    with pytest.raises(ValueError, match=r"none\.jsonl: no such file, nor the folder of a corpus"):
        read(checkpoint, tmp_path / "none.jsonl")
    (tmp_path / "m.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"m\.jsonl:1: not a JSON object"):
        read(checkpoint, tmp_path / "m.jsonl")


def test_units_of_mimi_or_of_a_tokenizer_that_cannot_decode_are_not_heard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"Mimi's decoder needs the other ones too"):
        open_decoder(SoundSettings(audio=True), replace(UNITS, name="mimi"))
    (tmp_path / "mute.py").write_text(
        "from tresse.data.store.tokenizer import Tokenizer\n"
        "class Mute:\n"
        "    sample_rate = 16000\n"
        "    identity = Tokenizer('test', 'abc', '25/2', 34)\n"
        "    def encode(self, waveforms): return []\n"
        "def build(device): return Mute()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"the tokenizer test cannot decode units: it has no func"):
        open_decoder(SoundSettings(tokenizer="mute:build"), UNITS)
