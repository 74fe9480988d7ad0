"""The folder of a run: its configuration on disk, its lock, and the ids of its corpora.

runs/NAME/config.json      the resolved configuration
runs/NAME/corpora.json     ids of the corpora
runs/NAME/metrics.jsonl    a record per step and per measurement of the held-out loss
runs/NAME/tensorboard/     the same numbers as TensorBoard events
runs/NAME/STAGE/           checkpoints (engine/checkpoint.py) and scores (engine/scoring/score.py)
runs/NAME/table.json       cloze accuracies of all stages (engine/scoring/report.py)
"""

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tresse.data.durable import write_text
from tresse.engine.run.config import RunConfig
from tresse.engine.run.corpora import Corpora

Record = dict[str, Any]
"""A JSON object."""

CONFIG, CORPORA = "config.json", "corpora.json"

# Fields that may change when a run resumes: they change neither a row nor the loss of a step, up to
# rounding. A corpus may move to another folder: `check_same_corpus` compares its content.
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


def to_json(config: RunConfig) -> Record:
    """Return the configuration as plain JSON values."""
    return _ADAPTER.dump_python(config, mode="json")


def from_json(values: Record, *, strict: bool = False) -> RunConfig:
    """Return the configuration that `to_json` wrote; ValueError names the field that is wrong.

    strict: unknown fields and values of the wrong type, such as "1" for 1, are errors.
    """
    extra = "forbid" if strict else None
    try:
        return _ADAPTER.validate_json(json.dumps(values), strict=strict, extra=extra)
    except ValidationError as error:
        raise ValueError(_describe(error)) from None


def _describe(error: ValidationError) -> str:
    """Name all unknown fields, or else the first field that is wrong."""
    faults = [(".".join(map(str, each["loc"])), each) for each in error.errors()]
    unknown = [field for field, each in faults if each["type"] == "unexpected_keyword_argument"]
    if unknown:
        return f"there is no field {', '.join(unknown)}"
    field, fault = faults[0]
    message = fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    return f"{field}: {message}" if field else message


def has_run(folder: Path) -> bool:
    """Return whether a run was started in the folder."""
    return (folder / CONFIG).exists()


def read_config(folder: Path) -> RunConfig:
    """Read the configuration that a run was started with.

    ValueError names the file and the field when the file is damaged or of another version.
    """
    path = folder / CONFIG
    try:
        config = _ADAPTER.validate_json(path.read_bytes(), strict=False)
    except ValidationError as error:
        raise ValueError(
            f"{path}: {_describe(error)}; restore the file or start a run in another folder"
        ) from None
    return replace(config, run_dir=str(folder))


def write_config(config: RunConfig) -> None:
    """Write the configuration into the run's folder; create the folder if need be."""
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, json.dumps(to_json(config), indent=2) + "\n")


def check_same_config(config: RunConfig) -> None:
    """Raise ValueError naming each field that differs from what the run was started with.

    The fields of EXECUTION may differ. A folder without a run accepts any configuration.
    """
    folder = Path(config.run_dir)
    if not has_run(folder):
        return
    if differences := find_differences(read_config(folder), config):
        raise ValueError(
            f"{folder}: the run was started with other settings: {'; '.join(differences)}. "
            "Leave these settings out to resume it, or name another folder with --run-dir"
        )


def find_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Describe each field that differs, with both values; the fields of EXECUTION are left out."""
    return list(_differences(to_json(old), to_json(new)))


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


def lock_run(config: RunConfig) -> None:
    """Keep other processes out of the run's folder until this process ends, also by a crash.

    Raises ValueError if another process trains there.
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
    # The descriptor stays open: closing it would release the lock.


def write_corpora(config: RunConfig, corpora: Corpora) -> None:
    """Write the ids of the corpora into the run's folder."""
    named = {"train": corpora.train, "valid": corpora.valid, "cloze": corpora.cloze}
    ids = {name: corpus and corpus.id for name, corpus in named.items()}
    write_text(Path(config.run_dir) / CORPORA, json.dumps(ids, indent=2) + "\n")


def check_same_corpus(config: RunConfig, corpora: Corpora) -> None:
    """Raise ValueError if the run was started with another training corpus.

    Its rows would be other ones: some sentences would repeat, others would be left out.
    """
    path = Path(config.run_dir) / CORPORA
    started = json.loads(path.read_bytes())["train"] if path.exists() else corpora.train.id
    if started != corpora.train.id:
        raise ValueError(
            f"{config.run_dir}: the run trains on corpus {started}, but {corpora.train.path} is "
            f"{corpora.train.id}; name the first corpus, or start another run with --run-dir"
        )
