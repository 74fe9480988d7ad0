"""`tresse train`: the main job on all GPUs of this machine, or as torchrun's options say.

torchrun runs in this process, so that its end can be told in a line: a mistake has been named by
the rank that found it, and only what a rank could not say itself is added here.
"""

import logging
import os
import runpy
import shlex
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil
import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import determine_local_world_size, get_args_parser, parse_args, run

from tresse.data.interrupt import INTERRUPTED
from tresse.engine.run.command_line import COMMAND, parse_config
from tresse.engine.run.config import RunConfig
from tresse.engine.run.run_folder import find_changes

SCRIPT = Path(__file__).parents[1] / "train.py"


def train(arguments: Sequence[str]) -> NoReturn:
    """Run the main job; `arguments` are options of torchrun and those of the job, mixed."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there are ranks
    options, job = split(get_args_parser(), arguments)
    os.environ[COMMAND] = shlex.join(["tresse", "train", *options])
    config = parse_config(job)  # before ranks start, so that a mistake is said once
    find_changes(config)
    options = options or _all_gpus()
    if not options:
        sys.argv = [str(SCRIPT), *job]
        runpy.run_path(str(SCRIPT), run_name="__main__")
        sys.exit(0)
    _run_torchrun([*options, str(SCRIPT), *job], config)


def split(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options of `parser` with their values, and all other arguments."""
    known = parser._option_string_actions
    own: list[str] = []
    other: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, _, value = word.partition("=")
        if flag in ("-h", "--help") or flag not in known:
            other += [word] if word != "--" else []
            continue
        own.append(word)
        if not value and known[flag].nargs is None:
            own += [next(words, "")]
    return own, other


def _all_gpus() -> list[str]:
    """Return options for the GPUs of this machine; none if one process will do."""
    count = torch.cuda.device_count()
    return ["--standalone", f"--nproc-per-node={count}"] if count > 1 else []


def _run_torchrun(arguments: list[str], config: RunConfig) -> NoReturn:
    """Run torchrun in this process, and exit as it ended."""
    parsed = parse_args(arguments)
    wait_s = config.timeouts.step_s + config.timeouts.save_s
    num_local = determine_local_world_size(parsed.nproc_per_node)
    variables = {
        # Otherwise the store outlives the ranks, and a restart hangs (pytorch/pytorch#135712).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # After Ctrl-C ranks end their step and save; torchrun's own limit is 30 s.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(round(wait_s)),
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // num_local)),
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGUSR1, _pass_on)
    # It reports each rank that fails; below is one line.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        run(parsed)
    except ChildFailedError as failed:
        sys.exit(_describe_end(failed))
    except SignalException:
        for rank in psutil.Process().children():  # there are some if it came twice
            rank.kill()
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _pass_on(number: int, _frame: FrameType | None) -> None:
    """Send a signal on to the ranks: torchrun itself would die of it."""
    for rank in psutil.Process().children():
        rank.send_signal(number)


def _describe_end(failed: ChildFailedError) -> str | int:
    """Return the line to end with, or the exit status where a rank has said all."""
    rank, failure = failed.get_first_failure()
    if failure.exitcode >= 0:
        return failure.exitcode
    name = signal.Signals(-failure.exitcode).name
    hint = "; it may be out of memory" if name == "SIGKILL" else ""
    return f"error: rank {rank} (process {failure.pid}) was ended by {name}{hint}"
