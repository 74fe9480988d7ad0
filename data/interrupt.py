"""Signals as requests, which a loop answers between two steps: to stop, or to save.

Ctrl-C and SIGTERM ask to stop, SIGUSR1 asks to save.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Self

INTERRUPTED = 130
"""The shell's status for Ctrl-C."""
STOPPED = 75
"""Exit status of `tresse train` for a run that SIGUSR1 has stopped, with a checkpoint. sysexits.h
calls it a temporary failure: the same command goes on with the work."""
GRACE_S = 1.0
"""A launcher may pass on a Ctrl-C that the process has had already: so close, two are one."""


class Interrupt:
    """A context in which a signal to stop does not stop: it sets `requested` to True.

    A second Ctrl-C ends the process at once, even where the main thread cannot answer. SIGUSR1 sets
    `save_requested`, which whoever answers it sets back.
    """

    def __init__(self) -> None:
        self.requested = False
        self.save_requested = False

    def __enter__(self) -> Self:
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        self._former = {number: signal.signal(number, self._request) for number in signals}
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(self._read, True)
        self._former_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._count, name="tresse-interrupt", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        os.close(self._write)  # ends the thread

    def _request(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.save_requested = True
        else:
            self.requested = True

    def _count(self) -> None:
        """Read the numbers of signals as they come; Python writes them into the pipe."""
        first_s = None
        while numbers := os.read(self._read, 64):
            if signal.SIGINT not in numbers:
                continue
            if first_s is not None and time.monotonic() - first_s > GRACE_S:
                print("ended at once; finished work is kept", file=sys.stderr, flush=True)
                os._exit(INTERRUPTED)
            first_s = first_s or time.monotonic()
        os.close(self._read)
