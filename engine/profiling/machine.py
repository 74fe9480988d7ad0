"""The rates of this machine at the plainest work: a large copy and a large matrix product."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch

from tresse.engine.device import wait

COPY_BYTES = {"cuda": 2**32, "cpu": 2**26}
WIDTH = {"cuda": 8192, "cpu": 512}
NUM_WARMUP, NUM_CALLS = 3, 10


class Rates(NamedTuple):
    """Rates of a device."""

    matmul_flops: float
    """FLOP/s of a square matrix product."""
    copy_bytes: float
    """Bytes per second of a copy, read plus written."""


class PlainWork(NamedTuple):
    """A call of the plainest kind, and its amount of work."""

    call: Callable[[], object]
    amount: float
    """FLOPs of the product, bytes of the copy."""


def plain_work(device: torch.device, dtype: torch.dtype) -> dict[str, PlainWork]:
    """Return a large copy, and a large product of random matrices in a dtype."""
    width, size = WIDTH[device.type], COPY_BYTES[device.type]
    a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    source = torch.randint(2**31 - 1, (size // 4,), device=device, dtype=torch.int32)
    target = torch.empty_like(source)
    return {
        "copy": PlainWork(lambda: target.copy_(source), 2.0 * size),
        "matmul": PlainWork(lambda: a @ b, 2.0 * width**3),
    }


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Time both on a device that does nothing else; the rates are those of median calls."""
    rates = {
        name: work.amount / _seconds(work.call, device)
        for name, work in plain_work(device, dtype).items()
    }
    return Rates(rates["matmul"], rates["copy"])


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(NUM_WARMUP + NUM_CALLS):
        wait(device)
        start_s = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - start_s)
    return median(times[NUM_WARMUP:])
