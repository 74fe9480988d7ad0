"""Signs of life of every rank, and the end of a run that is stuck.

A thread of each rank writes what the rank does to RUN/ranks/RANK.json every few seconds. A rank
that takes longer for its work than `timeouts` allow, or waits so long for another, ends the run. It
names the rank that is to blame: one that gives no sign, or else one that is at something else than
the others. A rank whose collective fails names the rank that was lost, such as one of a node that
has died.
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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, NoReturn, Self

import torch.distributed as dist

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
        self._path = sign_path(self._folder, processes.rank())
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

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, RuntimeError) and is_of_collective(error):
            self._blame()
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
                flag = f"--timeouts.{name.replace('_', '-')}"
                stuck = describe(*self._signs())
                self._report(f"no progress for {limit_s:g} s ({flag}).\n{stuck}")
                self._end()
            signs, silent = self._signs() if self.interrupt.requested else ([], {})
            if silent:  # the others cannot save without it
                self._report(f"lost contact with other ranks.\n{describe_lost(signs, silent)}")
                self._end()

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

    def _blame(self) -> None:
        """End this process if ranks were lost, and name them; return if all give signs of life."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher may have lost contact too
        end_s = time.monotonic() + SILENT_S + 2 * BEAT_S
        while time.monotonic() < end_s:
            signs, silent = self._signs()
            ended = set(range(processes.world_size())) - {sign.rank for sign in signs}
            if silent or ended:
                lost = describe_lost(signs, silent, ended)
                self._report(f"lost contact with other ranks.\n{lost}")
                self._end()
            time.sleep(BEAT_S / 10)

    def _report(self, what: str) -> None:
        """Print why this run ends, unless another rank has done so."""
        try:
            os.close(os.open(self._folder / REPORTED, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            time.sleep(BEAT_S)  # let the other one print
            return
        except OSError:  # this node does not see the folder: say it here too
            pass
        print(
            f"error: {self._now[1] or 'start'}: {what}\nResume with --run-dir "
            f"{self._folder.parent}",
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

        The clock is that of the file system: those of several machines may differ. Each file is
        opened, as NFS then asks its server; what `stat` says of another node's file may be old.
        """
        signs: dict[int, Sign] = {}
        written: dict[int, float] = {}
        for rank in range(processes.world_size()):
            with suppress(FileNotFoundError), sign_path(self._folder, rank).open() as file:
                signs[rank] = Sign(**json.load(file))
                written[rank] = os.fstat(file.fileno()).st_mtime
        now = max(written.values(), default=0.0)
        ages = {rank: now - then for rank, then in written.items()}
        return list(signs.values()), {rank: age for rank, age in ages.items() if age > SILENT_S}


def sign_path(folder: Path, rank: int) -> Path:
    """Return the file in which a rank gives signs of life."""
    return folder / f"{rank:05d}.json"


def describe(signs: Sequence[Sign], silent: Mapping[int, float]) -> str:
    """Return which ranks the others wait for, as far as their signs tell.

    silent: seconds since the last sign of the ranks that have given none for long.
    """
    common = Counter(sign.work for sign in signs if sign.rank not in silent).most_common(1)
    blamed = [sign for sign in signs if sign.rank in silent]
    blamed = blamed or [sign for sign in signs if common and sign.work != common[0][0]]
    if not blamed or len(blamed) == len(signs) > 1:
        blamed = list(signs)
    lines = _shortened([_describe_sign(sign, silent) for sign in blamed])
    if len(blamed) < len(signs):
        work = common[0][0] if common else "the same"
        lines.append(f"The other {len(signs) - len(blamed)} wait: {work}")
    return "\n".join(lines)


def describe_lost(
    signs: Sequence[Sign], silent: Mapping[int, float], ended: Iterable[int] = ()
) -> str:
    """Return which ranks were lost: those that give no sign, and those that have ended."""
    lines = [_describe_sign(sign, silent) for sign in signs if sign.rank in silent]
    lines += [f"rank {rank} has ended; what it printed says why" for rank in sorted(ended)]
    return "\n".join(_shortened(lines))


def is_of_collective(error: RuntimeError) -> bool:
    """Return whether an error says that a collective has failed; gloo has no class for it."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def _describe_sign(sign: Sign, silent: Mapping[int, float]) -> str:
    age_s = silent.get(sign.rank)
    return (
        f"rank {sign.rank} (process {sign.pid} on {sign.host}): {sign.work}, for "
        f"{sign.phase_s + (age_s or 0):.0f} s"
        + (f", no sign of life for {age_s:.0f} s" if age_s is not None else "")
    )


def _shortened(lines: list[str]) -> list[str]:
    more = [f"... and {len(lines) - NUM_LISTED} more"] if len(lines) > NUM_LISTED else []
    return lines[:NUM_LISTED] + more
