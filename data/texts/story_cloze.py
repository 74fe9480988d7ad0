"""Stories of StoryCloze (Mostafazadeh et al. 2016) as its CSV has them, each as six sentences.

    InputStoryid,InputSentence1,...,InputSentence4,RandomFifthSentenceQuiz1,
    RandomFifthSentenceQuiz2,AnswerRightEnding

The first four sentences are the prompt; the fifth is the right ending, the sixth the wrong one. As
one text, a story is translated whole: both endings then see the prompt.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from tresse.data.left_out import ContradictionError
from tresse.data.naming import check_language, normal_key
from tresse.data.texts.texts import Text, check_sentences

KEY, ANSWER = "InputStoryid", "AnswerRightEnding"
PROMPT = tuple(f"InputSentence{number}" for number in range(1, 5))
ENDINGS = ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2")
COLUMNS = (KEY, *PROMPT, *ENDINGS, ANSWER)
NO_LANGUAGE = "the language of the story is missing; name it by --lang"
NUM_SENTENCES = len(PROMPT) + len(ENDINGS)


def read_story_cloze(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place and the cells of each line; ValueError names the file and the line."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns = reader.fieldnames or ()
            if missing := [column for column in COLUMNS if column not in columns]:
                raise ValueError(
                    f"{path}: no column {', '.join(missing)}; expected StoryCloze's "
                    f"{', '.join(COLUMNS)}, found {', '.join(columns)}"
                )
            for cells in reader:
                yield f"{path}:{reader.line_num}", cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{reader.line_num + 1}: not CSV in UTF-8: {error}") from None


def parse_story(cells: Mapping[str, str], language: str) -> Text:
    """Return a story: four sentences, the right ending, the wrong ending."""
    if not language:
        raise ContradictionError(
            "the language of the story is missing; name it on the command line"
        )
    if None in cells or None in cells.values():
        raise ValueError("the number of cells differs from the header's")
    if cells[ANSWER] not in ("1", "2"):
        raise ValueError(f"{ANSWER} is {cells[ANSWER]!r}, expected 1 or 2")
    if not cells[KEY]:
        raise ValueError(f"{KEY} is empty")
    right, wrong = ENDINGS if cells[ANSWER] == "1" else reversed(ENDINGS)
    sentences = [" ".join(cells[column].split()) for column in (*PROMPT, right, wrong)]
    check_sentences(sentences)
    return Text(normal_key(cells[KEY]), check_language(language), tuple(sentences))
