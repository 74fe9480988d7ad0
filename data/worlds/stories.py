"""Short stories in English and French for the demo that starts from speech.

Somebody goes to a place where the day has a fixed round of events: at the farm, he feeds the cows,
then milks the goat, then washes the horse, ... A story enters the round anywhere, moves on with
each sentence, and sometimes skips an event. `grammar.py` has the words. A cloze item shows all
sentences but the last and asks which of two endings follows, as in the story world:

    sTC   the wrong ending happens at another place
    sSC   the wrong ending happens at the same place, about half a round away

In each task every ending is right once and wrong once, and all say "he" whoever the character is,
so that endings alone give no hint.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tresse.data.durable import replaced_file, staged_folder
from tresse.data.store.cloze import ITEMS, write_items
from tresse.data.worlds.endings import cloze_items
from tresse.data.worlds.grammar import ADJECTIVES, CHARACTERS, LANGUAGES, OPENERS, PLACES, tell

SKIP = 0.2  # probability that a story skips the next event, drawn again for each further event


@dataclass(frozen=True, kw_only=True)
class StorySizes:
    """Numbers of stories and their length."""

    train: int = 1200
    """Number of training stories in both languages."""
    extra: int = 0
    """Number of training stories in English only."""
    valid: int = 60
    """Number of held-out stories in both languages."""
    cloze: int = 300
    """Number of held-out stories in both languages that become an sSC and an sTC item each.
    It must be a multiple of 6, the number of places, and 12 or more."""
    events: int = 4
    """Number of events in a story, one sentence each, after the sentence that names the place.
    The last one is the ending."""
    seed: int = 0
    """Seed of the stories."""

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
    """A story in no language; its numbers are indices into the lists of the grammar."""

    character: int
    place: int
    events: tuple[int, ...]
    openers: tuple[int, ...]  # one per event
    adjectives: tuple[int, ...]  # one per event


def write_stories(out: Path, sizes: StorySizes) -> None:
    """Write train.jsonl, valid.jsonl, cloze.jsonl and items.jsonl into the folder `out`.

    Equal sizes give equal bytes with the same version of numpy. No story is written twice.
    """
    counts = {"train": sizes.train, "extra": sizes.extra}
    counts |= {"valid": sizes.valid, "cloze": sizes.cloze}
    told = draw(sizes, sum(counts.values()))
    stories = {kind: [next(told) for _ in range(count)] for kind, count in counts.items()}
    with staged_folder(out) as folder:
        training = [
            *_records(stories["train"], "train", LANGUAGES),
            *_records(stories["extra"], "extra", LANGUAGES[:1]),
        ]
        _write(folder / "train.jsonl", training)
        _write(folder / "valid.jsonl", _records(stories["valid"], "valid", LANGUAGES))
        cloze = _records(stories["cloze"], "cloze", LANGUAGES)
        _write(folder / "cloze.jsonl", (half for record in cloze for half in _split(record)))
        places = np.array([story.place for story in stories["cloze"]])
        endings = np.array([story.events[-1] for story in stories["cloze"]])
        write_items(folder / ITEMS, cloze_items(places, endings, "cloze"))


def draw(sizes: StorySizes, num_stories: int) -> Iterator[Story]:
    """Yield different stories whose places take turns."""
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
    """Return the sentences of a story: the arrival, then one for each event."""
    number = LANGUAGES.index(language)
    place = PLACES[story.place]
    told = [f"{CHARACTERS[story.character][number]} {place.arrival[number]}."]
    for event, opener, adjective in zip(story.events, story.openers, story.adjectives, strict=True):
        told.append(tell(place.events[event], opener, adjective, language))
    return told


def _records(
    stories: Iterable[Story], kind: str, languages: tuple[str, ...]
) -> Iterator[dict[str, object]]:
    """Yield the record of each story in each language."""
    for number, story in enumerate(stories):
        for language in languages:
            told = sentences(story, language)
            yield {"key": f"{kind}/{number:06d}", "lang": language, "sentences": told}


def _split(record: dict[str, object]) -> Iterator[dict[str, object]]:
    """Yield the prompt and the ending of a story under the keys that items use."""
    told = record["sentences"]
    assert isinstance(told, list)
    yield record | {"key": f"{record['key']}/prompt", "sentences": told[:-1]}
    yield record | {"key": f"{record['key']}/ending", "sentences": told[-1:]}


def _write(path: Path, records: Iterable[dict[str, object]]) -> None:
    with replaced_file(path) as file:
        for record in records:
            file.write(f"{json.dumps(record, ensure_ascii=False)}\n".encode())
