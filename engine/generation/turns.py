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
    for kind, token in _places(tokens, vocabulary):
        if found and found[-1].kind == kind != "token":
            found[-1].ids.append(token)
        else:
            found.append(Turn(kind, [token]))
    return found


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


def turn_records(turns: Sequence[Turn], vocabulary: Vocabulary, text: Any) -> Iterator[Record]:
    """Yield turns as JSON; text: the tokenizer of the texts, of the tokenizers package.

    A turn of text goes on from those before it: joined, they are what all of their tokens say.
    """
    ids: list[int] = []
    before = ""
    for turn in turns:
        if turn.kind == "token":
            yield {"token": vocabulary.special_names[turn.ids[0]]}
        elif turn.kind == "units":
            yield {"units": turn.ids}
        else:
            ids += turn.ids
            whole = text.decode(ids, skip_special_tokens=False)
            if not whole.startswith(before):  # it ended within a character
                whole = before + text.decode(turn.ids, skip_special_tokens=False)
            yield {"text": whole[len(before) :]}
            before = whole


def units_of(turns: Sequence[Turn]) -> list[list[int]]:
    """Return the units of each turn of units."""
    return [turn.ids for turn in turns if turn.kind == "units"]
