"""`tresse train`: the main job on all GPUs of this machine, or as torchrun's options say.

torchrun runs in this process, so that its end can be told in a line: a mistake has been named by
the rank that found it, and only what a rank could not say itself is added here.

Signals are passed on to the ranks, which agree on the step to stop at. So one node that is asked to
stop stops all nodes, and no launcher waits for another: torchrun's own answer to a signal would
leave the launchers of the other nodes waiting for five minutes.
"""

import io
import logging
import os
import re
import runpy
import shlex
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

# Read when torch is imported: its store would print a stack where another launcher ends first.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import psutil
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import determine_local_world_size, get_args_parser, parse_args, run

from tresse.data.interrupt import GRACE_S, INTERRUPTED
from tresse.engine.run.command_line import COMMAND, STATUS, parse_config
from tresse.engine.run.config import RunConfig
from tresse.engine.run.run_folder import find_changes

SCRIPT = Path(__file__).parents[1] / "train.py"


def train(arguments: Sequence[str]) -> NoReturn:
    """Run the main job; `arguments` are options of torchrun and those of the job, mixed."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there are ranks
    options, job = split(get_args_parser(), arguments)
    os.environ[COMMAND] = shlex.join(["tresse", "train", *options])
    config = _parse(job)
    options = options or all_gpus()
    with tempfile.TemporaryDirectory(prefix="tresse-") as folder:
        status = Path(folder) / "status"
        os.environ[STATUS] = str(status)
        if options:
            run_torchrun([*options, str(SCRIPT), *job], config)
        else:
            sys.argv = [str(SCRIPT), *job]
            runpy.run_path(str(SCRIPT), run_name="__main__")
        sys.exit(int(status.read_text()) if status.exists() else 0)


def _parse(job: list[str]) -> RunConfig:
    """Parse the command line before ranks start, so that a mistake is said once.

    Under `srun` the first node says which flag is wrong, and each node what is wrong with files.
    """
    is_first = os.environ.get("SLURM_PROCID", "0") == "0"
    with nullcontext() if is_first else redirect_stderr(io.StringIO()):
        config = parse_config(job)
        find_changes(config)
    return config


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


def all_gpus() -> list[str]:
    """Return options for the GPUs of this machine; none if one process will do."""
    count = torch.cuda.device_count()
    return ["--standalone", f"--nproc-per-node={count}"] if count > 1 else []


def run_torchrun(arguments: list[str], config: RunConfig) -> None:
    """Run torchrun in this process; exit if a rank failed or was not there to stop."""
    parsed = parse_args(arguments)
    parsed.signals_to_handle = "SIGQUIT"  # the others are ours
    _set_variables(determine_local_world_size(parsed.nproc_per_node), config)
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _pass_on)
    # They report ranks that fail and launchers that end before this one; below is one line.
    for name in ("multiprocessing.api", "rendezvous.dynamic_rendezvous", "agent.server.api"):
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    try:
        run(parsed)
    except ChildFailedError as failed:
        sys.exit(_describe_end(failed))
    except (RendezvousError, dist.DistError) as error:
        why = str(error).removesuffix(" See inner exception for details.")
        sys.exit(f"error: no contact with the other nodes: {why or type(error).__name__}")
    except SignalException:
        for rank in psutil.Process().children():  # there are some if SIGTERM came twice
            rank.kill()
        sys.exit(INTERRUPTED)


def _set_variables(num_local: int, config: RunConfig) -> None:
    """Set variables of torchrun and its ranks that the user has not set."""
    wait_s = config.timeouts.step_s + config.timeouts.save_s
    variables = {
        # Otherwise the store outlives the ranks, and a restart hangs (pytorch/pytorch#135712).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # A rank that fails leaves the others this time to end; torchrun's own limit is 30 s.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(round(wait_s)),
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // num_local)),
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _pass_on(number: int, _frame: FrameType | None) -> None:
    """Send a signal on to the ranks that answer it; where none does, a signal to stop ends all."""
    ranks = [rank for rank in psutil.Process().children() if _answers(rank)]
    if number != signal.SIGUSR1 and not ranks:
        raise SignalException("there is nothing to save", signal.Signals(number))
    if number == signal.SIGINT:
        signal.signal(number, partial(_end_at_once, time.monotonic()))
    for rank in ranks:
        with suppress(psutil.NoSuchProcess):
            rank.send_signal(number)


def _end_at_once(first_s: float, number: int, _frame: FrameType | None) -> None:
    """Answer a second Ctrl-C, also for ranks that cannot."""
    if time.monotonic() - first_s <= GRACE_S:
        return
    print("ended at once; finished work is kept", file=sys.stderr, flush=True)
    for rank in psutil.Process().children():
        rank.kill()
    raise SignalException("a second Ctrl-C", signal.Signals(number))


def _answers(rank: psutil.Process) -> bool:
    """Return whether a rank handles SIGTERM, as it does while it trains and scores."""
    try:
        status = Path(f"/proc/{rank.pid}/status").read_text()
    except OSError:  # it has ended
        return False
    caught = re.search(r"SigCgt:\s*(\w+)", status)
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def _describe_end(failed: ChildFailedError) -> str | int:
    """Return the line to end with, or the exit status where a rank has said all."""
    rank, failure = failed.get_first_failure()
    if failure.exitcode >= 0:
        return failure.exitcode
    name = signal.Signals(-failure.exitcode).name
    hint = "; it may be out of memory" if name == "SIGKILL" else ""
    return f"error: rank {rank} (process {failure.pid}) was ended by {name}{hint}"
