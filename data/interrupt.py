"""Ctrl-C and SIGTERM as a request to stop, which a loop answers between two steps."""

import signal
from types import FrameType
from typing import Self


class Interrupt:
    """A context in which a signal to stop does not stop: it sets `requested` to True."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Self:
        signals = (signal.SIGINT, signal.SIGTERM)
        self._former = {number: signal.signal(number, self._request) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
