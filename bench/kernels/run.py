"""The Triton kernels at the paper's shapes, beside PyTorch, torch.compile and other libraries.

For every kernel, shape, direction and provider: median milliseconds with the 20th and 80th
percentile, the bytes or operations that the function needs (bench/kernels/cases.py) over that time,
and the share of what this machine reaches in the same run on a plain copy or matrix product: the
time that the work would take there, over the time it took. A provider is timed only after its
results agree with fp32; one that is wrong or fails gets a row that says so, one that is not
installed is named, and so is what the minutes do not suffice for. How the clock is read:
bench/kernels/timing.py. Rows go to a CSV file as they come.

    python bench/kernels/run.py                                   all of it: some 8 minutes on a GPU
    python bench/kernels/run.py --only attention,rmsnorm --csv rows.csv --plot shares.png
    python bench/kernels/run.py --ncu rmsnorm                      under Nsight Compute; prints how
    python bench/kernels/run.py --only rmsnorm --trace trace.json  a timeline of our launches
    python bench/kernels/run.py --device cpu                      tiny sizes: it runs, no more
"""

import gc
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch._functorch.config
import torch._inductor.config
import tyro
from triton.errors import TritonError

from tresse.bench.kernels import peers
from tresse.bench.kernels.attention import unavailable
from tresse.bench.kernels.cases import KERNELS
from tresse.bench.kernels.plot import draw
from tresse.bench.kernels.providers import Case, Provider, compare, poison
from tresse.bench.kernels.timing import Ceilings, ceiling_calls, measure
from tresse.bench.rows import ROOT, append_csv, csv_context, quantiles, read_csv

RESULTS = ROOT / "bench" / "results"
OURS = "tresse"
CEILINGS = "ceilings"
OK, LEFT_OUT = "ok", "left out: no time left"
GRACE_S = 60.0  # for a kernel that is being measured when the time is over
PROFILED_CALLS = 2
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
"""What a provider raises that does not work on this machine; it becomes a row."""

MEASURED = ("ms", "p20_ms", "p80_ms", "floor_ms", "bound", "share")
MEASURED += ("gb_per_s", "tflop_per_s", "error")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure kernels."""

    only: str = ""
    """Kernels, by name with commas between; empty: all."""
    device: Literal["cuda", "cpu"] = "cuda"
    """`cpu` runs the script at tiny sizes; its times say nothing of a kernel."""
    csv: str = ""
    """File for the rows, written anew; by default bench/results/kernels.csv, on a CPU none."""
    plot: str = ""
    """File for the picture of shares; empty: none."""
    budget_ms: float = 150.0
    """Time of one provider's calls in one direction."""
    minutes: float = 8.0
    """Time of the whole run."""
    ncu: str = ""
    """Only call this kernel's first case a few times, between the marks of the profiler."""
    trace: str = ""
    """Only call the first case of each kernel a few times, and write a Chrome trace there."""

    def __post_init__(self) -> None:
        unknown = {*self.names, *([self.ncu] if self.ncu else [])} - set(KERNELS)
        if unknown:
            raise ValueError(
                f"no kernel {', '.join(sorted(unknown))}; expected {', '.join(KERNELS)}"
            )
        if self.device == "cpu" and RESULTS in Path(self.csv).resolve().parents:
            raise ValueError(f"{self.csv}: rows of a CPU are no results; write them elsewhere")

    @property
    def names(self) -> list[str]:
        """The kernels to measure."""
        return self.only.split(",") if self.only else list(KERNELS)

    @property
    def torch_device(self) -> torch.device:
        """Where tensors are."""
        return torch.device(self.device)


def main(options: Options) -> int:
    """Measure, print the table, return the exit status: 1 where a kernel of ours is not right."""
    if options.ncu or options.trace:
        profile(options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        by_default = RESULTS / "kernels.csv" if options.device == "cuda" else f"{folder}/rows.csv"
        path = Path(options.csv or by_default)
        growing = path.with_name(path.name + ".partial")
        growing.unlink(missing_ok=True)
        measure_all(options, growing)
        growing.replace(path)
        rows = read_csv(path)
        if options.device == "cuda" or options.csv:
            print(f"wrote {path}")
    if options.plot:
        draw(rows, options.plot)
        print(f"wrote {options.plot}")
    print_table(rows)
    print_remarks(rows, options)
    return int(any(row["status"] not in (OK, LEFT_OUT) for row in rows if row["provider"] == OURS))


def measure_all(options: Options, path: Path) -> None:
    """Write the rows of the ceilings and of all kernels.

    On a GPU another process measures. Where it dies a row says of which kernel, and the next one
    goes on behind it: a fault of the GPU ends the process that it happened in.
    """
    names, deadline = [CEILINGS, *options.names], time.time() + 60 * options.minutes
    if options.device == "cpu":
        return measure_into(path, names, options, deadline)
    context = multiprocessing.get_context("spawn")
    while names:
        position = context.Value("i", 0)
        arguments = (path, names, options, deadline, position)
        process = context.Process(target=measure_into, args=arguments)
        process.start()
        process.join(max(0.0, deadline - time.time()) + GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
        if not process.exitcode:
            break
        name, names = names[position.value], names[position.value + 1 :]
        if name == CEILINGS:
            sys.exit("no copy and no matrix product could be timed on this machine")
        status = f"failed: the process ended with status {process.exitcode}"
        append_csv(path, new_row(name, provider=OURS, status=status) | csv_context())
    return None


def measure_into(
    path: Path, names: list[str], options: Options, deadline: float, position: Any = None
) -> None:
    """Measure kernels and write the rows as they come; position: of the one under way, shared."""
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device; --device cpu shows that the script runs")
    torch._functorch.config.donated_buffer = False  # backward is called again and again
    torch._inductor.config.compile_threads = 1  # a graph or two at a time: a pool costs seconds
    context = csv_context() | ({} if options.device == "cuda" else {"gpu": "none: cpu"})
    for index, name in enumerate(names):
        if position is not None:
            position.value = index
        measured = measure_best(options) if name == CEILINGS else measure_kernel(
            name, options, read_ceilings(path), deadline
        )  # fmt: skip
        for row in measured:
            append_csv(path, row | context)
            ms = f"{row['ms']:.4f} ms" if row["ms"] != "" else ""
            fields = (row["kernel"], row["shape"], row["direction"], row["provider"])
            print(*fields, ms, row["status"], sep="  ", flush=True)


def read_ceilings(path: Path) -> Ceilings:
    """What the first rows of the file say."""
    rows = {row["kernel"]: row for row in read_csv(path)}
    return Ceilings(float(rows["copy"]["gb_per_s"]), float(rows["matmul"]["tflop_per_s"]))


def measure_best(options: Options) -> Iterator[Row]:
    """Time the plain copy and matrix product."""
    calls, work = ceiling_calls(options.torch_device)
    samples = measure(calls, options.torch_device, 4 * options.budget_ms)
    for name, unit in (("copy", "gb_per_s"), ("matmul", "tflop_per_s")):
        ms, low, high = quantiles(samples[name])
        rate = work[name] / ms / (1e6 if name == "copy" else 1e9)
        yield new_row(
            kernel=name, provider="torch", ms=ms, p20_ms=low, p80_ms=high, share=1.0, status=OK
        ) | {unit: rate}


def measure_kernel(
    name: str, options: Options, ceilings: Ceilings, deadline: float
) -> Iterator[Row]:
    """Rows of all cases of a kernel."""
    for make in KERNELS[name](options.torch_device):
        if time.time() > deadline:
            yield new_row(kernel=name, provider=OURS, status=LEFT_OUT)
            return
        yield from measure_case(make(), options, ceilings)
        torch._dynamo.reset()
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()


def measure_case(case: Case, options: Options, ceilings: Ceilings) -> Iterator[Row]:
    """Check the providers, then time those that are right, direction by direction."""
    device = options.torch_device
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
            yield new_row(case.kernel, case.shape, provider=name, status=complaint)
    del want
    for direction in case.num_bytes:
        calls = {n: p.calls[direction] for n, p in right.items() if direction in p.calls}
        if calls:
            samples = measure(calls, device, options.budget_ms)
            for name, times in samples.items():
                row = timed_row(case, direction, times, ceilings)
                yield row | {"provider": name, "error": errors[name]}


def timed_row(case: Case, direction: str, times: list[float], ceilings: Ceilings) -> Row:
    """What the milliseconds of a provider say."""
    ms, low, high = quantiles(times)
    num_bytes, flops = case.num_bytes[direction], case.flops.get(direction, 0)
    floor_ms, bound = ceilings.floor_ms(num_bytes, flops)
    return new_row(
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
    """Call in every direction, so that what does not work shows before the clock runs."""
    for call in provider.calls.values():
        if call.before:
            call.before()
        call.run()
    if device.type == "cuda":
        torch.cuda.synchronize()


def new_row(
    kernel: str,
    shape: str = "",
    direction: str = "",
    provider: str = "",
    status: str = "",
    **measured: float | str,
) -> Row:
    """A row with all columns; those that were not measured are empty."""
    named = {"kernel": kernel, "shape": shape, "direction": direction, "provider": provider}
    return named | {"status": status} | dict.fromkeys(MEASURED, "") | measured


def print_table(rows: list[dict[str, str]]) -> None:
    """Ours in each case and direction, and how many times as long the others took."""
    groups: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in rows:
        if row["ms"]:
            case = row["kernel"], row["shape"], row["direction"]
            groups.setdefault(case, {})[row["provider"]] = row
    width = max((len("  ".join(case)) for case in groups), default=0)
    print(f"\n{'':{width}}  {'ours ms':>9} {'share':>6}  the others' time over ours")
    for case, group in groups.items():
        first = group.get(OURS) or next(iter(group.values()))
        ms, share = float(first["ms"]), float(first["share"])
        others = "  ".join(
            f"{name} {float(row['ms']) / ms:.2f}" for name, row in group.items() if row is not first
        )
        print(f"{'  '.join(case):{width}}  {ms:9.4f} {share:6.1%}  {others}")


def print_remarks(rows: list[dict[str, str]], options: Options) -> None:
    """What was not measured, and why."""
    for row in rows:
        if row["status"] != OK:
            print(f"{row['kernel']}  {row['shape']}  {row['provider']}: {row['status']}")
    if options.device == "cpu":
        print("On a CPU: references at tiny sizes. No time above is that of a kernel.")
    else:
        for reason in (*peers.missing(), *unavailable(options.torch_device)):
            print(f"not measured: {reason}")


def profile(options: Options) -> None:
    """Call our side of the chosen kernels' first cases, warmed up, for a profiler."""
    names = [options.ncu] if options.ncu else options.names
    calls = {}
    for name in names:
        case = KERNELS[name](options.torch_device)[0]()
        provider = case.providers[OURS]()
        call_once(provider, options.torch_device)
        calls |= {f"{name} {way}": call for way, call in provider.calls.items()}
    if options.trace:
        with torch.profiler.profile() as profiler:
            call_all(calls)
        profiler.export_chrome_trace(options.trace)
        print(f"wrote {options.trace}")
        return
    if options.device == "cuda":
        torch.cuda.profiler.start()
    call_all(calls)
    if options.device == "cuda":
        torch.cuda.profiler.stop()
    print(
        "To read the hardware's counters:\n"
        "ncu --profile-from-start off --clock-control none --set full --force-overwrite "
        f"--export {options.ncu} {sys.executable} bench/kernels/run.py --ncu {options.ncu}"
    )


def call_all(calls: Mapping[str, Any]) -> None:
    """Call each PROFILED_CALLS times under its name."""
    for name, call in calls.items():
        for _ in range(PROFILED_CALLS):
            if call.before:
                call.before()
            with torch.profiler.record_function(name):
                call.run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
