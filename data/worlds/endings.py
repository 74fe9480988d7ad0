"""Wrong endings of cloze items, borrowed from other stories so that endings alone give no hint.

Each story lends its ending to exactly one story of the same topic and to one of another topic.
"""

from collections.abc import Iterator

import numpy as np

from tresse.data.store.cloze import Item


def cloze_items(topics: np.ndarray, places: np.ndarray, field: str) -> Iterator[Item]:
    """Yield an sSC and an sTC item per story: its prompt, its ending, the ending of its partner.

    topics, places: as in `partners`. ValueError if a topic has too few stories; it names `field`,
    the setting of their number.
    """
    same, other = partners(topics, places)
    if (places == places[same]).any():
        raise ValueError(
            f"{field}={len(topics)}: too few stories in each topic to borrow "
            "endings that differ; raise it"
        )
    for task, partner in (("sSC", same), ("sTC", other)):
        for number, lender in enumerate(partner):
            yield Item(
                task=task,
                id=f"{number:06d}",
                prompt=f"cloze/{number:06d}/prompt",
                correct=f"cloze/{number:06d}/ending",
                incorrect=f"cloze/{lender:06d}/ending",
            )


def partners(topics: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each story, the lender of an ending in the same topic and in another one.

    topics: int64 [stories], each topic equally frequent; places: int64 [stories], the place of the
    ending in its topic. Both results are permutations. The lender in the same topic is half of its
    stories away, in order of place. The lenders in another topic take all other topics in turn.
    With one fixed topic for each, a model that only prefers some topics after others was up to 4
    standard errors off chance.
    """
    num_topics = topics.max() + 1
    stories = np.lexsort((places, topics)).reshape(num_topics, -1)
    column = np.arange(stories.shape[1])
    lender = (np.arange(num_topics)[:, None] + 1 + column % (num_topics - 1)) % num_topics
    same, other = np.empty_like(topics), np.empty_like(topics)
    same[stories] = np.roll(stories, len(column) // 2, axis=1)
    other[stories] = stories[lender, column]
    return same, other
