"""Pairs that are told by numbers: file 2i is the correct one of pair i, file 2i + 1 the other.

    pairs        <number>_<anything>.wav or <number>+<anything>.wav, in the folder or in folders of
                 it, each of which counts for itself: SlamKit's layout of sWUGGY, sBLIMP and others
    storycloze   <2i>_<story>_correct.wav and <2i + 1>_<story>_incorrect.wav, whole stories: the
                 spoken StoryCloze and TopicCloze of TWIST (Hassid et al. 2023)

SlamKit pairs what follows each other in the order of the numbers, so that a missing file turns all
pairs after it around without a word. Here it is an error.
"""

import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import PurePosixPath
from typing import NamedTuple

from tresse.data.evaluation.listing import Names, key
from tresse.data.store.cloze import Item

NUMBERED = re.compile(r"([0-9]+)[_+].*")
STORY = re.compile(r"[0-9]+_(.+)_(correct|incorrect)")
ENDINGS = ("correct", "incorrect")


class Story(NamedTuple):
    """What a name of TWIST's says."""

    story: str
    ending: str


def read_pairs(task: str, listed: Mapping[str, Names]) -> list[Item]:
    """An item for each pair of each language."""
    return [
        _item(task, language, positive, (positive, negative))
        for language, names in listed.items()
        for positive, negative in _pair_up(names)
    ]


def read_storycloze(task: str, listed: Mapping[str, Names]) -> list[Item]:
    """An item for each pair of each language, whose names must say what their numbers say."""
    items = []
    for language, names in listed.items():
        parsed = {name: _parse(name, where) for name, where in names.items()}
        for pair in _pair_up(names):
            for name, expected in zip(pair, ENDINGS, strict=True):
                if parsed[name].ending != expected:
                    raise ValueError(f"{names[name]}: its number is that of the {expected} ending")
            own, other = (parsed[name].story for name in pair)
            if own != other:
                raise ValueError(
                    f"{names[pair[1]]}: its story is {other}, that of its partner {pair[0]} {own}"
                )
            items.append(_item(task, language, pair[0].removesuffix(f"_{ENDINGS[0]}"), pair))
    return items


def _parse(name: str, where: str) -> Story:
    match = STORY.fullmatch(name)
    if match is None:
        raise ValueError(f"{where}: expected a name like 12_STORY_correct or 13_STORY_incorrect")
    return Story(match[1], match[2])


def _item(task: str, language: str, id_: str, pair: tuple[str, str]) -> Item:
    correct, incorrect = (key(task, name) for name in pair)
    return Item(
        task=task,
        id=id_,
        prompt=None,
        correct=correct,
        incorrect=incorrect,
        languages=(language,),
    )


def _pair_up(names: Names) -> list[tuple[str, str]]:
    """Names of numbers 2i and 2i + 1, folder by folder, in the order of the numbers."""
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
                    f"{names[name]}: there is no file number {number ^ 1} to pair it with; file 2i "
                    "is the correct one, file 2i + 1 the incorrect one"
                )
            if number % 2 == 0:
                pairs.append((name, by_number[number + 1]))
    return pairs


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)
