"""Records that cannot be used: the first one ends the work, or all are left out, and listed.

    {"key": "0001", "lang": "fr", "where": "train.jsonl:12", "reason": "sentence 3 is empty"}

is a line of skipped.jsonl, which lies beside what was written; no file means that nothing was left
out. Records that contradict each other always end the work.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from tresse.data.durable import write_text
from tresse.data.lines import parse_record, read_lines

OnFault = Literal["stop", "skip"]
FILE = "skipped.jsonl"
NUM_SHOWN = 10
TWICE = "is there twice"

logger = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")


class ContradictionError(ValueError):
    """Two records that contradict each other: either may be the wrong one, so both may be."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that was left out."""

    key: str
    """Key of its document; empty if the record does not say it."""
    lang: str
    where: str
    """Place of the record: "train.jsonl:12"."""
    reason: str


class LeftOut:
    """The records of one command that cannot be used."""

    def __init__(self, on_fault: OnFault = "stop", *, shows: bool = True) -> None:
        """shows: warn of the first ones; of several processes that find the same one does."""
        self.on_fault, self._shows = on_fault, shows
        self.faults: list[Fault] = []
        self.num_read = 0
        """Number of records, those included that are left out."""

    def add(self, where: str, reason: str, key: str = "", language: str = "") -> None:
        """Leave out a record; ValueError if the first one ends the work."""
        if self.on_fault == "stop":
            raise ValueError(
                f"{where}: {reason}; correct it, or leave such records out (--on-fault skip)"
            )
        self.faults.append(Fault(key, language, where, reason))
        if self._shows and len(self.faults) <= NUM_SHOWN:
            logger.warning("left out %s: %s", where, reason)
        if self._shows and len(self.faults) == NUM_SHOWN:
            logger.warning("further records that are left out are not shown")

    def keeps(self, where: str, key: str, language: str, fault: str) -> bool:
        """Return True for a document without fault, False for one that is left out.

        ContradictionError when a sentence is there twice.
        """
        if fault.endswith(TWICE):
            raise ContradictionError(f"{where}: document {key!r} ({language}): {fault}")
        if fault:
            self.add(where, f"document {key!r} ({language}): {fault}", key, language)
        return not fault

    def parsed(
        self, records: Iterable[tuple[str, A]], parse: Callable[[A], B]
    ) -> Iterator[tuple[str, B]]:
        """Yield the place of each record and what it means, but for those that are left out.

        parse: raises ValueError for a record that cannot be used.
        """
        for where, record in records:
            self.num_read += 1
            yield from self._try(where, record, parse)

    def parsed_lines(
        self, files: Sequence[Path], parse: Callable[[dict[str, Any]], B]
    ) -> Iterator[tuple[str, B]]:
        """Yield the same of JSON lines; empty lines do not count."""
        for where, line in read_lines(files):
            if line.strip():
                self.num_read += 1
                for _, record in self._try(where, line, parse_record):
                    yield from self._try(where, record, parse)

    def _try(self, where: str, record: A, parse: Callable[[A], B]) -> Iterator[tuple[str, B]]:
        """Yield the place of a record and what it means, or nothing if it is left out."""
        try:
            found = parse(record)
        except ContradictionError as error:
            raise ContradictionError(f"{where}: {error}") from None
        except ValueError as error:
            self.add(where, str(error), *_identity(record))
        else:
            yield where, found

    def write(self, folder: Path) -> None:
        """Write skipped.jsonl into a folder, if anything was left out."""
        write_faults(folder, self.faults)

    def describe(self, num_written: int, folder: Path) -> str:
        """Return a line for the end of the command: read, written, left out, and why."""
        line = f"{self.num_read:,} records read, {num_written:,} documents written"
        if not self.faults:
            return line
        return f"{line}, {len(self.faults):,} records left out (why: {folder / FILE})"


def write_faults(folder: Path, faults: Sequence[Fault]) -> None:
    """Write skipped.jsonl into a folder, if there are any faults."""
    if faults:
        lines = (json.dumps(asdict(fault), ensure_ascii=False) for fault in faults)
        write_text(folder / FILE, "".join(f"{line}\n" for line in lines))


def _identity(record: object) -> tuple[str, str]:
    """Return key and language of a JSON object, as far as it has them."""
    if not isinstance(record, dict):
        return "", ""
    key, language = record.get("key"), record.get("lang")
    return key if isinstance(key, str) else "", language if isinstance(language, str) else ""
