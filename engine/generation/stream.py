"""Turns printed while they are made, each as a line of JSON when it is complete:

{"key": "0001#0", "lang": "en-text", "text": "It was"}
{"key": "0001#0", "lang": "en-text", "units": [12, 907]}
{"key": "0001#0", "lang": "en-text", "ended": "eos"}
"""

import json
from collections.abc import Sequence

from torch import Tensor

from tresse.data.store.documents import Document
from tresse.engine.generation.continuing import Continuation
from tresse.engine.generation.output import Writing, prompt_turns
from tresse.engine.generation.turns import split_turns, turn_records
from tresse.engine.run.typed_json import Record

Row = tuple[Document, int]
"""A prompt, and the number of its continuation."""


class Stream:
    """Prints the turns of one batch at a time, each as soon as it is complete."""

    def __init__(self, writing: Writing, eos: int | None) -> None:
        """eos: id that ends a continuation, if there is one."""
        self._writing, self._eos = writing, eos
        self._rows: Sequence[Row] = ()
        self._limits: Sequence[int] = ()
        self._num_shown: list[int] = []

    def begin(self, rows: Sequence[Row], limits: Sequence[int]) -> None:
        """Begin a batch: prompt and number of each row, and its largest number of tokens."""
        self._rows, self._limits = rows, limits
        self._num_shown = [0] * len(rows)

    def show(self, tokens: Tensor) -> None:
        """Print what is complete of the tokens so far, (B, n) int64; the last turn is not."""
        for row, own in enumerate(tokens.tolist()):
            kept = own[: self._limits[row]]
            has_ended = len(kept) < len(own) or self._eos in kept
            if self._eos in kept:
                kept = kept[: kept.index(self._eos)]
            self._show(row, kept, has_ended=has_ended)

    def end(self, continuations: Sequence[Continuation]) -> None:
        """Print the rest, and what ended each row."""
        for row, continuation in enumerate(continuations):
            self._show(row, continuation.tokens, has_ended=True)
            self._print(row, {"ended": continuation.ended})

    def _show(self, row: int, tokens: Sequence[int], *, has_ended: bool) -> None:
        turns = split_turns(tokens, self._writing.vocabulary)
        complete = turns if has_ended else turns[:-1]
        if len(complete) > (shown := self._num_shown[row]):
            before = prompt_turns(self._rows[row][0], self._writing)
            turns = [*before, *complete]
            told = turn_records(turns, self._writing.vocabulary, self._writing.text)
            for record in list(told)[len(before) + shown :]:
                self._print(row, record)
            self._num_shown[row] = len(complete)

    def _print(self, row: int, record: Record) -> None:
        prompt, number = self._rows[row]
        name = {"key": f"{prompt.key}#{number}", "lang": prompt.language}
        print(json.dumps(name | record, ensure_ascii=False), flush=True)
