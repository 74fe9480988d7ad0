"""Under torchrun: run the main job, with a gradient norm above the limit in one step.

torchrun ... tests/support/workers/spiking.py STEP [arguments of engine/train.py]

STEP counts the steps of this process from 1, those that it repeats included.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

import tresse.engine.run.ranks
import tresse.engine.step
from tresse.engine.sharding.shard import Engine
from tresse.engine.step import apply_gradient


def main() -> None:
    """Plant the spike, then train."""
    spike, *arguments = sys.argv[1:]
    calls = 0

    def spiked(engine: Engine, norm_limit: float) -> Any:
        nonlocal calls
        calls += 1
        return apply_gradient(engine, -1.0 if calls == int(spike) else norm_limit)

    tresse.engine.step.apply_gradient = spiked
    script = Path(__file__).parents[3] / "engine" / "train.py"
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
