"""Turns printed while they are made, each as a line of JSON when it is complete:

{"key": "0001#0", "lang": "en-text", "text": "It was"}
{"key": "0001#0", "lang": "en-text", "units": [12, 907]}
{"key": "0001#0", "lang": "en-text", "ended": "eos"}
"""

import json
from collections.abc import Sequence

from torch import Tensor

from tresse.engine.generation.continuing import Continuation
from tresse.engine.generation.output import Writing
from tresse.engine.generation.turns import split_turns, turn_records
from tresse.engine.run.typed_json import Record


class Stream:
    """Prints the turns of one batch at a time, each as soon as it is complete."""

    def __init__(self, writing: Writing, eos: int | None) -> None:
        """eos: id that ends a continuation, if there is one."""
        self._writing, self._eos = writing, eos
        self._names: Sequence[Record] = ()
        self._limits: Sequence[int] = ()
        self._num_shown: list[int] = []

    def begin(self, names: Sequence[Record], limits: Sequence[int]) -> None:
        """Begin a batch: what each line of a row begins with, and its largest number of tokens."""
        self._names, self._limits = names, limits
        self._num_shown = [0] * len(names)

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
            told = turn_records(complete, self._writing.vocabulary, self._writing.text)
            for record in list(told)[shown:]:
                self._print(row, record)
            self._num_shown[row] = len(complete)

    def _print(self, row: int, record: Record) -> None:
        print(json.dumps(self._names[row] | record, ensure_ascii=False), flush=True)
