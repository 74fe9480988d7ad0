"""Under torchrun: run the main job, and die at the n-th call of a function.

torchrun ... tests/support/workers/killed.py MODULE.FUNCTION N RANK [arguments of engine/train.py]

By SIGKILL, or by the signal of the variable DEADLY_SIGNAL. After a restart nobody dies. With the
variable DEADLY_TO_NODE its launcher dies first, as if the whole node did.
"""

import importlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def dying(function: Callable[..., Any], last: int) -> Callable[..., Any]:
    """Make a function that kills the process when it is called for the `last` time."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == last:
            if "DEADLY_TO_NODE" in os.environ:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), int(os.environ.get("DEADLY_SIGNAL", signal.SIGKILL)))
        return function(*args, **kwargs)

    return call


def main() -> None:
    """Plant the death in the named function of the named rank, then train."""
    target, last, rank, *arguments = sys.argv[1:]
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if os.environ["RANK"] == rank and first:
        module_name, _, name = target.rpartition(".")
        module = importlib.import_module(module_name)
        setattr(module, name, dying(getattr(module, name), int(last)))
    script = Path(__file__).parents[3] / "engine" / "train.py"
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
