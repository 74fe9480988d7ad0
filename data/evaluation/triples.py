"""A prompt and two endings: STORY_mutual.wav, STORY_correct.wav and STORY_incorrect.wav.

SlamKit's layout of StoryCloze across modalities; with a folder per language, where the files of one
story are called the same, every story is asked about in every pair of languages. A prompt and its
endings are separate documents: an ending is encoded without what was said before it, as it must be
where that was said in another language.
"""

from collections.abc import Mapping

from tresse.data.evaluation.listing import Names, key
from tresse.data.store.cloze import Item

PARTS = ("mutual", "correct", "incorrect")


def read_triples(task: str, listed: Mapping[str, Names]) -> list[Item]:
    """An item for each story, in all of the languages."""
    languages = tuple(listed)
    stories = {language: _stories(names) for language, names in listed.items()}
    for language, own in stories.items():
        for other in languages:
            for story in own:
                if story not in stories[other]:
                    where = listed[language][f"{story}_{PARTS[0]}"]
                    raise ValueError(f"{where}: is there in {language}, but not in {other}")
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


def _stories(names: Names) -> dict[str, None]:
    """Stories in the order of their names, each checked to be whole."""
    stories: dict[str, None] = {}
    for name, where in names.items():
        story, _, part = name.rpartition("_")
        if not story or part not in PARTS:
            raise ValueError(
                f"{where}: expected a name that ends in {', '.join(f'_{part}' for part in PARTS)}"
            )
        for other in PARTS:
            if f"{story}_{other}" not in names:
                raise ValueError(f"{where}: there is no {story}_{other} beside it")
        stories[story] = None
    return stories
