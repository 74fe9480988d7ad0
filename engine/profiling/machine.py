"""The rates of this machine at the plainest work: a large copy and a large matrix product."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

COPY_BYTES = {"cuda": 2**31, "cpu": 2**27}
WIDTH = {"cuda": 8192, "cpu": 1024}
NUM_CALLS = 10


class Rates(NamedTuple):
    """Rates of a device."""

    matmul_flops: float
    """FLOP/s of a square matrix product."""
    copy_bytes: float
    """Bytes per second of a copy, read plus written."""


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Time a matrix product and a copy on a device that does nothing else."""
    width, size = WIDTH[device.type], COPY_BYTES[device.type]
    a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    product_s = _seconds(lambda: a @ b, device)
    copy_s = _seconds(lambda: target.copy_(source), device)
    return Rates(2 * width**3 / product_s, 2 * size / copy_s)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the mean seconds of calls that follow one another."""
    call()
    wait(device)
    start_s = time.perf_counter()
    for _ in range(NUM_CALLS):
        call()
    wait(device)
    return (time.perf_counter() - start_s) / NUM_CALLS


def wait(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
