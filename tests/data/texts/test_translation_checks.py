"""What a translation may be, language by language."""

import re

import pytest

from tresse.data.texts.translation_checks import CheckSettings, TranslationCheck

SOURCE = ["The cat sat on the mat.", "Hi."]


@pytest.mark.parametrize(
    ("language", "ratio", "translation"),
    [
        ("fr", (0.4, 2.5), ["Le chat était assis sur le tapis, œuvre d'art.", "Bonjour."]),
        ("ru", (0.4, 2.5), ["Кошка сидела на коврике в Paris, 2024.", "Привет."]),
        ("ja", (0.1, 1.0), ["猫はマットの上に座っていた。スーパーTom", "やあ"]),
        ("zh", (0.1, 1.0), ["猫坐在Tom的垫子上。", "你好。"]),
        ("ko", (0.1, 2.0), ["고양이가 매트 위에 앉았다.", "안녕."]),
        ("pt-BR", (0.4, 2.5), ["O gato sentou-se no tapete nº 1.", "Oi."]),
        ("sr-Latn", (0.4, 2.5), ["Mačka je sela na prostirku.", "Zdravo."]),
    ],
)
def test_good_translations_pass(
    language: str, ratio: tuple[float, float], translation: list[str]
) -> None:
    check = TranslationCheck(language, CheckSettings(ratio=ratio))
    assert check.find_fault(SOURCE, translation) == ""


@pytest.mark.parametrize(
    ("language", "translation", "fault"),
    [
        ("fr", ["Le chat est assis."], "1 sentences for 2 of the source"),
        ("fr", ["Le chat est assis.", ""], "sentence 1 is '', expected words"),
        ("fr", ["Le chat est assis.", "« ! »"], "sentence 1 is '« ! »', expected words"),
        ("fr", ["Le chat", "A\u200bh."], "sentence 1 is .*control character"),
        ("fr", ["le chat " * 12, "Ah."], "sentence 0 is .*96 characters for 23 of its source"),
        ("fr", ["Le chat est assis.", "Bonjour mon ami, ça va ?"], "24 characters for 3"),
        ("fr", ["The cat sat on the mat.", "Ah."], "sentence 0 .*a copy of its source"),
        ("fr", ["Le chat est мат.", "Ah."], "sentence 0 .*'м' is a letter of another script"),
        ("sr-Latn", ["Мачка је села.", "Ah."], "'М' is a letter of another script"),
        ("ru", ["Le chat est assis.", "Да."], "no letter of the language's script"),
        ("ja", ["Кошка сидела.", "やあ"], "'К' is a letter of another script"),
    ],
)
def test_faults_are_named_with_their_sentence(
    language: str, translation: list[str], fault: str
) -> None:
    found = TranslationCheck(language, CheckSettings()).find_fault(SOURCE, translation)
    assert re.search(fault, found)


def test_long_sentences_may_not_shrink_to_nothing() -> None:
    check = TranslationCheck("fr", CheckSettings())
    assert "characters for 100" in check.find_fault(["a" * 100], ["Un chat."])
    assert check.find_fault(["a" * 100], ["u" * 40]) == ""


def test_short_sentences_may_be_equal() -> None:
    assert (
        TranslationCheck("fr", CheckSettings()).find_fault(["No, no, Tom!"], ["No, no, Tom!"]) == ""
    )


def test_languages_and_ratios_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="--to is 'klingonese', expected the code of a language"):
        TranslationCheck("klingonese", CheckSettings())
    with pytest.raises(ValueError, match="expected two numbers from 0 in order"):
        CheckSettings(ratio=(2.0, 1.0))
