"""The numbers of a step: losses per language, speed, model FLOPs utilisation, memory, waiting."""

import resource
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from tresse.engine.flops import flops_per_token, peak_flops
from tresse.engine.run.run_folder import Row
from tresse.engine.stage import Stage
from tresse.engine.step import StepResult

T = TypeVar("T")


class Meter:
    """Times the steps of a stage: a step lasts from the wait for its rows to its last number."""

    def __init__(self, stage: Stage) -> None:
        run, ranks = stage.run, stage.ranks
        self.stage = stage
        self.wait_s = 0.0
        self.summary = ""
        """The last step in a few words, for the progress bar."""
        self.start_s = 0.0
        row_length = run.data.packing.row_length
        self.flops = flops_per_token(run.model, row_length, stage.plan.vocabulary.width)
        peak = peak_flops(_device_name(ranks.device), run.sharding.precision)
        self.peak_flops = peak and peak * ranks.world_size

    def waited(self, loader: Iterable[T]) -> Iterator[T]:
        """Yield what the loader does, counting the time it kept the step waiting."""
        iterator = iter(loader)
        while True:
            self.start_s = time.perf_counter()
            rows = next(iterator, None)
            self.wait_s = time.perf_counter() - self.start_s
            if rows is None:
                return
            yield rows

    def row(self, result: StepResult, lr: float) -> Row:
        """Name the numbers of the step that just ended; MFU is left out where no peak is known."""
        seconds = time.perf_counter() - self.start_s
        tokens_per_s = sum(result.targets) / seconds
        losses = zip(self.stage.plan.languages, result.losses, result.targets, strict=True)
        row: Row = {
            "loss": result.loss,
            "loss_by_language": {name: loss / count for name, loss, count in losses if count},
            "grad_norm": result.grad_norm,
            "lr": lr,
            "tokens": dict(self.stage.tokens),
            "tokens_per_s": tokens_per_s,
            "step_s": seconds,
            "data_wait_s": self.wait_s,
            "memory_gib": peak_memory_bytes(self.stage.ranks.device) / 2**30,
        }
        self.summary = f"loss {result.loss:.3f}, {tokens_per_s:,.0f} tokens/s"
        if self.peak_flops:
            row["mfu_causal"] = self.flops.causal * tokens_per_s / self.peak_flops
            row["mfu_full"] = self.flops.full * tokens_per_s / self.peak_flops
            self.summary += f", MFU {row['mfu_causal']:.1%}"
        return row


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory in use so far: of the GPU's tensors, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
