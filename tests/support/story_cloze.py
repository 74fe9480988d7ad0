"""StoryCloze's CSV with a few stories."""

import csv
from pathlib import Path

from tresse.data.texts.story_cloze import COLUMNS

STORIES = {
    "b929f263": (
        "Ann was hungry",
        "She baked bread",
        "It was hot",
        "She took butter",
        "She ate it",
    ),
    "7d2a_x": ("Bob had a dog", "It ran away", "Bob called it", "It heard him", "It came back"),
    "0c11": ("Rain fell", "The street was wet", "A car slid", "It hit a tree", "Nobody was hurt"),
}
WRONG = "He flew to the moon."


def story_cloze_lines() -> list[dict[str, str]]:
    """Return the lines; the right endings are in the first, second and first place."""
    lines = []
    for number, (key, story) in enumerate(STORIES.items()):
        sentences = [f"{sentence}." for sentence in story]
        endings = [sentences[4], WRONG][:: -1 if number % 2 else 1]
        cells = [key, *sentences[:4], *endings, str(1 + number % 2)]
        lines.append(dict(zip(COLUMNS, cells, strict=True)))
    return lines


def write_story_cloze(path: Path, lines: list[dict[str, str]]) -> Path:
    """Write the CSV as it comes, with a byte order mark."""
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    return path
