"""Turns: the stretches of one kind in what a model says, units, text, or a special token.

    tokens  [text 12] [text 7] <switch> [unit 5] [unit 900] <switch> [text 3]
    turns   {"text": " Yes,"}  {"token": "<switch>"}  {"units": [5, 900]}  ...

A model without text has units and special tokens alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tresse.data.packing.vocabulary import Vocabulary
from tresse.engine.run.typed_json import Record

Kind = Literal["units", "text", "token"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch of units, a stretch of text, or a special token."""

    kind: Kind
    ids: list[int]
    """Numbered from 0 within its tokenizer, or among the special tokens and tags."""


def split_turns(tokens: Iterable[int], vocabulary: Vocabulary) -> list[Turn]:
    """Return the turns of ids of a vocabulary; each special token is one of its own."""
    found: list[Turn] = []
    extend_turns(found, tokens, vocabulary)
    return found


def extend_turns(turns: list[Turn], tokens: Iterable[int], vocabulary: Vocabulary) -> None:
    """Add ids to turns, of which the last one may go on."""
    for kind, token in _places(tokens, vocabulary):
        if turns and turns[-1].kind == kind != "token":
            turns[-1].ids.append(token)
        else:
            turns.append(Turn(kind, [token]))


def _places(tokens: Iterable[int], vocabulary: Vocabulary) -> Iterator[tuple[Kind, int]]:
    text = vocabulary.text
    first = vocabulary.num_tokens if text is None else vocabulary.first_id(text)
    for token in tokens:
        if token >= vocabulary.num_tokens:
            yield "token", token - vocabulary.num_tokens
        elif token >= first:
            yield "text", token - first
        else:
            yield "units", token


class Teller:
    """Writes the turns of one document as JSON, one after another.

    A turn of text goes on from those before it: joined, they are what all of their tokens say.
    """

    def __init__(self, vocabulary: Vocabulary, text: Any) -> None:
        """text: the tokenizer of the texts, of the tokenizers package."""
        self._vocabulary, self._text = vocabulary, text
        self._ids: list[int] = []
        self._told = ""

    def __call__(self, turn: Turn) -> Record:
        """Return the next turn as JSON."""
        if turn.kind == "token":
            return {"token": self._vocabulary.special_names[turn.ids[0]]}
        if turn.kind == "units":
            return {"units": turn.ids}
        self._ids += turn.ids
        before, whole = self._told, self._decode(self._ids)
        if not whole.startswith(before):  # it ended within a character
            whole = before + self._decode(turn.ids)
        self._told = whole
        return {"text": whole[len(before) :]}

    def _decode(self, ids: list[int]) -> str:
        return self._text.decode(ids, skip_special_tokens=False)


def units_of(turns: Sequence[Turn]) -> list[list[int]]:
    """Return the units of each turn of units."""
    return [turn.ids for turn in turns if turn.kind == "units"]
