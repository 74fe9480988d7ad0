"""Milliseconds of calls that take turns, and the ceilings: the plainest work on this machine.

On a GPU each call lies between two CUDA events, and a read of BURNER_BYTES is queued before it: the
host queues the call while that read runs, so launch gaps of up to a quarter of a millisecond stay
out of the time, and the L2 holds clean lines of another tensor, so that the call meets neither a
warm cache nor the write-back of a filled one. The calls of a case are measured in ROUNDS rounds, in
an order that rotates, so that a drift of the clocks meets all of them.

On a CPU the host's clock is read: the benchmark runs, but its times are not those of a kernel.
"""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tresse.engine.profiling.machine import plain_work

BURNER_BYTES = 2**30
ROUNDS = 5
WARMUP_CALLS = 3  # compilation, the first launch, and an ordinary call
MAX_CALLS = 40  # of a round


@dataclass(frozen=True)
class Call:
    """Something to time."""

    run: Callable[[], Any]
    before: Callable[[], Any] | None = None
    """Runs before each call, outside the time, to restore what the call overwrites."""


@dataclass(frozen=True)
class Ceilings:
    """The rates that the machine reaches on the plainest work."""

    copy_gb_per_s: float
    """A device-to-device copy, bytes read plus bytes written."""
    matmul_tflop_per_s: float
    """A bf16 matrix product on random data."""

    def floor_ms(self, num_bytes: float, flops: float) -> tuple[float, str]:
        """Return the least milliseconds for bytes and operations, and which of the two binds."""
        times = {
            "copy": num_bytes / self.copy_gb_per_s / 1e6,
            "matmul": flops / self.matmul_tflop_per_s / 1e9,
        }
        bound = max(times, key=times.__getitem__)
        return times[bound], bound


def measure(
    calls: Mapping[str, Call], device: torch.device, budget_ms: float
) -> dict[str, list[float]]:
    """Time every call for about `budget_ms`, and at least ROUNDS times; return milliseconds."""
    times = cuda_times if device.type == "cuda" else host_times
    counts = {}
    for name, call in calls.items():
        times(call, WARMUP_CALLS)
        longest = max(times(call, 2))
        counts[name] = max(1, min(MAX_CALLS, int(budget_ms / ROUNDS / longest)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(ROUNDS):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            samples[name] += times(calls[name], counts[name])
    return samples


def cuda_times(call: Call, count: int) -> list[float]:
    """Time successive calls, each with a cold L2; return milliseconds."""
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(count)
    ]
    for start, stop in events:
        if call.before:
            call.before()
        _burner().sum()
        start.record()
        call.run()
        stop.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(stop) for start, stop in events]


def host_times(call: Call, count: int) -> list[float]:
    """Time successive calls by the host's clock; return milliseconds."""
    times = []
    for _ in range(count):
        if call.before:
            call.before()
        start = time.perf_counter()
        call.run()
        times.append(1000 * (time.perf_counter() - start))
    return times


@functools.cache
def _burner() -> torch.Tensor:
    return torch.randn(BURNER_BYTES // 4, device="cuda")


def ceiling_calls(device: torch.device) -> tuple[dict[str, Call], dict[str, float]]:
    """Return the copy and the matrix product, and the bytes or operations of each."""
    plain = plain_work(device, torch.bfloat16)
    calls = {name: Call(work.call) for name, work in plain.items()}
    return calls, {name: work.amount for name, work in plain.items()}
