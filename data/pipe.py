"""The end of a program whose output nobody reads any more, as in `tresse inspect CORPUS | head`."""

import os
import sys

BROKEN_PIPE = 141
"""The shell's status for a broken pipe."""


def end_of_pipe() -> int:
    """Return the exit status, after a BrokenPipeError; Python's own end writes nothing more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
