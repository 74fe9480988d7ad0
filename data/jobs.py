"""Jobs of hours that ranks share and that resume after a stop or a kill.

A job is a list of numbered groups of work, and an output folder `{out}` made of all their results.
Results are kept in the journal, the folder `{out}.parts`. It holds `job.json`, which describes
the job, and for each process a file of JSON lines, one for each finished group:

    ["9f86d081884c7d65", 17, {...}]

a checksum (xxh3_64 of what follows it), the number of the group, its result. A process appends to
its own file only, and never to a file that it found. So ranks share nothing but the file system,
and a later run may have another number of ranks. A line that a crash cut is not counted: its group
is done again.
"""

import fcntl
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import xxhash

from tresse.data.durable import check_vacant, commit, naming, sync, write_text
from tresse.data.interrupt import Interrupt
from tresse.data.lines import decode_json
from tresse.data.processes import rank

logger = logging.getLogger(__name__)

FILE, PREPARED = "job.json", "prepared.json"
HASH_END = len('["0123456789abcdef", ')

Result = dict[str, Any]
Results = Generator[Result, None, None]


def run_job(
    out: Path,
    job: Mapping[str, Any],
    num_groups: int,
    own: Sequence[int],
    work: Callable[[Sequence[int], Interrupt], Results],
    write: Callable[[Path, Iterator[Result]], None],
) -> str:
    """Do this rank's groups of a job, and write `out` when the groups of all ranks are finished.

    job: what the results depend on, JSON.
    own: numbers of this rank's groups, in the order in which it does them.
    work: yields the results of these groups in order; called with those that are not finished.
    write: fills a folder, which does not exist yet, from the results of all groups in order.
    Returns "" when this rank has written `out`, else the reason for not writing it.
    KeyboardInterrupt after a signal, when the current group is finished. ValueError when another
    job was begun there.
    """
    if not own:
        return "done; there are more ranks than groups"
    with Journal.open(parts_of(out), job, rank()) as journal, _keeping(journal.folder):
        todo = [number for number in own if number not in journal.finished]
        with Interrupt() as interrupt, closing(work(todo, interrupt)) as results:
            for number, result in zip(todo, results, strict=True):
                journal.append(number, result)
                stop_if_asked(interrupt)
        return _complete(out, num_groups, journal, write)


@contextmanager
def _keeping(folder: Path) -> Iterator[None]:
    """Say in an OSError, such as that of a full disk, that the finished work is kept."""
    try:
        yield
    except OSError as error:
        kept = f"finished work is kept in {folder}, and the same command resumes"
        raise type(error)(error.errno, f"{error.strerror}; {kept}", error.filename) from error


def parts_of(out: Path) -> Path:
    """Return the folder of the journal for the output folder `out`."""
    return out.with_name(f"{out.name}.parts")


def stop_if_asked(interrupt: Interrupt) -> None:
    """Raise KeyboardInterrupt, with advice for the user, when a signal has come."""
    if interrupt.requested:
        raise KeyboardInterrupt(
            "stopped; finished work is kept, and the same command resumes from there"
        )


def find_output(out: Path, job: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report that the same job wrote to `out` before; None when nothing is there.

    A late rank finds it too, when others have done its groups. ValueError when `out` holds
    anything else.
    """
    path = out / PREPARED
    if path.exists() and (report := read_own(path, "job"))["job"] == job:
        return report
    check_vacant(out)
    return None


def write_report(
    folder: Path,
    job: Mapping[str, Any],
    counts: Mapping[str, Any] | None = None,
) -> None:
    """Write the report that `find_output` reads."""
    write_text(folder / PREPARED, json.dumps({"job": job, **(counts or {})}, indent=1) + "\n")


def _complete(
    out: Path, num_groups: int, journal: "Journal", write: Callable[[Path, Iterator[Result]], None]
) -> str:
    """Write the output unless groups are missing or another process writes it."""
    journal.refresh()
    if missing := num_groups - len(journal.finished):
        return f"done; other ranks have not finished {missing} of {num_groups} groups"
    with journal.alone() as mine:
        if not mine or (out.exists() and any(out.iterdir())):
            return "done; another rank writes the output"
        for left in journal.folder.glob("output*"):
            shutil.rmtree(left)
        staged = journal.folder / "output"
        write(staged, journal.results(range(num_groups)))
        commit(staged, out)
        journal.remove()
    return ""


class _Place(NamedTuple):
    path: Path
    start: int
    length: int


class Journal:
    """The finished groups of a job; within its context this process may append to them."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self._rank = folder, rank
        self._places: dict[int, _Place] = {}
        self._read: dict[Path, int] = {}
        self._file: BinaryIO | None = None

    @staticmethod
    def open(folder: Path, job: Mapping[str, Any], rank: int) -> "Journal":
        """Begin a job, or resume the one that was begun there.

        job: what the results depend on, JSON. ValueError when another job was begun in the folder,
        or job.json is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        if not path.exists():
            write_text(path, json.dumps(job, indent=1))  # ranks that start at once write the same
        begun = read_own(path)
        for name in sorted({*begun, *job}):
            if begun.get(name) != job.get(name):
                raise ValueError(
                    f"{folder} holds the work of another run: {name} was {begun.get(name)}, is now "
                    f"{job.get(name)}; resume that run by its own command, or remove the folder"
                )
        journal = Journal(folder, rank)
        journal.refresh()
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def finished(self) -> set[int]:
        """Numbers of the groups that were finished at the last look."""
        return set(self._places)

    def refresh(self) -> None:
        """Read what this and other processes have appended since."""
        for path in sorted(self.folder.glob("*.jsonl")):
            start = self._read.get(path, 0)
            try:
                file = path.open("rb")
            except FileNotFoundError:  # meanwhile another process has completed the job
                return
            with file:
                file.seek(start)
                for line in file:
                    if line.endswith(b"\n"):  # else its writer has not ended it, or was killed
                        self._note(path, start, line)
                        start += len(line)
            self._read[path] = start

    def append(self, number: int, result: Mapping[str, Any]) -> None:
        """Add the result of a finished group; it is on the disk when this returns."""
        body = f"{number}, {json.dumps(result, separators=(',', ':'))}]".encode()
        line = f'["{xxhash.xxh3_64_hexdigest(body)}", '.encode() + body + b"\n"
        if self._file is None:
            name = f"{self._rank:05d}-{secrets.token_hex(4)}.jsonl"
            self._file = (self.folder / name).open("xb")
        with naming(Path(self._file.name)):
            self._file.write(line)
            self._file.flush()
            sync(self._file.fileno())

    def results(self, numbers: Iterable[int]) -> Iterator[Result]:
        """Yield results of finished groups in the order of the numbers, reading one at a time."""
        for number in numbers:
            place = self._places[number]
            with place.path.open("rb") as file:
                file.seek(place.start)
                yield json.loads(file.read(place.length))[2]

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Yield True in one process at a time, False in others; a process that dies leaves it."""
        try:
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process has completed the job and removed the folder
            yield False
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield self.folder.exists()
        except BlockingIOError:
            yield False
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Remove the folder when the output is complete; for other processes it is gone at once."""
        gone = self.folder.with_name(f"{self.folder.name}.{secrets.token_hex(4)}.tmp")
        self.folder.rename(gone)
        shutil.rmtree(gone)

    def _note(self, path: Path, start: int, line: bytes) -> None:
        body = line[HASH_END:-1]
        if line[2:18] != xxhash.xxh3_64_hexdigest(body).encode():
            logger.warning("%s: damaged at byte %d; that work is done again", path, start)
            return
        number = int(body.split(b",", 1)[0])
        self._places.setdefault(number, _Place(path, start, len(line)))


def read_own(path: Path, *fields: str) -> dict[str, Any]:
    """Read the JSON object that a job wrote; ValueError when it is damaged or lacks a field."""
    try:
        found = decode_json(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        if missing := [field for field in fields if field not in found]:
            raise ValueError(f"field {missing[0]!r} is missing")
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged ({error}); restore the file, or remove {path.parent} to begin anew"
        ) from None
    return found
