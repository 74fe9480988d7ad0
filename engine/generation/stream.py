"""Turns printed while they are made, each as a line of JSON when it is complete."""

import json
from collections.abc import Sequence

from torch import Tensor

from tresse.engine.generation.output import Writing
from tresse.engine.generation.turns import split_turns, turn_record


class Stream:
    """Prints the turns of one batch at a time, each as soon as it is complete."""

    def __init__(self, writing: Writing, eos: int | None) -> None:
        """eos: id that ends a continuation, if there is one."""
        self._writing, self._eos = writing, eos
        self._keys: Sequence[str] = ()
        self._limits: Sequence[int] = ()
        self._num_shown: list[int] = []

    def begin(self, keys: Sequence[str], limits: Sequence[int]) -> None:
        """Begin a batch: the key of each row, and the largest number of its tokens."""
        self._keys, self._limits = keys, limits
        self._num_shown = [0] * len(keys)

    def show(self, tokens: Tensor) -> None:
        """Print what is complete of the tokens so far, (B, n) int64; the last turn is not."""
        for row, own in enumerate(tokens.tolist()):
            kept = own[: self._limits[row]]
            has_ended = len(kept) < len(own) or self._eos in kept
            if self._eos in kept:
                kept = kept[: kept.index(self._eos)]
            self._show(row, kept, all_=has_ended)

    def end(self, tokens: Sequence[Sequence[int]]) -> None:
        """Print the rest, given the tokens of each row."""
        for row, own in enumerate(tokens):
            self._show(row, own, all_=True)

    def _show(self, row: int, tokens: Sequence[int], *, all_: bool) -> None:
        vocabulary = self._writing.vocabulary
        turns = split_turns(tokens, vocabulary)
        complete = turns if all_ else turns[:-1]
        for turn in complete[self._num_shown[row] :]:
            record = turn_record(turn, vocabulary, self._writing.text)
            line = json.dumps({"key": self._keys[row]} | record, ensure_ascii=False)
            print(line, flush=True)
        self._num_shown[row] = max(self._num_shown[row], len(complete))
