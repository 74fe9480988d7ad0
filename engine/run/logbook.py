"""What a run measures: metrics.jsonl, and the same as curves for TensorBoard.

TensorBoard's horizontal axis is the number of targets since the weights were new, so that stages
that follow each other are one curve. A stage that starts anew, or from another than the one before
it, begins a curve of its own.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from tresse.data.durable import naming, write_text
from tresse.data.lines import parse_record
from tresse.engine.run.config import StageConfig
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.typed_json import Record

FILE = "metrics.jsonl"
TAGS = {
    "loss": "loss/all",
    "loss_by_language": "loss",
    "heldout_loss": "loss/heldout",
    "cloze": "cloze",
    "grad_norm": "optimizer/grad_norm",
    "lr": "optimizer/lr",
    "skipped_steps": "optimizer/skipped_steps",
}
"""TensorBoard's names of numbers, in whose order it shows them; all others are under `speed`."""

logger = logging.getLogger(__name__)


class Logbook:
    """The measurements of one stage, written by the first rank.

    Opening it drops the records after `step`, as a resumed stage repeats those steps, and what a
    crash or a damaged disk has left of others, with a warning.

    tokens: number of targets that the weights have been trained on at `step`.
    """

    def __init__(
        self, folder: Path, stage: str, step: int, ranks: Ranks, *, tokens: int = 0, curve: str = ""
    ) -> None:
        self.stage, self.enabled, self._tokens = stage, ranks.is_first, tokens
        if self.enabled:
            self._path = folder / FILE
            records = _repaired(self._path)
            kept = [r for r in records if r.get("stage") != stage or r.get("step", 0) <= step]
            _warn_of_gaps(self._path, kept, stage, step)
            write_text(self._path, "".join(map(_line, kept)))
            self._file = self._path.open("a", encoding="utf-8")
            self._curves = _Curves(folder / "tensorboard" / (curve or stage), tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self._file.close()
            self._curves.close()

    def write(self, step: int, record: Record) -> None:
        """Log what was measured after a step; ValueError for a number that is not finite."""
        if not self.enabled:
            return
        if "tokens" in record:
            self._tokens = sum(record["tokens"].values())
        with naming(self._path):
            print(_line({"stage": self.stage, "step": step} | record), end="", file=self._file)
            self._file.flush()
        self._curves.add(record, self._tokens)

    def sync(self) -> None:
        """Wait until all records are on the disk, as a checkpoint's steps are not repeated."""
        if self.enabled:
            with naming(self._path):
                os.fsync(self._file.fileno())


def read_metrics(folder: Path) -> list[Record]:
    """Return the records of metrics.jsonl, without a last line that is not complete.

    ValueError names a line that is damaged; resuming the run repairs the file.
    """
    records = []
    for where, found in parse_metrics(folder):
        if isinstance(found, ValueError):
            raise ValueError(f"{where}: {found}; a run that resumes repairs this file")
        records.append(found)
    return records


def parse_metrics(folder: Path) -> Iterator[tuple[str, Record | ValueError]]:
    """Yield the place and the record of each line of metrics.jsonl, or what is wrong with it.

    A last line that is not complete is left out.
    """
    path = folder / FILE
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            yield f"{path}:{number}", parse_record(line)
        except ValueError as error:
            yield f"{path}:{number}", error


def curve_name(stages: Sequence[StageConfig], stage: str) -> str:
    """Return the name of a stage's curve: the names of the stages that it goes through."""
    names = [each.name for each in stages]
    position = names.index(stage)
    first = last = position
    while stages[first].init == "previous" and first > 0:
        first -= 1
    while last + 1 < len(stages) and stages[last + 1].init == "previous":
        last += 1
    return "+".join(names[first : last + 1])


def _repaired(path: Path) -> list[Record]:
    """Return the records that can be read; warn of the others."""
    records = []
    for where, found in parse_metrics(path.parent):
        if isinstance(found, ValueError):
            logger.warning("%s: %s; this record is lost", where, found)
        else:
            records.append(found)
    return records


def _warn_of_gaps(path: Path, kept: Sequence[Record], stage: str, step: int) -> None:
    found = {record["step"] for record in kept if record.get("stage") == stage and "loss" in record}
    if lost := [number for number in range(1, step + 1) if number not in found]:
        logger.warning(
            "%s: %d steps of %s are not recorded, the first is %d", path, len(lost), stage, lost[0]
        )


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


class _Curves:
    """TensorBoard's events; where they cannot be written, the run goes on without."""

    def __init__(self, folder: Path, tokens: int) -> None:
        self._folder = folder
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer: Any = SummaryWriter(str(folder), purge_step=tokens + 1)
        except (ImportError, OSError) as error:
            self._give_up(error)

    def add(self, record: Record, tokens: int) -> None:
        """Add a point to each curve."""
        try:
            for name, value in _flat(record):
                if self._writer:
                    self._writer.add_scalar(name, value, tokens)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is left."""
        try:
            if self._writer:
                self._writer.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        logger.warning("%s: no more curves for TensorBoard (%s)", self._folder, error)
        self._writer = None


def _flat(record: Record) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record under TensorBoard's names."""
    for name, value in record.items():
        tag = TAGS.get(name, f"speed/{name}")
        if isinstance(value, dict):
            if name != "tokens":  # they are the axis
                yield from (
                    (f"{tag}/{inner}", number)
                    for inner, number in value.items()
                    if number is not None
                )
        elif value is not None:
            yield tag, value
