"""Pairs of numbered files: file 2i is the correct one of pair i, file 2i + 1 the incorrect one.

    pairs        <number>_<anything>.wav or <number>+<anything>.wav, in the folder or in subfolders
                 that count separately: SlamKit's layout of sWUGGY, sBLIMP and others
    storycloze   <2i>_<story>_correct.wav and <2i + 1>_<story>_incorrect.wav, whole stories: the
                 spoken StoryCloze and TopicCloze of TWIST (Hassid et al. 2023)

SlamKit pairs neighbours in the order of the numbers, so a missing file silently swaps correct and
incorrect in all later pairs. Here it is an error.
"""

import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import PurePosixPath
from typing import NamedTuple

from tresse.data.evaluation.listing import Names, pair_item
from tresse.data.store.cloze import Item

NUMBERED = re.compile(r"([0-9]+)[_+].*")
STORY = re.compile(r"[0-9]+_(.+)_(correct|incorrect)")
ENDINGS = ("correct", "incorrect")


class Story(NamedTuple):
    """The parts of a name of TWIST's."""

    story: str
    ending: str


def read_pairs(task: str, listed: Mapping[str, Names]) -> list[Item]:
    """Return an item for each pair in each language."""
    return [
        pair_item(task, language, correct, correct, incorrect)
        for language, names in listed.items()
        for correct, incorrect in _pair_up(names)
    ]


def read_storycloze(task: str, listed: Mapping[str, Names]) -> list[Item]:
    """Return an item for each pair in each language; ValueError if name and number disagree."""
    items = []
    for language, names in listed.items():
        parsed = {name: _parse(name, where) for name, where in names.items()}
        for pair in _pair_up(names):
            for name, expected in zip(pair, ENDINGS, strict=True):
                if parsed[name].ending != expected:
                    raise ValueError(f"{names[name]}: its number means the {expected} ending")
            own, other = (parsed[name].story for name in pair)
            if own != other:
                raise ValueError(
                    f"{names[pair[1]]}: its story is {other}, but its partner {pair[0]} has {own}"
                )
            id_ = pair[0].removesuffix(f"_{ENDINGS[0]}")
            items.append(pair_item(task, language, id_, *pair))
    return items


def _parse(name: str, where: object) -> Story:
    match = STORY.fullmatch(name)
    if match is None:
        raise ValueError(f"{where}: expected a name like 12_STORY_correct or 13_STORY_incorrect")
    return Story(match[1], match[2])


def _pair_up(names: Names) -> list[tuple[str, str]]:
    """Return the names of numbers 2i and 2i + 1 in pairs, by folder and number."""
    pairs = []
    for _, own in groupby(sorted(names, key=_folder), _folder):
        by_number: dict[int, str] = {}
        for name in own:
            match = NUMBERED.fullmatch(PurePosixPath(name).name)
            if match is None:
                raise ValueError(
                    f"{names[name]}: expected a name that starts with a number and '_' or '+'"
                )
            former = by_number.setdefault(int(match[1]), name)
            if former != name:
                raise ValueError(f"{names[name]}: {names[former]} has the same number")
        for number, name in sorted(by_number.items()):
            if number ^ 1 not in by_number:
                raise ValueError(
                    f"{names[name]}: file number {number ^ 1} of its pair is missing; file 2i is "
                    "the correct one, file 2i + 1 the incorrect one"
                )
            if number % 2 == 0:
                pairs.append((name, by_number[number + 1]))
    return pairs


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)
