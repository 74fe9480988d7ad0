"""How a document is named: its key, its language, and what the names of files say of both."""

import logging
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

LANGUAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
GROUPS = ("key", "lang", "sentence")
NUM_LISTED = 10
logger = logging.getLogger(__name__)


class Name(NamedTuple):
    """What the name of a file says."""

    key: str
    language: str
    sentence: int | None


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How names become keys, languages and sentences: flags of every import."""

    lang: str = ""
    """Language of all of it, unless the key pattern finds languages."""
    key_pattern: str = ""
    r"""Regular expression that is searched in each name, with a group `key` and, if need be, groups
    `lang` and `sentence`: '(?P<lang>en|fr)/(?P<key>.+)_(?P<sentence>\d+)\.flac'. With `sentence`,
    which counts from 0 or from 1, the files of a document are gathered in that order, wherever they
    stand. Without a pattern a file is a document of one sentence."""
    split_long: bool = False
    """Cut files of more than 65,535 units, the most that a sentence has, into several sentences;
    good for one language only. Otherwise such a file is an error."""
    skip_incomplete: bool = False
    """Leave out documents in which a sentence is empty or missing, and list them. Otherwise they
    are an error."""

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
        """The key pattern, compiled."""
        try:
            return re.compile(self.key_pattern) if self.key_pattern else None
        except re.error as error:
            raise ValueError(f"--key-pattern {self.key_pattern!r}: {error}") from error

    @property
    def has_sentences(self) -> bool:
        """Whether a file is a sentence rather than a document."""
        return self.pattern is not None and "sentence" in self.pattern.groupindex

    @property
    def has_languages(self) -> bool:
        """Whether every document has a language."""
        return bool(self.lang) or (self.pattern is not None and "lang" in self.pattern.groupindex)

    def parse(self, name: str, key: str, language: str = "") -> Name:
        """Read the name of a file; key and language are what else says them."""
        found = {"key": key, "lang": language or self.lang}
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
        return Name(found["key"], language, None if sentence is None else int(sentence))


def stem(name: str) -> str:
    """The file name without folder and ending: the usual key."""
    return PurePosixPath(name).stem


def check_language(language: str) -> str:
    """The language, if it can be part of a file name."""
    if not isinstance(language, str) or not LANGUAGE.fullmatch(language):
        raise ValueError(
            f"language {language!r}: expected 1 to 32 letters, digits, '-' or '_', like 'pt-BR'"
        )
    return language


def find_fault(numbers: np.ndarray, lengths: np.ndarray, first: int) -> str:
    """What is wrong with the sorted sentences of a document, if anything."""
    expected = first + np.arange(numbers.size)
    if not np.array_equal(numbers, expected):
        place = int(np.argmax(numbers != expected))
        if place and numbers[place] == numbers[place - 1]:
            return f"sentence {numbers[place]} is there twice"
        return f"sentence {expected[place]} is missing (numbers start at {first} and go on by 1)"
    if not lengths.all():
        return f"sentence {numbers[np.argmin(lengths)]} is empty"
    return ""


class LeftOut:
    """Counts what is left out, and lists the first."""

    def __init__(self) -> None:
        self.count = 0
        self.lines: list[str] = []

    def add(self, key: str, language: str, fault: str) -> None:
        """Note a document."""
        self.count += 1
        if self.count <= NUM_LISTED:
            self.lines.append(f"  {key!r} ({language}): {fault}")

    def report(self) -> None:
        """Warn of them."""
        if self.count > NUM_LISTED:
            self.lines.append(f"  ... and {self.count - NUM_LISTED} more")
        if self.count:
            logger.warning("left out %d documents:\n%s", self.count, "\n".join(self.lines))
