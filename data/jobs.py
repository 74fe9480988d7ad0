"""What the ranks of a long job have finished, so that a killed one goes on where it was.

A job is a list of numbered groups of work. Its folder, `{out}.parts`, holds `job.json`, which says
what is being made of what, and a file per process of JSON lines, one for each finished group:

    ["9f86d081884c7d65", 17, {...}]

a checksum (xxh3_64 of what follows it), the number, the result. A process only appends to its own
file and never to one that it found, so that ranks share nothing but the file system, and a new run
may have another number of them. A line that was cut by a crash is not counted: its group is done
again.
"""

import fcntl
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import xxhash

from tresse.data.durable import sync, write_text
from tresse.data.lines import decode_json

logger = logging.getLogger(__name__)

FILE = "job.json"
HASH_END = len('["0123456789abcdef", ')


class _Place(NamedTuple):
    path: Path
    start: int
    length: int


class Journal:
    """The finished groups of a job; a context, in which this process may append."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self._rank = folder, rank
        self._places: dict[int, _Place] = {}
        self._read: dict[Path, int] = {}
        self._file: BinaryIO | None = None

    @staticmethod
    def open(folder: Path, job: Mapping[str, Any], rank: int) -> "Journal":
        """Begin a job, or go on with one that was begun there.

        job: what the results depend on, JSON. ValueError when another job was begun in the folder,
        or its file is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        if not path.exists():
            write_text(path, json.dumps(job, indent=1))  # every rank writes the same
        begun = read_own(path)
        for name in sorted({*begun, *job}):
            if begun.get(name) != job.get(name):
                raise ValueError(
                    f"{folder} holds what another run has finished: {name} was {begun.get(name)}, "
                    f"is {job.get(name)}; go on with the same command, or remove the folder"
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
        """Numbers of the groups that were finished when last looked."""
        return set(self._places)

    def refresh(self) -> None:
        """Look at what has been appended, here and by other processes."""
        for path in sorted(self.folder.glob("*.jsonl")):
            start = self._read.get(path, 0)
            try:
                file = path.open("rb")
            except FileNotFoundError:  # another process has completed the job meanwhile
                return
            with file:
                file.seek(start)
                for line in file:
                    if line.endswith(b"\n"):  # else its writer is at it, or is no more
                        self._note(path, start, line)
                        start += len(line)
            self._read[path] = start

    def append(self, number: int, result: Mapping[str, Any]) -> None:
        """Add a finished group; it is on the disk when this returns."""
        body = f"{number}, {json.dumps(result, separators=(',', ':'))}]".encode()
        line = f'["{xxhash.xxh3_64_hexdigest(body)}", '.encode() + body + b"\n"
        if self._file is None:
            name = f"{self._rank:05d}-{secrets.token_hex(4)}.jsonl"
            self._file = (self.folder / name).open("xb")
        self._file.write(line)
        self._file.flush()
        sync(self._file.fileno())

    def results(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Results of finished groups, one at a time, in the order of the numbers."""
        for number in numbers:
            place = self._places[number]
            with place.path.open("rb") as file:
                file.seek(place.start)
                yield json.loads(file.read(place.length))[2]

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this process is the only one in such a context; a process that dies leaves it."""
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
        """Remove the folder, in one step for others, when the job's output is complete."""
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
