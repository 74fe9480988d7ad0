"""Small evaluation sets on disk in the layouts of ZeroSpeech, TWIST, SlamKit and the paper."""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

from tests.support.synthetic_audio import write_buzz

LEXICAL = ("filename", "id", "voice", "frequency", "word", "phones", "length", "correct")
SYNTACTIC = ("filename", "id", "voice", "type", "subtype", "transcription", "correct")
VOICES = ("A", "C")
STORIES = ("0_s_correct", "1_s_incorrect", "2_t_correct", "3_t_incorrect")
TRIPLE = ("s_mutual", "s_correct", "s_incorrect", "t_1_mutual", "t_1_correct", "t_1_incorrect")

Lines = list[dict[str, object]]


def write_tree(folder: Path, *names: str, seed: int = 0) -> Path:
    """Write a short sound under each name, `.wav` unless it says otherwise."""
    for i, name in enumerate(names):
        path = folder / (name if "." in name else f"{name}.wav")
        write_buzz(path, 0.17 + 0.09 * i, 16_000, seed + i)
    return folder


def lexical_lines() -> Lines:
    """Return two words in two voices, in an order that does not tell the partners."""
    words = {"7": ("cat", 12), "8": ("dog", 0)}
    lines: Lines = [
        {
            "filename": f"{'w' if correct else 'n'}{id_}{voice}",
            "id": id_,
            "voice": voice,
            "frequency": f"{float(frequency)}" if correct else "",
            "word": word if correct else "",
            "phones": "K AE T",
            "length": 3,
            "correct": correct,
        }
        for (id_, (word, frequency)), voice, correct in itertools.product(
            words.items(), VOICES, (1, 0)
        )
    ]
    return [lines[i] for i in (0, 7, 2, 1, 6, 5, 4, 3)]


def syntactic_lines() -> Lines:
    """Return two sentences in two voices."""
    sentences = {"1": ("agreement", "anaphor"), "2": ("island", "wh, which")}
    return [
        {
            "filename": f"{'s' if correct else 'x'}{id_}{voice}",
            "id": id_,
            "voice": voice,
            "type": type_,
            "subtype": subtype,
            "transcription": "a, b",
            "correct": correct,
        }
        for (id_, (type_, subtype)), correct, voice in itertools.product(
            sentences.items(), (0, 1), VOICES
        )
    ]


def write_gold(folder: Path, columns: Sequence[str], lines: Lines) -> Path:
    """Write a folder like those of ZeroSpeech: recordings and their gold.csv."""
    write_tree(folder, *(str(line["filename"]) for line in lines))
    write_lines(folder, columns, lines)
    return folder


def write_lines(folder: Path, columns: Sequence[str], lines: Lines) -> None:
    """Write a gold.csv; recordings for it need not exist."""
    with (folder / "gold.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)
