"""The folder of a run: its configuration on disk, its lock, and the ids of its corpora.

runs/NAME/config.json      the resolved configuration
runs/NAME/changes.jsonl    what resumed runs changed in the training
runs/NAME/corpora.json     ids of the corpora
runs/NAME/starts.jsonl     code, machine and plan of each start (engine/run/provenance.py)
runs/NAME/metrics.jsonl    a record per step and per measurement of the held-out loss
runs/NAME/ranks/           what each rank does now (engine/run/watch.py)
runs/NAME/tensorboard/     the same numbers as TensorBoard events
runs/NAME/wandb/           id and files of Weights & Biases (--log wandb)
runs/NAME/STAGE/           checkpoints (engine/checkpoint/) and scores (engine/scoring/score.py)
runs/NAME/table.json       cloze accuracies of all stages (engine/scoring/report.py)
"""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from tresse.data.durable import write_text
from tresse.data.lines import decode_json, parse_records
from tresse.engine.run.config import RunConfig
from tresse.engine.run.corpora import Corpora
from tresse.engine.run.typed_json import Record, from_json, to_json
from tresse.engine.run.watch import FOLDER as SIGNS

logger = logging.getLogger(__name__)

CONFIG, CORPORA, CHANGES, LOCK = "config.json", "corpora.json", "changes.jsonl", ".lock"

# Fields that may change when a run resumes: they change neither a row nor the loss of a step, up to
# rounding. A corpus may move to another folder: `check_same_corpus` compares its content.
EXECUTION = (
    "run_dir",
    "micro_rows",
    "recompute_layers",
    "compile",
    "checkpoint.",
    "log",
    "valid_every",
    "score_every",
    "score_items",
    "truncate_prompt",
    "sharding.zero_stage",
    "sharding.offload_optimizer",
    "kernels.",
    "timeouts.",
    "data.corpus",
    "data.valid",
    "data.cloze",
    "data.threads",
    "data.pack_on",
)

# Targets of a stage, and a stage.
LENGTH, ADDED = re.compile(r"stages\.(\d+)\.(?:tokens|stop_after)"), re.compile(r"stages\.\d+")


def has_run(folder: Path) -> bool:
    """Return whether a run was started in the folder."""
    return (folder / CONFIG).exists()


def read_config(folder: Path) -> RunConfig:
    """Read the configuration that a run was started with.

    ValueError names the file and the field when the file is damaged or of another version.
    """
    path = folder / CONFIG
    try:
        config = from_json(RunConfig, decode_json(path.read_bytes()))
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}; restore the file or start a run in another folder"
        ) from None
    return replace(config, run_dir=str(folder))


def write_config(config: RunConfig) -> None:
    """Write the configuration into the run's folder; create the folder if need be."""
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, json.dumps(to_json(config), indent=2) + "\n")


class Difference(NamedTuple):
    """A field that two configurations differ in, and its values as JSON."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if ADDED.fullmatch(self.field):
            added = self.old is None
            stage = self.new if added else self.old
            return f"stage {stage['name']} was {'added' if added else 'removed'}"
        if isinstance(self.old, list) and isinstance(self.new, list):
            return f"{self.field} had {len(self.old)} entries, now {len(self.new)}"
        return f"{self.field} was {json.dumps(self.old)}, now {json.dumps(self.new)}"

    @property
    def is_allowed(self) -> bool:
        """True for a change of the training that a resumed run may make.

        It gets past a spike, or trains longer: more targets in a stage, more stages.
        """
        if self.field == "optim.lr":
            return self.new < self.old
        if LENGTH.fullmatch(self.field):
            # stop_after is 0 for no end before the last target
            return bool(self.old) and (self.new == 0 or self.new > self.old)
        return self.is_added_stage or self.field.startswith("spikes.")

    @property
    def is_of_stages(self) -> bool:
        """True if the field is a stage or belongs to one."""
        return self.field.startswith("stages.")

    @property
    def is_added_stage(self) -> bool:
        """True if the field is a stage after those that there were."""
        return ADDED.fullmatch(self.field) is not None and self.old is None

    @property
    def longer_stage(self) -> int | None:
        """Position of the stage whose number of targets changes; None for another change."""
        match = LENGTH.fullmatch(self.field)
        return int(match[1]) if match else None


def find_differences(old: RunConfig, new: RunConfig) -> list[Difference]:
    """Return the fields that differ, but for those of EXECUTION."""
    return list(_differences(to_json(old), to_json(new)))


def find_changes(config: RunConfig) -> list[Difference]:
    """Return what a configuration changes in the training of the run in its folder.

    The fields of EXECUTION may differ, and a folder without a run accepts any configuration.
    ValueError names each change that a resumed run may not make.
    """
    folder = Path(config.run_dir)
    if not has_run(folder):
        return []
    changes = find_differences(read_config(folder), config)
    if refused := [str(each) for each in changes if not each.is_allowed]:
        raise ValueError(
            f"{folder}: the run was started with other settings: {'; '.join(refused)}. "
            "Leave these settings out to resume it, or name another folder with --run-dir; "
            "of the training, only a lower --optim.lr, the policy for spikes, more tokens of a "
            "stage and stages after the last may change"
        )
    return changes


def check_trained(config: RunConfig, path: Path, trained: RunConfig) -> None:
    """Raise ValueError if config.json no longer says what the checkpoint at `path` says.

    Fields may differ as a line of changes.jsonl says.
    """
    folder = Path(config.run_dir)
    if not has_run(folder):
        return
    made = [(change["field"], change["new"]) for change in read_changes(folder)]
    differences = find_differences(trained, read_config(folder))
    added = {field for field, _ in made if ADDED.fullmatch(field)}
    if wrong := [
        str(each)
        for each in differences
        if (each.field, each.new) not in made and each.field not in added
    ]:
        raise ValueError(
            f"{folder / CONFIG}: differs from what {path} was trained with: {'; '.join(wrong)}. "
            "Restore the file"
        )


def read_changes(folder: Path) -> list[Record]:
    """Return what resumed runs have changed in the training: field, old and new value."""
    path = folder / CHANGES
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    records = parse_records((f"{path}:{number}", line) for number, line in enumerate(lines, 1))
    return [record for _, record in records]


def write_changes(config: RunConfig, changes: Sequence[Difference]) -> None:
    """Add to the list of changes."""
    folder = Path(config.run_dir)
    if changes:
        records = [*read_changes(folder), *(change._asdict() for change in changes)]
        write_text(folder / CHANGES, "".join(json.dumps(record) + "\n" for record in records))


def _differences(old: Any, new: Any, field: str = "") -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from _differences(old.get(key), new.get(key), f"{field}.{key}".lstrip("."))
    elif (
        isinstance(old, list)
        and isinstance(new, list)
        and (field == "stages" or len(old) == len(new))
    ):
        for position, pair in enumerate(zip_longest(old, new)):
            yield from _differences(*pair, f"{field}.{position}")
    elif old != new and not field.startswith(EXECUTION):
        yield Difference(field, old, new)


def lock_run(config: RunConfig) -> None:
    """Keep other processes out of the run's folder until this process ends, also by a crash.

    Raises ValueError if another process trains there.
    """
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 1000).decode(errors="replace") or "another process"
        raise ValueError(
            f"{folder}: {holder} trains there; stop it first, or name another --run-dir"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        logger.warning("%s: no locks here (%s); let no other run train there", folder, error)
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    # The descriptor stays open: closing it would release the lock.


def discard_if_new(config: RunConfig) -> None:
    """Remove the folder of a run that was refused before it began, if nothing of use is in it."""
    folder = Path(config.run_dir)
    if has_run(folder):
        return
    shutil.rmtree(folder / SIGNS, ignore_errors=True)
    (folder / LOCK).unlink(missing_ok=True)
    with suppress(OSError):  # it holds a story world
        folder.rmdir()


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
    if path.exists():
        check_corpus_id(corpora, _read_train_id(path), config.run_dir)


def check_corpus_id(corpora: Corpora, trained: str, what: str | Path) -> None:
    """Raise ValueError if `what`, a run or a checkpoint, was trained on another corpus."""
    if trained != corpora.train.id:
        raise ValueError(
            f"{what}: trained on the corpus {trained}, but {corpora.train.name} is "
            f"{corpora.train.id}; name the first corpus, or start another run with --run-dir"
        )


def _read_train_id(path: Path) -> str:
    try:
        ids = decode_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); restore the file") from None
    if not isinstance(ids, dict) or not isinstance(ids.get("train"), str):
        raise ValueError(f"{path}: expected an object with the id of 'train'; restore the file")
    return ids["train"]
