"""Short stories in English and French for the demo that starts from speech.

Somebody goes to a place, where the day has a fixed round of events: at the farm, he feeds the cows,
then milks the goat, then cleans the stable, ... A story enters the round anywhere, goes on with
each sentence, and skips an event now and then. All telling is by `grammar.py`. A cloze item shows
all sentences but the last and asks which of two endings follows, as in the story world:

    sTC   the wrong ending is what happens at another place
    sSC   the wrong ending happens at this place, about half a round away

Every ending is the right one once and the wrong one once in each task, and says "he", whoever it
is, so that endings alone give nothing away.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tresse.data.durable import staged_folder
from tresse.data.store.cloze import ITEMS, write_items
from tresse.data.worlds.grammar import ADJECTIVES, CHARACTERS, LANGUAGES, OPENERS, PLACES, tell
from tresse.data.worlds.story_world import items

SKIP = 0.2  # probability that a story skips an event, and again for the one after


@dataclass(frozen=True, kw_only=True)
class StorySizes:
    """How many stories."""

    train: int = 1200
    """Training stories in both languages."""
    extra: int = 0
    """Training stories in English only."""
    valid: int = 60
    """Held-out stories in both languages."""
    cloze: int = 300
    """Held-out stories that become one sSC and one sTC item each."""
    events: int = 4
    """Events of a story, the ending among them."""
    seed: int = 0
    """Draws the stories."""

    def __post_init__(self) -> None:
        least = {"train": 1, "extra": 0, "valid": 1, "cloze": 2 * len(PLACES), "events": 2}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {value} or more")
        if self.cloze % len(PLACES):
            raise ValueError(
                f"cloze is {self.cloze}, expected a multiple of {len(PLACES)}, so that places are "
                "equally frequent"
            )


class Story(NamedTuple):
    """A story in no language; numbers are places in the grammar's tables."""

    character: int
    place: int
    events: tuple[int, ...]
    openers: tuple[int, ...]  # of each event
    adjectives: tuple[int, ...]  # of each event


def write_stories(out: Path, sizes: StorySizes) -> None:
    """Write train.jsonl, valid.jsonl, cloze.jsonl and items.jsonl into the folder `out`.

    The same sizes give the same bytes (with one version of numpy). No story is there twice.
    """
    counts = {"train": sizes.train, "extra": sizes.extra}
    counts |= {"valid": sizes.valid, "cloze": sizes.cloze}
    told = draw(sizes, sum(counts.values()))
    stories = {kind: [next(told) for _ in range(count)] for kind, count in counts.items()}
    with staged_folder(out) as folder:
        training = [
            *_lines(stories["train"], "train", LANGUAGES),
            *_lines(stories["extra"], "extra", LANGUAGES[:1]),
        ]
        _write(folder / "train.jsonl", training)
        _write(folder / "valid.jsonl", _lines(stories["valid"], "valid", LANGUAGES))
        cloze = _lines(stories["cloze"], "cloze", LANGUAGES)
        _write(folder / "cloze.jsonl", (half for line in cloze for half in _split(line)))
        places = np.array([story.place for story in stories["cloze"]])
        endings = np.array([story.events[-1] for story in stories["cloze"]])
        write_items(folder / ITEMS, items(places, endings))


def draw(sizes: StorySizes, num_stories: int) -> Iterator[Story]:
    """Yield different stories, their places in turn within each part."""
    rng = np.random.Generator(np.random.PCG64(sizes.seed))
    seen: set[Story] = set()
    while len(seen) < num_stories:
        place = len(seen) % len(PLACES)
        events = PLACES[place].events
        steps = rng.geometric(1 - SKIP, sizes.events)
        steps[0] = rng.integers(len(events))
        story = Story(
            character=int(rng.integers(len(CHARACTERS))),
            place=place,
            events=tuple((np.cumsum(steps) % len(events)).tolist()),
            openers=tuple(rng.integers(len(OPENERS), size=sizes.events).tolist()),
            adjectives=tuple(rng.integers(len(ADJECTIVES), size=sizes.events).tolist()),
        )
        if story not in seen:
            seen.add(story)
            yield story


def sentences(story: Story, language: str) -> list[str]:
    """Tell a story: where somebody goes, and a sentence for each event."""
    number = LANGUAGES.index(language)
    place = PLACES[story.place]
    told = [f"{CHARACTERS[story.character][number]} {place.arrival[number]}."]
    for event, opener, adjective in zip(story.events, story.openers, story.adjectives, strict=True):
        told.append(tell(place.events[event], opener, adjective, language))
    return told


def _lines(
    stories: Iterable[Story], kind: str, languages: tuple[str, ...]
) -> Iterator[dict[str, object]]:
    for number, story in enumerate(stories):
        for language in languages:
            told = sentences(story, language)
            yield {"key": f"{kind}/{number:06d}", "lang": language, "sentences": told}


def _split(line: dict[str, object]) -> Iterator[dict[str, object]]:
    """Prompt and ending of a story, as the items call them."""
    told = line["sentences"]
    assert isinstance(told, list)
    yield line | {"key": f"{line['key']}/prompt", "sentences": told[:-1]}
    yield line | {"key": f"{line['key']}/ending", "sentences": told[-1:]}


def _write(path: Path, lines: Iterable[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            print(json.dumps(line, ensure_ascii=False), file=file)
        file.flush()
        os.fsync(file.fileno())
