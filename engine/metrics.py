"""The numbers of a stage: measured per step, and shown as progress."""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

from tqdm import tqdm

from tresse.engine.device import device_name, peak_memory_bytes
from tresse.engine.forecast.flops import flops_per_token, peak_flops
from tresse.engine.run.typed_json import Record
from tresse.engine.stage import Stage
from tresse.engine.step import StepResult

SECONDS_PER_LINE = 10.0

T = TypeVar("T")


class Meter:
    """Measures steps.

    A step lasts from the results of the one before, or from what came in between, to its own.
    """

    def __init__(self, stage: Stage) -> None:
        config, ranks = stage.config, stage.ranks
        self.stage = stage
        self.wait_s = 0.0
        """Seconds of the last wait for rows."""
        self.summary = ""
        """The last step in a few words, for the progress bar."""
        self.start_s = 0.0
        row_length = config.data.packing.row_length
        self.flops = flops_per_token(config.model, row_length, stage.plan.vocabulary.width)
        peak = peak_flops(device_name(ranks.device), config.sharding.precision)
        self.peak_flops = peak and peak * ranks.world_size

    def waited(self, loader: Iterable[T]) -> Iterator[T]:
        """Yield what the loader yields, and measure how long each step waits for it."""
        iterator = iter(loader)
        self.restart()
        while True:
            asked_s = time.perf_counter()
            packed = next(iterator, None)
            self.wait_s = time.perf_counter() - asked_s
            if packed is None:
                return
            yield packed

    def restart(self) -> None:
        """Begin the next step here: what came before is not part of it."""
        self.start_s = time.perf_counter()

    def record(self, step: int, result: StepResult, lr: float, wait_s: float) -> Record:
        """Return the numbers of the step that just ended, without MFU if no peak is known."""
        seconds = time.perf_counter() - self.start_s
        self.restart()
        tokens_per_s = sum(result.targets) / seconds
        losses = zip(self.stage.plan.languages, result.losses, result.targets, strict=True)
        record: Record = {
            "loss": _finite(result.loss),
            "loss_by_language": {n: _finite(loss / count) for n, loss, count in losses if count},
            "grad_norm": _finite(result.grad_norm),
            "skipped_steps": step - self.stage.num_updates,
            "lr": lr,
            "tokens": dict(self.stage.tokens),
            "tokens_per_s": tokens_per_s,
            "step_s": seconds,
            "data_wait_s": wait_s,
            "memory_gib": peak_memory_bytes(self.stage.ranks.device) / 2**30,
        }
        self.summary = (
            f"loss {result.loss:.3f}, norm {result.grad_norm:.2f}, lr {lr:.2e}, "
            f"{tokens_per_s:,.0f} tokens/s"
        )
        if self.peak_flops:
            record["mfu_causal"] = self.flops.causal * tokens_per_s / self.peak_flops
            record["mfu_full"] = self.flops.full * tokens_per_s / self.peak_flops
            self.summary += f", MFU {record['mfu_causal']:.1%}"
        return record


class Progress:
    """The progress of a stage on the first rank: a bar on a terminal, else lines of text."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._first_step, self._step = stage, stage.step, stage.step
        self._start_s, self._shown_s = time.monotonic(), -math.inf
        is_terminal = sys.stderr.isatty()
        self._prints = stage.ranks.is_first and not is_terminal
        self._bar = tqdm(
            desc=stage.name,
            total=stage.last_step,
            initial=stage.step,
            unit="step",
            disable=not stage.ranks.is_first or not is_terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, summary: str, step: int) -> None:
        """Show the results up to a step; lines come every ten seconds, and at the first and last.

        The stage may be one step ahead.
        """
        self._bar.set_postfix_str(summary, refresh=False)
        self._bar.update(step - self._step)
        self._step = step
        now_s, stage = time.monotonic(), self._stage
        if self._prints and (stage.is_done or now_s - self._shown_s >= SECONDS_PER_LINE):
            self._shown_s = now_s
            per_step = (now_s - self._start_s) / (step - self._first_step)
            left = tqdm.format_interval((stage.last_step - step) * per_step)
            place = f"stage {stage.name}, step {step:,} of {stage.last_step:,}"
            self.say(f"{place}: {summary}, {left} left")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._stage.ranks.is_first:
            tqdm.write(line)
            sys.stdout.flush()


def _finite(value: float) -> float | None:
    """Return a number that JSON has, or None."""
    return value if math.isfinite(value) else None
