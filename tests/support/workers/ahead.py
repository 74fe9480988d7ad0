"""Under torchrun: run the main job as on a GPU, one step ahead of the results that are read.

torchrun ... tests/support/workers/ahead.py [arguments of engine/train.py]
"""

import runpy
import sys
from pathlib import Path

from tresse.engine.run import ranks  # before deepspeed
from tresse.engine.stage import Stage


def main() -> None:
    """Set the number of steps, then train."""
    assert ranks
    Stage.steps_ahead = 1  # type: ignore[assignment, method-assign]
    script = Path(__file__).parents[3] / "engine" / "train.py"
    sys.argv = [str(script), *sys.argv[1:]]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
