"""ZeroSpeech 2021's sWUGGY and sBLIMP: a folder of WAV files and the gold.csv that lists them.

    lexical    filename,id,voice,frequency,word,phones,length,correct
    syntactic  filename,id,voice,type,subtype,transcription,correct

The rules are those of the challenge (Nguyen et al. 2020, https://arxiv.org/abs/2011.11588, and its
evaluation program): a word's partner has its voice and id; the i-th correct sentence's partner is
the i-th incorrect one, and here it must also have its voice, type, subtype and id. A pair counts 1,
1/2 or 0; voices are averaged within an id, ids within a set. `frequency` is how often LibriSpeech
has the word.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tresse.data.evaluation.listing import Names, key
from tresse.data.store.cloze import Item

GOLD = "gold.csv"
LEXICAL = ("filename", "id", "voice", "frequency", "length", "correct")
SYNTACTIC = ("filename", "id", "voice", "type", "subtype", "correct")
SPLITS = ("dev", "test")


class Row(NamedTuple):
    """A row of gold.csv."""

    where: str
    cells: dict[str, str]

    @property
    def name(self) -> str:
        """Its recording."""
        return self.cells["filename"]

    def key(self, columns: Sequence[str]) -> tuple[str, ...]:
        """What its partner has too."""
        return tuple(self.cells[column] for column in columns)

    def number(self, column: str) -> int:
        """A cell that is a whole number; tables of pandas have 12.0 for 12."""
        text = self.cells[column]
        try:
            value = float(text)
        except ValueError:
            value = 0.5
        if value % 1 or value < 0:
            raise ValueError(f"{self.where}: {column} is {text!r}, expected a number from 0")
        return int(value)


class Gold(NamedTuple):
    """What a gold.csv says."""

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]

    @property
    def task(self) -> str:
        """The name that its folder gives it: sWUGGY-dev."""
        name = "sWUGGY" if self.columns == LEXICAL else "sBLIMP"
        split = self.path.parent.name
        return f"{name}-{split}" if split in SPLITS else name

    def read(self, task: str, listed: Mapping[str, Names]) -> list[Item]:
        """The items, in the order of their correct rows, of the recordings of one language."""
        ((language, names),) = listed.items()
        self._check_names(names)
        correct = [row for row in self.rows if row.number("correct") == 1]
        incorrect = [row for row in self.rows if row.number("correct") == 0]
        if len(correct) + len(incorrect) < len(self.rows):
            (row, *_) = [row for row in self.rows if row.number("correct") > 1]
            raise ValueError(f"{row.where}: correct is {row.cells['correct']}, expected 0 or 1")
        lexical = self.columns == LEXICAL
        pairs = _by_key(correct, incorrect) if lexical else self._by_order(correct, incorrect)
        make = _word if lexical else _sentence
        return [make(task, language, *pair) for pair in pairs]

    def _check_names(self, names: Names) -> None:
        seen: dict[str, Row] = {}
        for row in self.rows:
            former = seen.setdefault(row.name, row)
            if former is not row:
                raise ValueError(f"{row.where}: {row.name} is there already ({former.where})")
            if row.name not in names:
                raise ValueError(f"{row.where}: there is no recording {row.name}")
        for name, where in names.items():
            if name not in seen:
                raise ValueError(f"{where}: is in no row of {self.path}")

    def _by_order(self, correct: list[Row], incorrect: list[Row]) -> Iterator[tuple[Row, Row]]:
        if len(correct) != len(incorrect):
            raise ValueError(
                f"{self.path}: {len(correct)} correct rows and {len(incorrect)} incorrect ones"
            )
        columns, seen = ("voice", "type", "subtype", "id"), {}
        for pair in zip(correct, incorrect, strict=True):
            own, other = (row.key(columns) for row in pair)
            if own != other:
                raise ValueError(
                    f"{pair[1].where}: {', '.join(columns)} are {', '.join(other)}; by the order "
                    f"of rows its partner is {pair[0].where}, with {', '.join(own)}"
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
            rows = [_row(f"{path}:{reader.line_num}", cells, kinds[0]) for cells in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{reader.line_num + 1}: not CSV in UTF-8: {error}") from None
    if not rows:
        raise ValueError(f"{path}: no rows")
    return Gold(path, kinds[0], rows)


def _row(where: str, cells: dict[str, str], columns: Sequence[str]) -> Row:
    if None in cells or None in cells.values():
        raise ValueError(f"{where}: not as many cells as the header has")
    for column in ("filename", "id", "voice", "correct"):
        if not cells[column]:
            raise ValueError(f"{where}: {column} is empty")
    return Row(where, {column: cells[column] for column in columns})


def _by_key(correct: list[Row], incorrect: list[Row]) -> Iterator[tuple[Row, Row]]:
    """Words with the nonword of the same voice and id."""
    columns = ("voice", "id")
    words: dict[tuple[str, ...], Row] = {}
    nonwords: dict[tuple[str, ...], Row] = {}
    for row in correct:
        _note(row, row.key(columns), words)
    for row in incorrect:
        _note(row, row.key(columns), nonwords)
    for own, others in ((words, nonwords), (nonwords, words)):
        for identity, row in own.items():
            if identity not in others:
                raise ValueError(
                    f"{row.where}: {row.name} has no partner of voice {identity[0]} and id "
                    f"{identity[1]}"
                )
    for identity, row in words.items():
        yield row, nonwords[identity]


def _note(row: Row, identity: tuple[str, ...], seen: dict[tuple[str, ...], Row]) -> None:
    former = seen.setdefault(identity, row)
    if former is not row:
        raise ValueError(f"{row.where}: {', '.join(identity)} is there already ({former.where})")


def _word(task: str, language: str, word: Row, nonword: Row) -> Item:
    id_, voice = word.key(("id", "voice"))
    labels = {"frequency": word.number("frequency"), "length": word.number("length")}
    return Item(
        task=task,
        id=f"{id_}/{voice}",
        prompt=None,
        correct=key(task, word.name),
        incorrect=key(task, nonword.name),
        languages=(language,),
        group=id_,
        labels=labels | {"voice": voice},
    )


def _sentence(task: str, language: str, sentence: Row, nonsentence: Row) -> Item:
    type_, subtype, id_, voice = sentence.key(("type", "subtype", "id", "voice"))
    group = f"{type_}/{subtype}/{id_}"
    return Item(
        task=task,
        id=f"{group}/{voice}",
        prompt=None,
        correct=key(task, sentence.name),
        incorrect=key(task, nonsentence.name),
        languages=(language,),
        group=group,
        labels={"type": type_, "subtype": subtype, "voice": voice},
    )
