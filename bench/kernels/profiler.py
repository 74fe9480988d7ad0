"""Calls of our kernels for a profiler: Nsight Compute, or a timeline by torch."""

import sys
from collections.abc import Mapping, Sequence

import torch

from tresse.bench.kernels.cases.all_cases import KERNELS
from tresse.bench.kernels.measuring import OURS, call_once
from tresse.bench.kernels.timing import Call

NUM_CALLS = 2


def mark_for_ncu(name: str, device: torch.device) -> None:
    """Call a kernel between the marks of the profiler, and print the command that profiles it."""
    calls = warmed_calls([name], device)
    if device.type == "cuda":
        torch.cuda.profiler.start()
    call_all(calls)
    if device.type == "cuda":
        torch.cuda.profiler.stop()
    print(
        "To read the hardware's counters:\n"
        "ncu --profile-from-start off --clock-control none --set full --force-overwrite "
        f"--export {name} {sys.executable} bench/kernels/run.py --ncu {name}"
    )


def write_trace(path: str, names: Sequence[str], device: torch.device) -> None:
    """Write a Chrome trace of calls of some kernels."""
    calls = warmed_calls(names, device)
    with torch.profiler.profile() as profiler:
        call_all(calls)
    profiler.export_chrome_trace(path)
    print(f"wrote {path}")


def warmed_calls(names: Sequence[str], device: torch.device) -> dict[str, Call]:
    """The calls of our provider in each kernel's first case, by kernel and direction."""
    calls = {}
    for name in names:
        provider = KERNELS[name](device)[0]().providers[OURS]()
        call_once(provider, device)
        calls |= {f"{name} {direction}": call for direction, call in provider.calls.items()}
    return calls


def call_all(calls: Mapping[str, Call]) -> None:
    """Call each NUM_CALLS times under its name."""
    for name, call in calls.items():
        for _ in range(NUM_CALLS):
            if call.before:
                call.before()
            with torch.profiler.record_function(name):
                call.run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
