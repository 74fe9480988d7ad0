"""What a run measures: metrics.jsonl, and the same as curves, for TensorBoard and others.

The horizontal axis of curves is the number of targets since the weights were new, so that stages
that follow each other are one curve. A stage that starts anew, or from another than the one before
it, begins a curve of its own.
"""

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

from tresse.data.durable import naming, write_text
from tresse.data.lines import parse_record
from tresse.engine.run.config import RunConfig, StageConfig
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.typed_json import Record

FILE, WANDB = "metrics.jsonl", "wandb"
TAGS = {
    "loss": "loss/all",
    "loss_by_language": "loss",
    "heldout_loss": "loss/heldout",
    "cloze": "cloze",
    "grad_norm": "optimizer/grad_norm",
    "lr": "optimizer/lr",
    "skipped_steps": "optimizer/skipped_steps",
}
"""Names of curves, in whose order TensorBoard shows them; all others are under `speed`."""

logger = logging.getLogger(__name__)


class Logbook:
    """The measurements of one stage, written by the first rank.

    Opening it drops the records after `step`, as a resumed stage repeats those steps, and what a
    crash or a damaged disk has left of others, with a warning.

    tokens: number of targets that the weights have been trained on at `step`. curve: name of the
    stage's curve. wandb: settings of the run, to draw it in Weights & Biases too.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        step: int,
        ranks: Ranks,
        *,
        tokens: int = 0,
        curve: str = "",
        wandb: Record | None = None,
    ) -> None:
        self.stage, self.enabled, self._tokens = stage, ranks.is_first, tokens
        if self.enabled:
            self._path = folder / FILE
            records = _repaired(self._path)
            kept = [r for r in records if r.get("stage") != stage or r.get("step", 0) <= step]
            _warn_of_gaps(self._path, kept, stage, step)
            write_text(self._path, "".join(map(_line, kept)))
            self._file = self._path.open("a", encoding="utf-8")
            own = folder / "tensorboard" / (curve or stage)
            self._curves = [_Curves(f"TensorBoard ({own})", lambda: _TensorBoard(own, tokens))]
            if wandb is not None:
                open_run = partial(_Wandb, folder, curve or stage, wandb)
                self._curves.append(_Curves("Weights & Biases", open_run))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self._file.close()
            for curves in self._curves:
                curves.close()

    def write(self, step: int, record: Record) -> None:
        """Log what was measured after a step; ValueError for a number that is not finite."""
        if not self.enabled:
            return
        if "tokens" in record:
            self._tokens = sum(record["tokens"].values())
        with naming(self._path):
            print(_line({"stage": self.stage, "step": step} | record), end="", file=self._file)
            self._file.flush()
        for curves in self._curves:
            curves.add(record, self._tokens)

    def sync(self) -> None:
        """Wait until all records are on the disk, as a checkpoint's steps are not repeated."""
        if self.enabled:
            with naming(self._path):
                os.fsync(self._file.fileno())


def check_log(config: RunConfig) -> None:
    """Raise ValueError if the curves of a run need a package that is missing."""
    found = find_spec(WANDB)
    # A folder wandb/, which the package leaves behind, would be found too; it has no origin.
    if config.log == WANDB and (found is None or found.origin is None):
        raise ValueError("--log wandb needs the package wandb: pip install 'tresse[wandb]'")


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
    """Curves for one program; where they cannot be written, the run goes on without."""

    def __init__(self, what: str, open_writer: Callable[[], "_Writer"]) -> None:
        self._what = what
        self._writer: _Writer | None = None
        with self._or_none():
            self._writer = open_writer()

    def add(self, record: Record, tokens: int) -> None:
        """Add a point to each curve."""
        if self._writer:
            with self._or_none():
                self._writer.add(dict(_flat(record)), tokens)

    def close(self) -> None:
        """Write what is left."""
        if self._writer:
            with self._or_none():
                self._writer.close()

    @contextmanager
    def _or_none(self) -> Iterator[None]:
        """Go on without the curves if they cannot be written, with a warning."""
        try:
            yield
        except (ImportError, OSError) as error:
            logger.warning("%s: no more curves (%s)", self._what, error)
            self._writer = None


class _Writer(Protocol):
    def add(self, values: dict[str, float], tokens: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, folder: Path, tokens: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=tokens + 1)

    def add(self, values: dict[str, float], tokens: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, tokens)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases for each curve; a stage that resumes goes on with its run.

    WANDB_MODE, WANDB_PROJECT and its other variables hold as usual.
    """

    def __init__(self, folder: Path, curve: str, settings: Record) -> None:
        wandb: Any = import_module(WANDB)  # an extra
        self._error = wandb.Error
        with self._as_os_error():
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "tresse"),
                dir=str(folder),
                name=f"{folder.resolve().name}/{curve}",
                group=folder.resolve().name,
                id=f"{_wandb_id(folder)}-{curve}",
                resume="allow",
                config=settings,
                settings=wandb.Settings(console="off", quiet=True),
            )
            self._run.define_metric("tokens")
            self._run.define_metric("*", step_metric="tokens")

    def add(self, values: dict[str, float], tokens: int) -> None:
        with self._as_os_error():
            self._run.log(values | {"tokens": tokens})

    def close(self) -> None:
        with self._as_os_error():
            self._run.finish()

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise OSError(str(error)) from error


def _wandb_id(folder: Path) -> str:
    """Return the id of a run's folder, which stays the same when the folder moves."""
    path = folder / WANDB / "id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, secrets.token_hex(4))
    return path.read_text(encoding="utf-8")


def _flat(record: Record) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record under the names of their curves."""
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
