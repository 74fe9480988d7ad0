"""Triples of a prompt and two endings: STORY_mutual.wav, STORY_correct.wav, STORY_incorrect.wav.

SlamKit has this layout for StoryCloze across modalities. With a folder per language and equal names
in all of them, every story is asked in every pair of languages. Prompt and endings are separate
documents: an ending must be encoded without its prompt, which may be in another language.
"""

import logging
from collections.abc import Mapping

from tresse.data.evaluation.listing import Names, key
from tresse.data.store.cloze import Item

PARTS = ("mutual", "correct", "incorrect")
NUM_SHOWN = 10

logger = logging.getLogger(__name__)


def read_triples(task: str, listed: Mapping[str, Names]) -> list[Item]:
    """Return an item for each story, asked in all languages."""
    languages = tuple(listed)
    stories = {language: _stories(names) for language, names in listed.items()}
    for language, own in stories.items():
        for other in languages:
            for story in own:
                if story not in stories[other]:
                    where = listed[language][f"{story}_{PARTS[0]}"]
                    raise ValueError(f"{where}: this story is in {language}, but not in {other}")
    items = []
    for story in stories[languages[0]]:
        prompt, correct, incorrect = (key(task, f"{story}_{part}") for part in PARTS)
        items.append(
            Item(
                task=task,
                id=story,
                prompt=prompt,
                correct=correct,
                incorrect=incorrect,
                languages=languages,
            )
        )
    return items


def drop_incomplete(listed: Mapping[str, Names]) -> dict[str, Names]:
    """Leave out the stories that are not whole in every language, and name them in a warning."""
    split = {name: name.rpartition("_") for names in listed.values() for name in names}
    stories = {story for story, _, part in split.values() if story and part in PARTS}
    broken = {
        story
        for story in stories
        if any(f"{story}_{part}" not in names for names in listed.values() for part in PARTS)
    }
    if broken:
        shown = ", ".join(sorted(broken)[:NUM_SHOWN])
        more = f" and {len(broken) - NUM_SHOWN} more" if len(broken) > NUM_SHOWN else ""
        logger.warning("left out, as they are not whole in every language: %s%s", shown, more)
    return {
        language: {name: where for name, where in names.items() if split[name][0] not in broken}
        for language, names in listed.items()
    }


def _stories(names: Names) -> dict[str, None]:
    """Return the stories in the order of their names; ValueError for one that is not whole."""
    stories: dict[str, None] = {}
    for name, where in names.items():
        story, _, part = name.rpartition("_")
        if not story or part not in PARTS:
            raise ValueError(
                f"{where}: expected a name that ends in {', '.join(f'_{part}' for part in PARTS)}"
            )
        for other in PARTS:
            if f"{story}_{other}" not in names:
                raise ValueError(f"{where}: {story}_{other} is missing beside it")
        stories[story] = None
    return stories
