"""Packs the steps of a stage ahead of the training loop, in one background thread."""

import itertools
import queue
import threading
from collections.abc import Generator
from typing import Generic, Protocol, TypeVar

import numpy as np

from tresse.data.packing.packer import Allocate

Packed = TypeVar("Packed", covariant=True)


class Pack(Protocol[Packed]):
    """A method that packs rows: `Plan.fill` or `Plan.copies`."""

    def __call__(
        self, first_row: int, num_rows: int, *, threads: int = 1, allocate: Allocate = np.empty
    ) -> Packed: ...


class Loader(Generic[Packed]):
    """Iterates over the steps of a plan from `first_step`; each step is a list of micro-batches.

    `pack` is the plan's `fill` or `copies`, `num_rows` its number of rows, `depth` the number of
    steps that are packed ahead. Step s takes rows [s * R, (s + 1) * R) of the plan, with
    R = rows_per_step. Rank r of W takes the r-th of W equal parts, in `micro_batches` of at most
    `micro_rows` rows. The rows of a step therefore do not depend on W, `threads` or `depth`, and a
    resumed run simply starts at another step.

    ValueError when R is not divisible by W.
    """

    def __init__(
        self,
        pack: Pack[Packed],
        num_rows: int,
        *,
        rows_per_step: int,
        micro_rows: int,
        rank: int = 0,
        world_size: int = 1,
        first_step: int = 0,
        threads: int = 1,
        depth: int = 2,
        allocate: Allocate = np.empty,
    ) -> None:
        self._sizes = micro_batches(rows_per_step, micro_rows, world_size)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} is not one of {world_size} ranks")
        if min(threads, depth) < 1 or first_step < 0:
            raise ValueError(
                f"threads={threads} and depth={depth} must be at least 1, "
                f"first_step={first_step} at least 0"
            )
        self.num_steps = count_steps(num_rows, rows_per_step)
        self._pack = pack
        self._rows_per_step = rows_per_step
        self._rank, self._world_size = rank, world_size
        self._first_step = first_step
        self._threads, self._depth, self._allocate = threads, depth, allocate

    def __len__(self) -> int:
        return max(self.num_steps - self._first_step, 0)

    def __iter__(self) -> Generator[list[Packed], None, None]:
        """Yield the steps in order. Leaving the loop early stops the background thread."""
        packed: queue.Queue[list[Packed] | BaseException] = queue.Queue(self._depth)
        stopped = threading.Event()
        worker = threading.Thread(
            target=self._pack_ahead, args=(packed, stopped), name="tresse-loader", daemon=True
        )
        worker.start()
        try:
            for _ in range(len(self)):
                step = packed.get()
                if isinstance(step, BaseException):
                    raise step
                yield step
        finally:
            stopped.set()
            while worker.is_alive():  # it may be waiting for room in the queue
                _drain(packed)
                worker.join(0.01)

    def step(self, step: int) -> list[Packed]:
        """Pack one step in the calling thread."""
        share = self._rows_per_step // self._world_size
        first = step * self._rows_per_step + self._rank * share
        starts = itertools.accumulate(self._sizes[:-1], initial=first)
        return [
            self._pack(row, size, threads=self._threads, allocate=self._allocate)
            for row, size in zip(starts, self._sizes, strict=True)
        ]

    def _pack_ahead(self, packed: queue.Queue, stopped: threading.Event) -> None:
        try:
            for step in range(self._first_step, self.num_steps):
                if stopped.is_set():
                    return
                packed.put(self.step(step))
        except BaseException as error:
            packed.put(error)


def count_steps(num_rows: int, rows_per_step: int) -> int:
    """Return the number of steps that the rows of a stage fill; the last may have fewer rows."""
    return -(-num_rows // rows_per_step)


def micro_batches(rows_per_step: int, micro_rows: int, world_size: int) -> list[int]:
    """Return the rows of each micro-batch of a rank: as few as can be, none larger than micro_rows.

    Their sizes differ by one row at most, the larger ones first: 75 rows are 38 + 37. ValueError if
    the ranks cannot share the rows of a step equally.
    """
    if min(rows_per_step, micro_rows, world_size) < 1:
        raise ValueError(
            f"rows_per_step={rows_per_step}, micro_rows={micro_rows} and world_size={world_size} "
            "must be at least 1"
        )
    share, rest = divmod(rows_per_step, world_size)
    if rest:
        raise ValueError(
            f"rows_per_step={rows_per_step} is not a multiple of {world_size} ranks; change "
            "--rows-per-step or the number of ranks"
        )
    number = -(-share // micro_rows)
    return [share // number + (i < share % number) for i in range(number)]


def _drain(packed: queue.Queue) -> None:
    while not packed.empty():
        packed.get_nowait()
