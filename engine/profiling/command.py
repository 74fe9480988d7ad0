"""`tresse profile`: a few steps of a recipe, traced, on all GPUs or as torchrun's options say."""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from torch.distributed.run import get_args_parser

from tresse.data.durable import check_vacant
from tresse.engine.profiling.profile_steps import default_out, parse
from tresse.engine.run.command_line import COMMAND, parse_config
from tresse.engine.run.launch import all_gpus, run_torchrun, split

SCRIPT = Path(__file__).with_name("profile_steps.py")


def profile(arguments: Sequence[str]) -> NoReturn:
    """Profile the run that the arguments describe."""
    os.environ.setdefault(COMMAND, "tresse train")  # mistakes name its help
    options, job = split(get_args_parser(), arguments)
    own, others = parse(job)
    config = parse_config(others)  # before ranks start, so that a mistake is said once
    if own.out is None:
        job += ["--out", str(default_out(config))]
    else:
        check_vacant(own.out)
    options = options or all_gpus()
    if not options:
        sys.argv = [str(SCRIPT), *job]
        runpy.run_path(str(SCRIPT), run_name="__main__")
        sys.exit(0)
    run_torchrun([*options, str(SCRIPT), *job], config)
    sys.exit(0)
