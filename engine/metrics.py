"""The numbers of a stage: measured per step, logged to files, shown as progress."""

import json
import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from tresse.data.durable import write_text
from tresse.engine.flops import flops_per_token, peak_flops
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.typed_json import Record
from tresse.engine.stage import Stage
from tresse.engine.step import StepResult

LOG_FILE_INTERVAL_S = 10.0  # between two updates of a progress bar that goes to a file

T = TypeVar("T")


class Meter:
    """Measures steps; a step lasts from the wait for its rows until its results are known."""

    def __init__(self, stage: Stage) -> None:
        config, ranks = stage.config, stage.ranks
        self.stage = stage
        self.wait_s = 0.0
        self.summary = ""
        """The last step in a few words, for the progress bar."""
        self.start_s = 0.0
        row_length = config.data.packing.row_length
        self.flops = flops_per_token(config.model, row_length, stage.plan.vocabulary.width)
        peak = peak_flops(_device_name(ranks.device), config.sharding.precision)
        self.peak_flops = peak and peak * ranks.world_size

    def waited(self, loader: Iterable[T]) -> Iterator[T]:
        """Yield what the loader yields, and measure how long each step waits for it."""
        iterator = iter(loader)
        while True:
            self.start_s = time.perf_counter()
            packed = next(iterator, None)
            self.wait_s = time.perf_counter() - self.start_s
            if packed is None:
                return
            yield packed

    def record(self, result: StepResult, lr: float) -> Record:
        """Return the numbers of the step that just ended, without MFU if no peak is known."""
        seconds = time.perf_counter() - self.start_s
        tokens_per_s = sum(result.targets) / seconds
        losses = zip(self.stage.plan.languages, result.losses, result.targets, strict=True)
        record: Record = {
            "loss": _finite(result.loss),
            "loss_by_language": {n: _finite(loss / count) for n, loss, count in losses if count},
            "grad_norm": _finite(result.grad_norm),
            "skipped_steps": self.stage.step - self.stage.num_updates,
            "lr": lr,
            "tokens": dict(self.stage.tokens),
            "tokens_per_s": tokens_per_s,
            "step_s": seconds,
            "data_wait_s": self.wait_s,
            "memory_gib": peak_memory_bytes(self.stage.ranks.device) / 2**30,
        }
        self.summary = f"loss {result.loss:.3f}, {tokens_per_s:,.0f} tokens/s"
        if self.peak_flops:
            record["mfu_causal"] = self.flops.causal * tokens_per_s / self.peak_flops
            record["mfu_full"] = self.flops.full * tokens_per_s / self.peak_flops
            self.summary += f", MFU {record['mfu_causal']:.1%}"
        return record


class Logbook:
    """metrics.jsonl and TensorBoard events of one stage, written by the first rank.

    Opening it drops the records after `step`, as a resumed stage repeats those steps.
    """

    def __init__(self, folder: Path, stage: str, step: int, ranks: Ranks) -> None:
        self.stage, self.enabled = stage, ranks.is_first
        if self.enabled:
            path = folder / "metrics.jsonl"
            kept = [r for r in read_metrics(folder) if r["stage"] != stage or r["step"] <= step]
            write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
            self.file = path.open("a", encoding="utf-8")
            self.events = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.file.close()
            self.events.close()

    def write(self, step: int, record: Record) -> None:
        """Log what was measured after a step; TensorBoard names nested numbers outer/inner."""
        if self.enabled:
            line = json.dumps({"stage": self.stage, "step": step} | record)
            print(line, file=self.file, flush=True)
            for name, value in _flat(record):
                self.events.add_scalar(name, value, step)


def read_metrics(folder: Path) -> list[Record]:
    """Return the records of metrics.jsonl, without a last line that a crash cut short."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def progress_bar(stage: Stage) -> tqdm:
    """Return a bar over the steps of a stage, shown by the first rank."""
    return tqdm(
        desc=stage.name,
        total=stage.num_steps,
        initial=stage.step,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else LOG_FILE_INTERVAL_S,
        disable=not stage.ranks.is_first,
    )


def peak_memory_bytes(device: torch.device) -> int:
    """Return the largest memory used so far: by tensors on a GPU, by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _finite(value: float) -> float | None:
    """Return a number that JSON has, or None."""
    return value if math.isfinite(value) else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _flat(record: Record, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif value is not None:
            yield prefix + name, value
