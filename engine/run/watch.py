"""Signs of life of every rank, and the end of a run that is stuck.

A thread of each rank writes what the rank does to RUN/ranks/RANK.json every few seconds. A rank
that takes longer for its work than `timeouts` allow, or waits so long for another, ends the run. It
names the rank that is to blame: one that gives no sign, or else one that is at something else than
the others.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, NoReturn, Self

from tresse.data import processes
from tresse.data.interrupt import Interrupt
from tresse.engine.run.config import TimeoutsConfig

logger = logging.getLogger(__name__)

FOLDER, REPORTED = "ranks", "reported"
BEAT_S = 2.0
SILENT_S = 4 * BEAT_S
NUM_LISTED = 8

Phase = Literal["start", "rows", "step", "held-out loss", "save", "scoring"]


@dataclass(frozen=True, slots=True)
class Sign:
    """What a rank did when it last gave a sign."""

    rank: int
    host: str
    pid: int
    phase: Phase
    place: str
    """Stage and step."""
    phase_s: float
    """Seconds in this phase."""

    @property
    def work(self) -> str:
        """The phase and its place."""
        return f"{self.place}: {self.phase}" if self.place else self.phase


class Watch:
    """Keeps the time of what this rank does; `enter` says what that is.

    Nobody watches outside its context.
    """

    def __init__(self, run_dir: Path = Path(), timeouts: TimeoutsConfig | None = None) -> None:
        self._folder, self._timeouts = run_dir / FOLDER, timeouts or TimeoutsConfig()
        self._parent, self._ended = os.getppid(), threading.Event()
        self._path = self._folder / f"{processes.rank():05d}.json"
        self._steps = 0
        self.interrupt = Interrupt()
        """The request to stop, if there is one."""
        self.enter("start")

    def enter(self, phase: Phase, place: str = "") -> None:
        """Begin some work; its time starts anew, also if it is the same work again."""
        self._steps += phase == "step"
        self._now = (phase, place, time.monotonic())

    @property
    def place(self) -> str:
        """The stage and the step that this rank is at."""
        return self._now[1]

    def __enter__(self) -> Self:
        if processes.rank() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / REPORTED).unlink(missing_ok=True)
        self._write()
        threading.Thread(target=self._watch, name="tresse-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._path.unlink(missing_ok=True)

    @property
    def collective_timeout(self) -> timedelta:
        """Time-out of collectives: longer than all others, as those know more to report."""
        times = self._timeouts
        return timedelta(seconds=60 + max(times.start_s, times.step_s, times.save_s))

    def limit(self) -> tuple[str, float]:
        """Return the field of `timeouts` that holds now, and its seconds.

        The first step compiles, and so has the time of a start.
        """
        phase = self._now[0]
        name = "save_s" if phase == "save" else "step_s"
        if phase == "start" or self._steps < 2:
            name = "start_s"
        return name, getattr(self._timeouts, name)

    def _watch(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self._write()
            except OSError as error:  # the work itself will say more
                logger.warning("%s: no sign of life written (%s)", self._folder, error)
            if "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != self._parent:
                self._parent = os.getppid()
                os.kill(os.getpid(), signal.SIGTERM)  # torchrun is gone: save and end
            name, limit_s = self.limit()
            if time.monotonic() - self._now[2] > limit_s:
                self._report(name, limit_s)
                self._end()
            if self.interrupt.requested and self._signs()[1]:
                self._end()  # a rank has died: the others cannot save without it

    def _write(self) -> None:
        if not self._folder.exists():  # the first rank has not come so far
            return
        phase, place, since = self._now
        sign = Sign(
            processes.rank(),
            socket.gethostname(),
            os.getpid(),
            phase,
            place,
            time.monotonic() - since,
        )
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(sign)))
        temporary.replace(self._path)

    def _report(self, name: str, limit_s: float) -> None:
        """Print what this run waits for, unless another rank has done so."""
        try:
            os.close(os.open(self._folder / REPORTED, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            time.sleep(BEAT_S)  # let the other one print
            return
        print(
            f"error: {self._now[1] or 'start'}: no progress for {limit_s:g} s "
            f"(--timeouts.{name.replace('_', '-')}).\n{describe(*self._signs())}\n"
            f"Resume with --run-dir {self._folder.parent}",
            file=sys.stderr,
            flush=True,
        )

    def _end(self) -> NoReturn:
        """End this process, and those of this machine that give no sign, as torchrun would wait."""
        signs, silent = self._signs()
        for sign in signs:
            if sign.rank in silent and sign.host == socket.gethostname():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(sign.pid, signal.SIGKILL)
        os._exit(1)

    def _signs(self) -> tuple[list[Sign], dict[int, float]]:
        """Read the signs of all ranks, and the age of each that is old, by rank, in seconds.

        The clock is that of the file system: those of several machines may differ.
        """
        files = {
            path: path.stat().st_mtime
            for path in sorted(self._folder.glob("*.json"))
            if int(path.stem) < processes.world_size()
        }
        now = max(files.values())
        signs = [Sign(**json.loads(path.read_text())) for path in files]
        ages = {int(path.stem): now - written for path, written in files.items()}
        return signs, {rank: age for rank, age in ages.items() if age > SILENT_S}


def describe(signs: Sequence[Sign], silent: Mapping[int, float]) -> str:
    """Return which ranks the others wait for, as far as their signs tell.

    silent: seconds since the last sign of the ranks that have given none for long.
    """
    common = Counter(sign.work for sign in signs if sign.rank not in silent).most_common(1)
    blamed = [sign for sign in signs if sign.rank in silent]
    blamed = blamed or [sign for sign in signs if common and sign.work != common[0][0]]
    if not blamed or len(blamed) == len(signs) > 1:
        blamed = list(signs)
    lines = [
        f"rank {sign.rank} (process {sign.pid} on {sign.host}): {sign.work}, for "
        f"{sign.phase_s + silent.get(sign.rank, 0):.0f} s"
        + (f", no sign of life for {silent[sign.rank]:.0f} s" if sign.rank in silent else "")
        for sign in blamed[:NUM_LISTED]
    ]
    if len(blamed) > NUM_LISTED:
        lines.append(f"... and {len(blamed) - NUM_LISTED} more")
    if len(blamed) < len(signs):
        work = common[0][0] if common else "the same"
        lines.append(f"The other {len(signs) - len(blamed)} wait: {work}")
    return "\n".join(lines)
