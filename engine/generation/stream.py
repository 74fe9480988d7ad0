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
from tresse.engine.generation.output import Writing, continuation_key, prompt_turns
from tresse.engine.generation.turns import Teller, Turn, extend_turns
from tresse.engine.run.typed_json import Record

Row = tuple[Document, int]
"""A prompt, and the number of its continuation."""


class Stream:
    """Prints the turns of one batch at a time, each as soon as it is complete."""

    def __init__(self, writing: Writing, eos: int | None) -> None:
        """eos: id that ends a continuation, if there is one."""
        self._writing, self._eos = writing, eos
        self._rows: list[PrintedRow] = []

    def begin(self, rows: Sequence[Row], limits: Sequence[int]) -> None:
        """Begin a batch: prompt and number of each row, and its largest number of tokens."""
        self._rows = [
            PrintedRow(prompt, number, limit, self._writing, self._eos)
            for (prompt, number), limit in zip(rows, limits, strict=True)
        ]

    def show(self, tokens: Tensor) -> None:
        """Print what is complete of the tokens so far, (B, n) int64; the last turn is not."""
        start = self._rows[0].num_read
        for row, own in zip(self._rows, tokens[:, start:].tolist(), strict=True):
            row.read(own)

    def end(self, continuations: Sequence[Continuation]) -> None:
        """Print the rest, and what ended each row."""
        for row, continuation in zip(self._rows, continuations, strict=True):
            row.read(continuation.tokens[row.num_read :])
            row.end(continuation.ended)


class PrintedRow:
    """One continuation, of which the turns are printed."""

    def __init__(
        self, prompt: Document, number: int, limit: int, writing: Writing, eos: int | None
    ) -> None:
        self._name = {"key": continuation_key(prompt, number), "lang": prompt.language}
        self._limit, self._eos, self._vocabulary = limit, eos, writing.vocabulary
        self._tell = Teller(writing.vocabulary, writing.text)
        if writing.has_text:
            for turn in prompt_turns(prompt, writing):
                self._tell(turn)  # what is said goes on from it
        self._turns: list[Turn] = []
        self._num_printed, self._has_ended = 0, False
        self.num_read = 0
        """Number of tokens so far, those included that mean nothing."""

    def read(self, tokens: Sequence[int]) -> None:
        """Read the next tokens, and print the turns that are complete."""
        kept = [] if self._has_ended else tokens[: self._limit - self.num_read]
        if self._eos in kept:
            kept = kept[: kept.index(self._eos)]
        self.num_read += len(tokens)
        extend_turns(self._turns, kept, self._vocabulary)
        self._has_ended = self._has_ended or len(kept) < len(tokens)
        last = len(self._turns) - (not self._has_ended)
        self._print_turns(last)

    def end(self, reason: str) -> None:
        """Print the turns that are left, and what ended the continuation."""
        self._print_turns(len(self._turns))
        self._print({"ended": reason})

    def _print_turns(self, last: int) -> None:
        for turn in self._turns[self._num_printed : last]:
            self._print(self._tell(turn))
        self._num_printed = max(self._num_printed, last)

    def _print(self, record: Record) -> None:
        print(json.dumps(self._name | record, ensure_ascii=False), flush=True)
