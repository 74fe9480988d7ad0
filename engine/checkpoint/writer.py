"""Writes the checkpoints of a stage while training goes on.

A save has two halves. In the first, which training waits for, every rank copies its share of the
state to page-locked host memory: 12 bytes per parameter over the bus, divided by the number of
ranks. In the second, a thread of each rank writes its share, syncs and hashes it, and says so in a
file of its own; the first rank's thread waits for those files, adds state.json and gives the folder
its final name. So threads need no collective, and the order of those of the training stays.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from tresse.data.durable import commit, sync_path, synced_file
from tresse.data.store.tensor_file import checksum_file
from tresse.engine.batches import to_host
from tresse.engine.checkpoint.checkpoint import all_checkpoints, remove
from tresse.engine.checkpoint.state import State, TensorFile, folder_name, write_state
from tresse.engine.hugging_face import save_tensors, to_hf
from tresse.engine.run.config import CheckpointConfig
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.typed_json import from_json
from tresse.engine.sharding.full_state import full_state
from tresse.engine.sharding.shard import Engine

POLL_S = 0.02
GRACE_S = 60.0

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is complete, as far as this rank knows."""

    step: int
    stall_s: float
    """Seconds that training waited."""
    save_s: float
    """Seconds from the begin of the save to its end."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A rank's share of the training state in host memory."""

    model: Tensors
    """fp32 weights under the names of transformers."""
    optimizer: Tensors
    """Moments under KEY.NAME."""
    not_finite: list[str]
    """Tensors with values that are not finite."""


class Writer:
    """Writes checkpoints into the folder of a stage, one at a time.

    An error while one is written sets `has_failed`; `raise_failure`, `save` and `close` raise it on
    every rank. timeout_s: how long the first rank waits for what the others write.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, ranks: Ranks, timeout_s: float
    ) -> None:
        self._folder, self._config, self._ranks = folder, config, ranks
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tresse-checkpoint")
        self._pending: Future[Saved] | None = None
        self._saved: list[Saved] = []
        self._deadline_s = math.inf
        self._temporary = folder

    def save(self, engine: Engine, state: State) -> None:
        """Begin to write a checkpoint; a collective. Waits for the one before it.

        The files of `state` are filled in. When the checkpoint is complete, older ones are removed
        as `config` says. FloatingPointError when weights or moments are not finite; then nothing is
        written.
        """
        start_s = time.perf_counter()
        self._settle()
        snapshot = take_snapshot(engine, self._ranks)
        self._check_finite(snapshot, state)
        temporary = self._temporary = self._begin(state)
        stall_s = time.perf_counter() - start_s
        self._pending = self._thread.submit(
            self._write, snapshot, state, temporary, start_s, stall_s
        )

    def completed(self) -> list[Saved]:
        """Return the checkpoints that were completed since the last call."""
        if self._pending and self._pending.done() and not self.has_failed:
            self.wait()
        saved, self._saved = self._saved, []
        return saved

    def wait(self) -> None:
        """Wait until what this rank has to do for the last checkpoint is done."""
        if self._pending:
            pending, self._pending = self._pending, None
            self._saved.append(pending.result())

    @property
    def has_failed(self) -> bool:
        """True if this rank could not do its part of the last checkpoint."""
        pending = self._pending
        return pending is not None and pending.done() and pending.exception() is not None

    def raise_failure(self) -> NoReturn:
        """Raise this rank's error, or say that another rank has one."""
        if self.has_failed:
            self.wait()
        raise OSError("another rank could not write its share of a checkpoint")

    def close(self) -> None:
        """Wait until the last checkpoint is complete; a collective."""
        self._settle()
        self._thread.shutdown()

    def hurry(self) -> None:
        """Give the last checkpoint GRACE_S seconds to be completed, as the run has failed."""
        self._deadline_s = time.monotonic() + GRACE_S
        if self._pending is None:
            return
        with suppress(TimeoutError):
            self._pending.exception(GRACE_S)
        while not self._ranks.is_first and self._temporary.exists():  # the first rank is not done
            if time.monotonic() > self._deadline_s:
                return
            time.sleep(POLL_S)

    def _settle(self) -> None:
        """Wait until all ranks have done their part; an error of one is raised on all."""
        if self._pending is not None:
            self._pending.exception()
        if self._ranks.any(self.has_failed):
            self.raise_failure()
        self.wait()

    def _check_finite(self, snapshot: Snapshot, state: State) -> None:
        if not self._ranks.any(bool(snapshot.not_finite)):
            return
        broken = [name for names in self._ranks.gather(snapshot.not_finite) for name in names]
        raise FloatingPointError(
            f"stage {state.stage}, step {state.step}: {len(broken)} tensors are not finite, such "
            f"as {broken[0]}; this step was not saved, and the checkpoint before it stays"
        )

    def _begin(self, state: State) -> Path:
        """Make the temporary folder of a checkpoint; a collective."""
        final = self._folder / folder_name(state.step)
        temporary = final.with_name(final.name + ".tmp")
        if self._ranks.is_first:
            if final.exists():  # a broken one: otherwise the run would have resumed from it
                remove(final)
            for leftover in self._folder.glob("step-*.tmp"):
                shutil.rmtree(leftover)
            temporary.mkdir(parents=True)
        self._ranks.barrier()
        return temporary

    def _write(
        self, snapshot: Snapshot, state: State, temporary: Path, start_s: float, stall_s: float
    ) -> Saved:
        """Write this rank's share; on the first rank also the rest."""
        try:
            files = _write_share(snapshot, temporary, self._ranks)
        except Exception as error:
            _tell(temporary, self._ranks.rank, {"error": str(error)})
            raise
        _tell(temporary, self._ranks.rank, {"files": {n: asdict(f) for n, f in files.items()}})
        if self._ranks.is_first:
            files = self._wait_for_shares(temporary)
            write_state(temporary, replace(state, files=files))
            sync_path(temporary)
            final = temporary.with_suffix("")
            commit(temporary, final)
            self._prune(final)
        return Saved(state.step, stall_s, time.perf_counter() - start_s)

    def _wait_for_shares(self, temporary: Path) -> dict[str, TensorFile]:
        """Read what each rank has written, and remove the files that say so."""
        files: dict[str, TensorFile] = {}
        end_s = time.monotonic() + self._timeout_s
        for rank in range(self._ranks.world_size):
            path = _share_path(temporary, rank)
            while not path.exists():
                if time.monotonic() > min(end_s, self._deadline_s):
                    raise TimeoutError(
                        f"{temporary}: rank {rank} has not written its share in "
                        f"{self._timeout_s:g} s (--timeouts.save-s)"
                    )
                time.sleep(POLL_S)
            told = json.loads(path.read_text(encoding="utf-8"))
            if "error" in told:
                raise OSError(f"rank {rank}: {told['error']}")
            files |= from_json(dict[str, TensorFile], told["files"])
            path.unlink()
        return files

    def _prune(self, written: Path) -> None:
        """Remove old checkpoints, and newer ones: those are broken, as the run did not use them."""
        checkpoints = all_checkpoints(self._folder)
        position = checkpoints.index(written)
        older = checkpoints[position + self._config.keep :]
        for path in checkpoints[:position] + [p for p in older if not self._is_milestone(p)]:
            remove_if_possible(path)

    def _is_milestone(self, path: Path) -> bool:
        step, every = int(path.name.removeprefix("step-")), self._config.keep_every
        return step in self._config.at or bool(every and step % every == 0)


def take_snapshot(engine: Engine, ranks: Ranks) -> Snapshot:
    """Copy this rank's share of the training state to host memory; a collective."""
    model: Tensors = {}
    optimizer: Tensors = {}
    finite: dict[str, Tensor] = {}
    module = engine.module
    for name, tensors in _share(engine, ranks):
        for key, tensor in tensors.items():
            finite[f"{key} of {name}"] = tensor.isfinite().all()
            target, prefix = (model, "") if key == "weight" else (optimizer, f"{key}.")
            parts = to_hf({name: tensor}, module.config, module.vocab_used)
            target |= {prefix + part: to_host(x) for part, x in parts.items()}
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Snapshot(model, optimizer, [name for name, flag in finite.items() if not flag])


def _share(engine: Engine, ranks: Ranks) -> Iterator[tuple[str, Tensors]]:
    for position, item in enumerate(full_state(engine)):
        if position % ranks.world_size == ranks.rank:
            yield item


def _write_share(snapshot: Snapshot, folder: Path, ranks: Ranks) -> dict[str, TensorFile]:
    suffix = f"{ranks.rank + 1:05d}-of-{ranks.world_size:05d}.safetensors"
    files = {}
    for kind, content in (("model", snapshot.model), ("optimizer", snapshot.optimizer)):
        if content:
            path = folder / f"{kind}-{suffix}"
            save_tensors(content, path)
            files[path.name] = TensorFile(bytes=path.stat().st_size, xxh3=checksum_file(path))
    return files


def _share_path(folder: Path, rank: int) -> Path:
    return folder / f"share-{rank:05d}.json"


def _tell(folder: Path, rank: int, what: dict[str, object]) -> None:
    """Tell the first rank what this one has done, by a file that appears whole.

    The folder is not synced after that, as `write_text` would: once the file of the last rank is
    there, the first rank gives the folder another name.
    """
    path = _share_path(folder, rank)
    temporary = path.with_suffix(".tmp")
    with synced_file(temporary) as file:
        file.write(json.dumps(what).encode())
    temporary.replace(path)


def remove_if_possible(path: Path) -> None:
    """Remove a checkpoint; a warning where that fails, as the new one is complete."""
    try:
        remove(path)
    except OSError as error:
        logger.warning("%s: an old checkpoint that cannot be removed (%s)", path, error)
