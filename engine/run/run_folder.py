"""The folder of a run: its resolved configuration, its metrics, its stages.

runs/NAME/config.json      the resolved configuration
runs/NAME/corpora.json     ids of the corpora (engine/run/corpora.py)
runs/NAME/metrics.jsonl    a line per step, and per held-out measurement
runs/NAME/tensorboard/     the same as events
runs/NAME/STAGE/           checkpoints and scores of a stage (engine/checkpoint.py)
runs/NAME/table.json       cloze accuracies of all stages (engine/scoring/report.py)
"""

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError
from torch.utils.tensorboard import SummaryWriter

from tresse.data.durable import write_text
from tresse.engine.run.config import RunConfig
from tresse.engine.run.ranks import Ranks

Row = dict[str, Any]

# How a run is executed, which may change when it goes on: none of these moves a row or the mean of
# the loss. A corpus may have another path; its content is checked by `engine/run/corpora.py`.
EXECUTION = (
    "run_dir",
    "micro_rows",
    "compile",
    "checkpoint.",
    "valid_every",
    "sharding.zero_stage",
    "sharding.offload_optimizer",
    "kernels.",
    "data.corpus",
    "data.valid",
    "data.cloze",
    "data.threads",
    "data.pack_on",
)

_ADAPTER = TypeAdapter(RunConfig)


def to_json(config: RunConfig) -> Row:
    """Return the configuration as plain JSON values."""
    return _ADAPTER.dump_python(config, mode="json")


def from_json(values: Row, *, strict: bool = False) -> RunConfig:
    """Return the configuration that `to_json` wrote; ValueError names the field that is wrong.

    strict: no value of another type is converted, as the text "1" would be to the number.
    """
    try:
        return _ADAPTER.validate_json(json.dumps(values), strict=strict)
    except ValidationError as error:
        raise ValueError(_fault(error)) from None


def _fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    field = "".join(f"{part}." for part in fault["loc"])[:-1]
    message = fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    return f"{field}: {message}" if field else message


def read_config(folder: Path) -> RunConfig:
    """Read the configuration that a run was started with.

    Raises ValueError naming the file and the field when the file is damaged or of another version.
    """
    path = folder / "config.json"
    try:
        config = _ADAPTER.validate_json(path.read_bytes(), strict=False)
    except ValidationError as error:
        raise ValueError(
            f"{path}: {_fault(error)}; restore the file or start a run in another folder"
        ) from None
    return replace(config, run_dir=str(folder))


def check_same_run(config: RunConfig) -> None:
    """Raise ValueError naming each field that differs from what the run was started with.

    The fields of EXECUTION may differ, and all may in a folder that holds no run yet.
    """
    folder = Path(config.run_dir)
    if not (folder / "config.json").exists():
        return
    if differences := find_differences(read_config(folder), config):
        raise ValueError(
            f"{folder}: the run was started with other settings: {'; '.join(differences)}. "
            "Leave these settings out to go on with it, or name another folder with --run-dir"
        )


def find_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """The fields, EXECUTION aside, in which configurations differ, with both values."""
    return list(_differences(to_json(old), to_json(new)))


def lock_run(config: RunConfig) -> None:
    """Keep other processes out of the run's folder until this one ends, however it ends.

    Raises ValueError if another one trains there.
    """
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{folder}: another process trains there; stop it first, or name another --run-dir"
        ) from None
    # The descriptor stays open, and with it the lock.


def write_config(config: RunConfig) -> None:
    """Write the configuration into the run's folder, which is made if it is not there."""
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", json.dumps(to_json(config), indent=2) + "\n")


def _differences(old: Any, new: Any, field: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from _differences(old.get(key), new.get(key), f"{field}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for position, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, f"{field}.{position}")
    elif old == new or field.startswith(EXECUTION):
        return
    elif isinstance(old, list) and isinstance(new, list):
        yield f"{field} had {len(old)} entries, now {len(new)}"
    else:
        yield f"{field} was {json.dumps(old)}, now {json.dumps(new)}"


class Logbook:
    """metrics.jsonl and TensorBoard of one stage, written by the first rank.

    Rows of steps after `step`, which a resumed run is about to repeat, are dropped on opening.
    """

    def __init__(self, folder: Path, stage: str, step: int, ranks: Ranks) -> None:
        self.stage, self.enabled = stage, ranks.is_first
        if self.enabled:
            path = folder / "metrics.jsonl"
            kept = [r for r in read_metrics(folder) if r["stage"] != stage or r["step"] <= step]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
            self.file = path.open("a", encoding="utf-8")
            self.events = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.file.close()
            self.events.close()

    def write(self, step: int, row: Row) -> None:
        """Add what was measured after a step; nested numbers are outer/inner in TensorBoard."""
        if self.enabled:
            print(json.dumps({"stage": self.stage, "step": step} | row), file=self.file, flush=True)
            for name, value in _flat(row):
                self.events.add_scalar(name, value, step)


def read_metrics(folder: Path) -> list[Row]:
    """Return the rows of metrics.jsonl; a last line cut by a crash is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _flat(row: Row, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif value is not None:
            yield prefix + name, value
