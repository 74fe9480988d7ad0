"""A request to stop: the first Ctrl-C waits for the work, the second does not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tresse.data.interrupt import Interrupt

BUSY = """
import threading
from tresse.data.interrupt import Interrupt
with Interrupt():
    print("ready", flush=True)
    threading.Event().wait()  # whoever waits in C never sees `requested`
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request(number: int) -> None:
    with Interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert interrupt.requested


def test_a_second_ctrl_c_ends_a_process_that_cannot_answer() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None, "the first one waits"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "ended at once; finished work is kept\n"
