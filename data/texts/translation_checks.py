"""Checks of a translation against its source, sentence by sentence.

A translation is refused when it has another number of sentences, or when a sentence has no words,
is much longer or shorter than its source, is a copy of it, or has letters of another script.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tresse.data.texts.texts import check_sentences

SLACK = 15
"""Characters by which any translation may be too long or too short: "Hi." is "Bonjour."."""
MIN_COPIED_WORDS = 5
"""Shorter sentences may be equal in two languages: "No, Tom!"."""
COMPOSED = {"Jpan": "Hira Kana Hani", "Kore": "Hang Hani", "Hans": "Hani", "Hant": "Hani"}
"""Scripts of languages that consist of several scripts of Unicode."""


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What a translation may be."""

    ratio: tuple[float, float] = (0.4, 2.5)
    """Least and most characters of a sentence for each character of its source.
    Languages with fewer characters need other numbers, such as 0.1 1 from English to Chinese."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio[0] < self.ratio[1]:
            raise ValueError(f"--ratio is {self.ratio}, expected two numbers from 0 in order")


class TranslationCheck:
    """The checks of translations into one language."""

    def __init__(self, language: str, settings: CheckSettings) -> None:
        """ValueError for a language whose script is not known."""
        self._settings = settings
        self._own, self._foreign = _letters(language)

    def find_fault(self, source: Sequence[str], translation: Sequence[str]) -> str:
        """Return the first fault of a translation, with its sentence; "" for none."""
        if len(source) != len(translation):
            return f"{len(translation)} sentences for {len(source)} of the source"
        try:
            check_sentences(translation)
        except ValueError as error:
            return str(error)
        for number, (original, sentence) in enumerate(zip(source, translation, strict=True)):
            if fault := self._find_fault(original, sentence):
                return f"sentence {number} is {sentence!r}: {fault}"
        return ""

    def _find_fault(self, source: str, sentence: str) -> str:
        least, most = (ratio * len(source) for ratio in self._settings.ratio)
        if not least - SLACK <= len(sentence) <= most + SLACK:
            return f"{len(sentence)} characters for {len(source)} of its source"
        if len(source.split()) >= MIN_COPIED_WORDS and sentence.casefold() == source.casefold():
            return "a copy of its source"
        if found := self._foreign.search(sentence):
            return f"{found[0]!r} is a letter of another script"
        if any(map(str.isalpha, sentence)) and not self._own.search(sentence):
            return "no letter of the language's script"
        return ""


def _letters(language: str) -> tuple[Any, Any]:
    """Return patterns of a letter of the language's script, and of one of a foreign script.

    Latin letters are not foreign to any language: names keep them.
    """
    try:
        import regex
        from langcodes import Language
        from langcodes.tag_parser import LanguageTagError
    except ImportError as error:
        raise ValueError(
            f"translations are checked by {error.name}: pip install 'tresse[translate]'"
        ) from None
    try:
        script = str(Language.get(language).maximize().script)
    except LanguageTagError:
        raise ValueError(
            f"--to is {language!r}, expected the code of a language, such as fr or zh-Hant"
        ) from None
    own = "".join(rf"\p{{scx={each}}}" for each in COMPOSED.get(script, script).split())
    both = rf"[{own}\p{{scx=Latn}}\p{{scx=Zyyy}}\p{{scx=Zinh}}]"
    return regex.compile(f"[{own}]"), regex.compile(rf"[\p{{L}}--{both}]", regex.V1)
