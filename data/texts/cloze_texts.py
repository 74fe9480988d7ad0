"""Texts of the spoken StoryCloze (sSC) and TopicCloze (sTC), in the keys that `eval-items` reads.

    sSC/STORY_mutual, sSC/STORY_correct, sSC/STORY_incorrect

are a prompt of four sentences, its ending and its wrong ending; sTC has the same prompts and
endings, and as the wrong one the right ending of another story. As in TWIST's (Hassid et al. 2023)
it is drawn at random; here every ending is also wrong exactly once, so that endings alone give no
hint. All languages have the same stories and draw.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tresse.data.durable import staged_folder
from tresse.data.left_out import LeftOut
from tresse.data.texts.story_cloze import NUM_SENTENCES, PROMPT
from tresse.data.texts.texts import Text, write_texts

TEXTS = "texts.jsonl"
NUM_DRAWS = 100
"""Draws of the endings that are tried until each differs from the right one of its story."""

Stories = Mapping[str, Mapping[str, Text]]
"""Texts by key and language."""


def write_cloze_texts(
    texts: Sequence[Text], out: Path, seed: int, left_out: LeftOut
) -> tuple[int, list[str]]:
    """Write texts.jsonl into the folder `out`; return the number of stories, and the languages.

    texts: stories of six sentences: four, the right ending, the wrong ending. A story that is not
    in all languages goes to `left_out`.
    """
    languages = sorted({text.language for text in texts})
    stories = _complete(texts, languages, left_out)
    lenders = draw_lenders(
        [[own[lang].sentences[-2] for lang in languages] for own in stories.values()], seed
    )
    with staged_folder(out) as folder:
        write_texts(folder / TEXTS, _parts(stories, languages, lenders))
        left_out.write(folder)
    return len(stories), languages


def draw_lenders(endings: Sequence[Sequence[str]], seed: int) -> np.ndarray:
    """Return for each story another one, whose ending is its wrong one: int64 [stories].

    endings: right endings of each story in all languages. Each story lends its ending once, and
    never to a story with the same ending. ValueError when there are too few stories for that.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(NUM_DRAWS):
        order = rng.permutation(len(endings))
        lenders = np.empty_like(order)
        lenders[order] = np.roll(order, 1)
        pairs = ((endings[i], endings[j]) for i, j in enumerate(lenders.tolist()))
        if not any(a == b for pair in pairs for a, b in zip(*pair, strict=True)):
            return lenders
    raise ValueError(f"{len(endings)} stories are too few to lend each other endings that differ")


def _complete(texts: Sequence[Text], languages: Sequence[str], left_out: LeftOut) -> Stories:
    """Return the stories that are in all languages, sorted by key."""
    found: dict[str, dict[str, Text]] = {}
    for text in texts:
        if len(text.sentences) != NUM_SENTENCES:
            raise ValueError(
                f"{text.where}: {text} has {len(text.sentences)} sentences, expected "
                f"{NUM_SENTENCES}: four, the right ending, the wrong ending"
            )
        found.setdefault(text.key, {})[text.language] = text
    for key, own in found.items():
        if missing := [language for language in languages if language not in own]:
            place = next(iter(own.values())).where
            left_out.add(place, f"story {key!r} is not in {', '.join(missing)}", key, missing[0])
    return {key: own for key, own in sorted(found.items()) if len(own) == len(languages)}


def _parts(stories: Stories, languages: Sequence[str], lenders: np.ndarray) -> Iterator[Text]:
    """Yield the prompts and endings of both sets in all languages."""
    told = list(stories.values())
    for task in ("sSC", "sTC"):
        for language in languages:
            for number, (key, own) in enumerate(stories.items()):
                *prompt, right, wrong = own[language].sentences
                assert len(prompt) == len(PROMPT)
                if task == "sTC":
                    wrong = told[lenders[number]][language].sentences[-2]
                yield Text(f"{task}/{key}_mutual", language, tuple(prompt))
                for name, ending in (("correct", right), ("incorrect", wrong)):
                    yield Text(f"{task}/{key}_{name}", language, (ending,), continues=True)
