"""ZeroSpeech 2021's sWUGGY and sBLIMP: a folder of WAV files and the gold.csv that lists them.

    lexical    filename,id,voice,frequency,word,phones,length,correct
    syntactic  filename,id,voice,type,subtype,transcription,correct

Other sets have the same form, such as the French sWUGGY of coml/sWuggy on the Hugging Face hub,
whose audio is in tars: there `filename` is the name of the sample. `frequency` and `length` may be
missing.

The rules are those of the challenge (Nguyen et al. 2020, https://arxiv.org/abs/2011.11588, and its
evaluation program). A word's partner has the same voice and id. The partner of the i-th correct
sentence is the i-th incorrect one; here voice, type, subtype and id must be equal too. A pair
counts 1, 1/2 or 0; voices are averaged within an id, and ids within a set. `frequency` counts the
word in LibriSpeech.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tresse.data.evaluation.listing import Names, pair_item
from tresse.data.naming import normal_key
from tresse.data.store.cloze import Item

GOLD = "gold.csv"
LEXICAL = ("filename", "id", "voice", "word", "correct")
SYNTACTIC = ("filename", "id", "voice", "type", "subtype", "correct")
NUMBERS = ("frequency", "length")
"""Columns of words that become labels, where the file has them."""
SPLITS = ("dev", "test")


class Line(NamedTuple):
    """A line of gold.csv, which describes a recording."""

    where: str
    cells: dict[str, str]

    @property
    def name(self) -> str:
        """Name of the recording."""
        return normal_key(self.cells["filename"])

    def key(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the cells that its partner must have too."""
        return tuple(self.cells[column] for column in columns)

    def number(self, column: str) -> int:
        """Parse a cell as a whole number; pandas writes 12.0 for 12."""
        text = self.cells[column]
        try:
            value = float(text)
        except ValueError:
            value = 0.5
        if value % 1 or value < 0:
            raise ValueError(f"{self.where}: {column} is {text!r}, expected a number from 0")
        return int(value)


class Gold(NamedTuple):
    """Content of a gold.csv."""

    path: Path
    columns: tuple[str, ...]
    lines: list[Line]

    @property
    def task(self) -> str:
        """Name of the task by columns and folder: sWUGGY-dev."""
        name = "sWUGGY" if self.columns == LEXICAL else "sBLIMP"
        split = self.path.parent.name
        return f"{name}-{split}" if split in SPLITS else name

    def read(self, task: str, listed: Mapping[str, Names]) -> list[Item]:
        """Return the items of one language in the order of their correct lines."""
        ((language, names),) = listed.items()
        self._check_names(names)
        correct = [line for line in self.lines if line.number("correct") == 1]
        incorrect = [line for line in self.lines if line.number("correct") == 0]
        for line in self.lines:
            if line.number("correct") > 1:
                found = line.cells["correct"]
                raise ValueError(f"{line.where}: correct is {found}, expected 0 or 1")
        lexical = self.columns == LEXICAL
        pairs = _by_key(correct, incorrect) if lexical else self._by_order(correct, incorrect)
        build = _word if lexical else _sentence
        return [build(task, language, *pair) for pair in pairs]

    def _check_names(self, names: Names) -> None:
        """Raise ValueError unless each line has a recording, and each recording one line."""
        seen: dict[str, Line] = {}
        for line in self.lines:
            former = seen.setdefault(line.name, line)
            if former is not line:
                raise ValueError(f"{line.where}: {line.name} is there already ({former.where})")
            if line.name not in names:
                raise ValueError(f"{line.where}: the recording {line.name} is missing")
        for name, where in names.items():
            if name not in seen:
                raise ValueError(f"{where}: no line of {self.path} lists it")

    def _by_order(self, correct: list[Line], incorrect: list[Line]) -> Iterator[tuple[Line, Line]]:
        """Pair the i-th correct line with the i-th incorrect one."""
        if len(correct) != len(incorrect):
            raise ValueError(
                f"{self.path}: {len(correct)} correct lines and {len(incorrect)} incorrect ones"
            )
        columns, seen = ("voice", "type", "subtype", "id"), {}
        for pair in zip(correct, incorrect, strict=True):
            own, other = (line.key(columns) for line in pair)
            if own != other:
                raise ValueError(
                    f"{pair[1].where}: {', '.join(columns)} are {', '.join(other)}; by the order "
                    f"of lines its partner is {pair[0].where}, which has {', '.join(own)}"
                )
            _note(pair[0], own, seen)
            yield pair


def read_gold(folder: Path) -> Gold:
    """Read the gold.csv of a folder; ValueError names the file and the line."""
    path = folder / GOLD
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a folder like sLM21-dataset/lexical/dev")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns = reader.fieldnames or ()
            kinds = [kind for kind in (LEXICAL, SYNTACTIC) if set(kind) <= set(columns)]
            if len(kinds) != 1:
                raise ValueError(
                    f"{path}: has the columns {', '.join(columns)}; expected {', '.join(LEXICAL)} "
                    f"or {', '.join(SYNTACTIC)}"
                )
            read = (*kinds[0], *(column for column in NUMBERS if column in columns))
            lines = [_line(f"{path}:{reader.line_num}", cells, read) for cells in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{reader.line_num + 1}: not CSV in UTF-8: {error}") from None
    if not lines:
        raise ValueError(f"{path}: no lines after the header")
    return Gold(path, kinds[0], lines)


def _line(where: str, cells: dict[str, str], columns: Sequence[str]) -> Line:
    """Return a line with the cells of `columns`; ValueError for one that is missing or empty."""
    if None in cells or None in cells.values():
        raise ValueError(f"{where}: the number of cells differs from the header's")
    for column in ("filename", "id", "voice", "correct"):
        if not cells[column]:
            raise ValueError(f"{where}: {column} is empty")
    return Line(where, {column: cells[column] for column in columns})


def _by_key(correct: list[Line], incorrect: list[Line]) -> Iterator[tuple[Line, Line]]:
    """Pair each word with the nonword of the same voice and id."""
    columns = ("voice", "id")
    words: dict[tuple[str, ...], Line] = {}
    nonwords: dict[tuple[str, ...], Line] = {}
    for line in correct:
        _note(line, line.key(columns), words)
    for line in incorrect:
        _note(line, line.key(columns), nonwords)
    for own, others in ((words, nonwords), (nonwords, words)):
        for identity, line in own.items():
            if identity not in others:
                raise ValueError(
                    f"{line.where}: {line.name} has no partner of voice {identity[0]} and id "
                    f"{identity[1]}"
                )
    for identity, line in words.items():
        yield line, nonwords[identity]


def _note(line: Line, identity: tuple[str, ...], seen: dict[tuple[str, ...], Line]) -> None:
    """Add a line to those seen; ValueError when another one has its identity."""
    former = seen.setdefault(identity, line)
    if former is not line:
        raise ValueError(f"{line.where}: {', '.join(identity)} is there already ({former.where})")


def _word(task: str, language: str, word: Line, nonword: Line) -> Item:
    id_, voice = word.key(("id", "voice"))
    labels = {column: word.number(column) for column in NUMBERS if column in word.cells}
    item = pair_item(task, language, f"{id_}/{voice}", word.name, nonword.name)
    return replace(item, group=id_, labels=labels | {"voice": voice})


def _sentence(task: str, language: str, sentence: Line, nonsentence: Line) -> Item:
    type_, subtype, id_, voice = sentence.key(("type", "subtype", "id", "voice"))
    group = f"{type_}/{subtype}/{id_}"
    item = pair_item(task, language, f"{group}/{voice}", sentence.name, nonsentence.name)
    return replace(item, group=group, labels={"type": type_, "subtype": subtype, "voice": voice})
