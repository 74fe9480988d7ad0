"""Names of recordings, mostly paths: the key, the language and the sentence number in them.

Sentences of one document may be files of their own, in any order.
"""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from tresse.data.left_out import TWICE

LANGUAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
GROUPS = ("key", "lang", "sentence")


class Name(NamedTuple):
    """The parts of a name."""

    key: str
    language: str
    sentence: int | None
    """Number of the sentence; None when the file is a whole document."""


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Rules that turn names into keys, languages and sentence numbers: flags of every import."""

    lang: str = ""
    """Language of all files, such as "fr".
    Leave it empty if the files or the key pattern name their languages."""
    key_pattern: str = ""
    r"""Regular expression that is searched in each name. Example:
    '(?P<lang>en|fr)/(?P<key>.+)_(?P<sentence>\d+)\.flac'.
    The group `key` is the key of the document; the groups `lang` and `sentence` are optional.
    Backslashes in names count as slashes.
    With the group `sentence`, each file is one sentence.
    The sentences of a document are sorted by their numbers, which start at 0 or 1.
    Without a pattern, each file is a document and its name, without the ending, is the key."""
    split_long: bool = False
    """Cut files of more than 65,535 units, the limit of a sentence, into several sentences.
    Use it for a single language only. Without it such a file is an error."""

    def __post_init__(self) -> None:
        groups = set(self.pattern.groupindex) if self.pattern else set()
        if self.pattern and ("key" not in groups or groups - set(GROUPS)):
            raise ValueError(
                f"--key-pattern {self.key_pattern!r} has the groups {sorted(groups)}; expected "
                "(?P<key>...) and perhaps (?P<lang>...) and (?P<sentence>...)"
            )
        if self.lang:
            check_language(self.lang)
        if self.lang and "lang" in groups:
            raise ValueError("--lang and the group `lang` of --key-pattern; give one of them")
        if self.split_long and self.has_sentences:
            raise ValueError("--split-long would cut sentences that --key-pattern numbers")

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """The compiled key pattern."""
        try:
            return re.compile(normal_key(self.key_pattern)) if self.key_pattern else None
        except re.error as error:
            raise ValueError(f"--key-pattern {self.key_pattern!r}: {error}") from error

    @property
    def has_sentences(self) -> bool:
        """True when each file is one sentence of a document."""
        return self.pattern is not None and "sentence" in self.pattern.groupindex

    @property
    def has_languages(self) -> bool:
        """True when these rules give every document a language."""
        return bool(self.lang) or (self.pattern is not None and "lang" in self.pattern.groupindex)

    def parse(self, name: str, key: str, language: str = "") -> Name:
        """Parse a name. Groups of the pattern replace `key` and `language`, the file's own."""
        found = {"key": key, "lang": language or self.lang}
        name = normal_key(_with_slashes(name))
        if self.pattern:
            match = self.pattern.search(name)
            if match is None:
                raise ValueError(f"name {name!r} does not match --key-pattern {self.key_pattern!r}")
            found |= match.groupdict()
        for group, value in found.items():
            if value is None:
                raise ValueError(f"name {name!r}: --key-pattern finds no {group} in it")
        sentence = found.get("sentence")
        if sentence is not None and not re.fullmatch("[0-9]{1,9}", sentence):
            raise ValueError(f"name {name!r}: sentence is {sentence!r}, expected a number")
        if not found["lang"]:
            raise ValueError("no language; give --lang or a group `lang` in --key-pattern")
        language = check_language(found["lang"])
        number = None if sentence is None else int(sentence)
        return Name(normal_key(found["key"]), language, number)


def stem(name: str) -> str:
    """Return a file name without folder and ending: the key when there is no pattern."""
    return PurePosixPath(_with_slashes(name)).stem


def normal_key(key: str) -> str:
    """Return a key in Unicode's normal form NFC, in which keys are compared.

    File names from macOS have an accent as a character of its own, those from Linux seldom do.
    """
    return unicodedata.normalize("NFC", key)


def _with_slashes(name: str) -> str:
    """Return a path of Windows with the separators of all other names."""
    return name.replace("\\", "/")


def check_language(language: str) -> str:
    """Return the language; ValueError when it cannot be part of a file name."""
    if not isinstance(language, str) or not LANGUAGE.fullmatch(language):
        raise ValueError(
            f"language {language!r}: expected 1 to 32 letters, digits, '-' or '_', like 'pt-BR'"
        )
    return language


def find_fault(numbers: np.ndarray, lengths: np.ndarray, first: int) -> str:
    """Describe the first fault in the sentences of a document; an empty text means none.

    numbers: sorted sentence numbers, which should be first, first + 1, ...; lengths: their units.
    """
    expected = first + np.arange(numbers.size)
    if not np.array_equal(numbers, expected):
        place = int(np.argmax(numbers != expected))
        if place and numbers[place] == numbers[place - 1]:
            return f"sentence {numbers[place]} {TWICE}"
        return f"sentence {expected[place]} is missing (numbers start at {first}, without gaps)"
    if not lengths.all():
        return f"sentence {numbers[np.argmin(lengths)]} is empty"
    return ""
