"""Time the Triton kernels at the paper's shapes, beside PyTorch, torch.compile and other libraries.

For every kernel, shape, direction and provider the table gives the median milliseconds with the
20th and 80th percentile, the rate of the bytes or operations that the function needs (the cases say
which), and the share of what this machine reaches in the same run on a plain copy or matrix
product: the time that the work would take there over the time that it took. A provider is timed
only after its results agree with fp32. A wrong or failing one gets a line that says so; libraries
that are not installed and kernels for which no time was left are named. bench/kernels/timing.py
says how the clock is read. Lines go to a CSV file as they come.

    python bench/kernels/run.py                                    everything: 8 minutes on a GPU
    python bench/kernels/run.py --only attention,rmsnorm --csv lines.csv --plot shares.png
    python bench/kernels/run.py --ncu rmsnorm                      for Nsight Compute; prints how
    python bench/kernels/run.py --only rmsnorm --trace trace.json  a timeline of our launches
    python bench/kernels/run.py --device cpu                       tiny sizes: shows that it runs
"""

import multiprocessing
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch._functorch.config
import torch._inductor.config
import tyro

from tresse.bench.kernels import peers
from tresse.bench.kernels.cases.all_cases import KERNELS
from tresse.bench.kernels.cases.attention import unavailable
from tresse.bench.kernels.measuring import (
    LEFT_OUT,
    OK,
    OURS,
    measure_ceilings,
    measure_kernel,
    new_line,
)
from tresse.bench.kernels.plot import draw
from tresse.bench.kernels.profiler import mark_for_ncu, write_trace
from tresse.bench.kernels.timing import Ceilings
from tresse.bench.records import ROOT, append_csv, csv_context, read_csv

RESULTS = ROOT / "bench" / "results"
CEILINGS = "ceilings"
GRACE_S = 60.0  # for a kernel that is being measured when the time is over


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure kernels."""

    only: str = ""
    """Names of the kernels to measure, separated by commas; empty measures all."""
    device: Literal["cuda", "cpu"] = "cuda"
    """`cpu` runs the script at tiny sizes; its times are not those of a kernel."""
    csv: str = ""
    """File for the table, written anew; empty: bench/results/kernels.csv, on a CPU no file."""
    plot: str = ""
    """Image file for the shares; empty draws none. Needs matplotlib."""
    budget_ms: float = 150.0
    """Milliseconds for the calls of one provider in one direction."""
    minutes: float = 8.0
    """Minutes for the whole run."""
    ncu: str = ""
    """Call only this kernel's first case a few times, between the marks of the profiler."""
    trace: str = ""
    """Call only the first case of each kernel a few times; write a Chrome trace to this file."""

    def __post_init__(self) -> None:
        unknown = {*self.names, *([self.ncu] if self.ncu else [])} - set(KERNELS)
        if unknown:
            raise ValueError(
                f"no kernel {', '.join(sorted(unknown))}; expected {', '.join(KERNELS)}"
            )
        if self.device == "cpu" and RESULTS in Path(self.csv).resolve().parents:
            raise ValueError(f"{self.csv}: times of a CPU are no results; write them elsewhere")

    @property
    def names(self) -> list[str]:
        """The kernels to measure."""
        return self.only.split(",") if self.only else list(KERNELS)

    @property
    def torch_device(self) -> torch.device:
        """The device of all tensors."""
        return torch.device(self.device)


def main(options: Options) -> int:
    """Measure, print the table, return the exit status: 1 where a kernel of ours is not right."""
    if options.ncu:
        mark_for_ncu(options.ncu, options.torch_device)
        return 0
    if options.trace:
        write_trace(options.trace, options.names, options.torch_device)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        by_default = RESULTS / "kernels.csv" if options.device == "cuda" else f"{folder}/lines.csv"
        path = Path(options.csv or by_default)
        growing = path.with_name(path.name + ".partial")
        growing.unlink(missing_ok=True)
        measure_all(options, growing)
        growing.replace(path)
        lines = read_csv(path)
        if options.device == "cuda" or options.csv:
            print(f"wrote {path}")
    if options.plot:
        draw(lines, options.plot)
        print(f"wrote {options.plot}")
    print_table(lines)
    print_remarks(lines, options)
    ours = [line["status"] for line in lines if line["provider"] == OURS]
    return int(any(status not in (OK, LEFT_OUT) for status in ours))


def measure_all(options: Options, path: Path) -> None:
    """Write the lines of the ceilings and of all kernels.

    On a GPU another process measures, since a fault of the GPU ends the process that it meets.
    If it dies, a line names the kernel, and a new process measures the next one.
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
        append_csv(path, new_line(name, provider=OURS, status=status) | csv_context())
    return None


def measure_into(
    path: Path, names: list[str], options: Options, deadline: float, position: Any = None
) -> None:
    """Measure kernels and write their lines as they come.

    position: a number shared with the parent process, the index of the kernel under way.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device; --device cpu shows that the script runs")
    torch._functorch.config.donated_buffer = False  # backward is called again and again
    torch._inductor.config.compile_threads = 1  # a graph or two at a time: a pool costs seconds
    context = csv_context() | ({} if options.device == "cuda" else {"gpu": "none: cpu"})
    device, budget_ms = options.torch_device, options.budget_ms
    for index, name in enumerate(names):
        if position is not None:
            position.value = index
        if name == CEILINGS:
            lines = measure_ceilings(device, budget_ms)
        else:
            lines = measure_kernel(name, device, budget_ms, read_ceilings(path), deadline)
        for line in lines:
            append_csv(path, line | context)
            ms = f"{line['ms']:.4f} ms" if line["ms"] != "" else ""
            fields = (line["kernel"], line["shape"], line["direction"], line["provider"])
            print(*fields, ms, line["status"], sep="  ", flush=True)


def read_ceilings(path: Path) -> Ceilings:
    """Read the ceilings from the first lines of the file."""
    lines = {line["kernel"]: line for line in read_csv(path)}
    return Ceilings(float(lines["copy"]["gb_per_s"]), float(lines["matmul"]["tflop_per_s"]))


def print_table(lines: list[dict[str, str]]) -> None:
    """Print our time in each case and direction, and the others' times as multiples of it."""
    groups: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for line in lines:
        if line["ms"]:
            case = line["kernel"], line["shape"], line["direction"]
            groups.setdefault(case, {})[line["provider"]] = line
    width = max((len("  ".join(case)) for case in groups), default=0)
    print(f"\n{'':{width}}  {'ours ms':>9} {'share':>6}  the others' time over ours")
    for case, group in groups.items():
        first = group.get(OURS) or next(iter(group.values()))
        ms, share = float(first["ms"]), float(first["share"])
        others = "  ".join(
            f"{name} {float(line['ms']) / ms:.2f}"
            for name, line in group.items()
            if line is not first
        )
        print(f"{'  '.join(case):{width}}  {ms:9.4f} {share:6.1%}  {others}")


def print_remarks(lines: list[dict[str, str]], options: Options) -> None:
    """Print what was not measured, and why."""
    for line in lines:
        if line["status"] != OK:
            print(f"{line['kernel']}  {line['shape']}  {line['provider']}: {line['status']}")
    if options.device == "cpu":
        print("On a CPU: references at tiny sizes. No time above is that of a kernel.")
    else:
        for reason in (*peers.missing(), *unavailable(options.torch_device)):
            print(f"not measured: {reason}")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
