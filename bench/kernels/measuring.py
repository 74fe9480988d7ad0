"""From cases to lines of the table: check every provider, then time those that are right."""

import gc
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from triton.errors import TritonError

from tresse.bench.kernels import peers
from tresse.bench.kernels.cases.all_cases import KERNELS
from tresse.bench.kernels.providers import Case, Provider, compare, poison
from tresse.bench.kernels.timing import Ceilings, ceiling_calls, measure
from tresse.bench.records import quantiles

OURS = "tresse"
OK, LEFT_OUT = "ok", "left out: no time left"
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TritonError,
    TypeError,
    ValueError,
)
"""Errors of a provider that does not work on this machine; they become a line."""

MEASURED = ("ms", "p20_ms", "p80_ms", "floor_ms", "bound", "share")
MEASURED += ("gb_per_s", "tflop_per_s", "error")
Line = dict[str, Any]


def new_line(
    kernel: str,
    shape: str = "",
    direction: str = "",
    provider: str = "",
    status: str = "",
    **measured: float | str,
) -> Line:
    """A line with all columns; those that were not measured are empty."""
    named = {"kernel": kernel, "shape": shape, "direction": direction, "provider": provider}
    return named | {"status": status} | dict.fromkeys(MEASURED, "") | measured


def measure_ceilings(device: torch.device, budget_ms: float) -> Iterator[Line]:
    """Time the plain copy and matrix product."""
    calls, work = ceiling_calls(device)
    samples = measure(calls, device, 4 * budget_ms)
    for name, unit in (("copy", "gb_per_s"), ("matmul", "tflop_per_s")):
        ms, low, high = quantiles(samples[name])
        rate = work[name] / ms / (1e6 if name == "copy" else 1e9)
        yield new_line(
            kernel=name, provider="torch", ms=ms, p20_ms=low, p80_ms=high, share=1.0, status=OK
        ) | {unit: rate}


def measure_kernel(
    name: str, device: torch.device, budget_ms: float, ceilings: Ceilings, deadline: float
) -> Iterator[Line]:
    """Measure all cases of a kernel; after the deadline a line says that one is left out."""
    for make in KERNELS[name](device):
        if time.time() > deadline:
            yield new_line(kernel=name, provider=OURS, status=LEFT_OUT)
            return
        yield from measure_case(make(), device, budget_ms, ceilings)
        torch._dynamo.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def measure_case(
    case: Case, device: torch.device, budget_ms: float, ceilings: Ceilings
) -> Iterator[Line]:
    """Check the providers, then time those that are right, direction by direction."""
    right: dict[str, Provider] = {}
    errors: dict[str, float] = {}
    want = case.want()
    for name, make in case.providers.items():
        poison(device, want)
        try:
            right[name] = make()
            errors[name], complaint = compare(case.names, right[name].results(), want)
            call_once(right[name], device)
        except (*FAILURES, *peers.failures()) as error:
            traceback.print_exc()
            complaint = f"failed: {type(error).__name__}: {error}".splitlines()[0][:200]
        if complaint:
            right.pop(name, None)
            yield new_line(case.kernel, case.shape, provider=name, status=complaint)
    del want
    for direction in case.num_bytes:
        calls = {n: p.calls[direction] for n, p in right.items() if direction in p.calls}
        if calls:
            samples = measure(calls, device, budget_ms)
            for name, times in samples.items():
                line = timed_line(case, direction, times, ceilings)
                yield line | {"provider": name, "error": errors[name]}


def timed_line(case: Case, direction: str, times: list[float], ceilings: Ceilings) -> Line:
    """The line of a provider, from its milliseconds."""
    ms, low, high = quantiles(times)
    num_bytes, flops = case.num_bytes[direction], case.flops.get(direction, 0)
    floor_ms, bound = ceilings.floor_ms(num_bytes, flops)
    return new_line(
        case.kernel,
        case.shape,
        direction,
        status=OK,
        ms=ms,
        p20_ms=low,
        p80_ms=high,
        floor_ms=floor_ms,
        bound=bound,
        share=floor_ms / ms,
        gb_per_s=num_bytes / ms / 1e6,
        tflop_per_s=flops / ms / 1e9,
    )


def call_once(provider: Provider, device: torch.device) -> None:
    """Call in every direction, so that a failure shows before the clock runs."""
    for call in provider.calls.values():
        if call.before:
            call.before()
        call.run()
    if device.type == "cuda":
        torch.cuda.synchronize()
