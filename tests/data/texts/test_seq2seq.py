"""Marian and NLLB translate what small models of theirs have learned by heart."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_translators import ENGLISH, FRENCH, GERMAN, write_marian, write_nllb
from tresse.data.prepare import main
from tresse.data.texts.seq2seq import load_model
from tresse.data.texts.texts import read_texts
from tresse.data.texts.translator_settings import TranslatorSettings

pytestmark = pytest.mark.slow

TOO_LONG = "The cat sat. " * 20


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of one pair of languages, and two multilingual ones."""
    folder = tmp_path_factory.mktemp("models")
    write_marian(folder / "en-fr")
    write_marian(folder / "en-mul", ("fra", "deu"))
    write_nllb(folder / "nllb")
    return folder


def translate(folder: Path, stories: list[list[str]], **settings: Any) -> list[list[str] | str]:
    """Translate from English into French, or what the settings say."""
    model = load_model(str(folder), TranslatorSettings(**settings), "en", "fr", "cpu")
    return model.translate(stories)


@pytest.mark.parametrize("settings", [{}, {"greedy": True}, {"batch": 1}, {"batch": 3}])
def test_marian_translates_stories_in_their_order(models: Path, settings: dict) -> None:
    stories = [ENGLISH[:2], ENGLISH[2:3], ENGLISH]
    assert translate(models / "en-fr", stories, **settings) == [FRENCH[:2], FRENCH[2:3], FRENCH]


def test_a_multilingual_marian_translates_into_the_language_of_its_code(models: Path) -> None:
    for code, expected in (("fra", FRENCH), ("deu", GERMAN)):
        assert translate(models / "en-mul", [ENGLISH], target_code=code) == [expected]
    with pytest.raises(ValueError, match="--target-code is 'fr', expected one of >>deu<<, >>fra<<"):
        translate(models / "en-mul", [ENGLISH])


def test_nllb_translates_into_the_language_of_its_code(models: Path) -> None:
    codes = {"source_code": "eng_Latn"}
    for code, expected in (("fra_Latn", FRENCH), ("deu_Latn", GERMAN)):
        assert translate(models / "nllb", [ENGLISH], target_code=code, **codes) == [expected]
    with pytest.raises(ValueError, match="--target-code is 'fr', which is no language"):
        translate(models / "nllb", [ENGLISH], **codes)
    with pytest.raises(ValueError, match="--source-code is 'en', which is no language"):
        translate(models / "nllb", [ENGLISH], target_code="fra_Latn")


def test_a_sentence_that_does_not_fit_costs_its_story_alone(models: Path) -> None:
    found = translate(models / "en-fr", [ENGLISH[:1], [ENGLISH[1], TOO_LONG], ENGLISH[2:]])
    reason = "sentence 1 or its translation is too long for the model"
    assert found == [FRENCH[:1], reason, FRENCH[2:]]


def test_the_command_loads_a_folder_and_leaves_out_what_does_not_fit(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stories = tmp_path / "stories.txt"
    stories.write_text(f"{' '.join(ENGLISH)}<|endoftext|>{'very, ' * 60}long.")
    command = ["translate", str(stories), "--from", "en", "--to", "fr", "--out", "out"]
    command[-1] = str(tmp_path / "out")
    assert main([*command, "--translator", str(models / "en-fr")]) == 0
    assert "1 translations, 1 records left out" in capsys.readouterr().out
    (text,) = read_texts([tmp_path / "out" / "fr.jsonl"])
    assert list(text.sentences) == FRENCH


def test_what_is_no_translation_model_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--translator .* cannot be loaded"):
        translate(tmp_path, [ENGLISH])
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(
        ValueError, match=r"cannot be loaded|is a model of type t5, expected marian"
    ):
        translate(tmp_path, [ENGLISH])
    with pytest.raises(ValueError, match="this one translates from one language into one other"):
        translate(models / "en-fr", [ENGLISH], target_code="fra")


@pytest.mark.parametrize("name", ["batch", "workers"])
def test_settings_of_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name} is 0, expected at least 1"):
        TranslatorSettings(**{name: 0})  # pyright: ignore[reportArgumentType]
