"""Recordings: documents in one language that are still audio, and the manifest that lists them.

JSON lines or CSV, one line per file:

    {"path": "en/0001.flac", "key": "0001", "lang": "en", "sentences": [[0, 2.4], [2.4, 5.1]]}
    {"path": "fr/0001-0.wav", "key": "0001", "lang": "fr", "sentence": 0}

`sentences` are times in seconds in a longer recording, `sentence` is a number where every sentence
has a file of its own; without either the file is one sentence. `path` is relative to the manifest.
In CSV the cell of `sentences` holds its JSON. Recordings of different languages with the same key
are translations of each other, sentence by sentence.
"""

import csv
import errno
import math
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from tresse.data.lines import check_fields, check_files, decode_json, read_records
from tresse.data.naming import check_language

REQUIRED, OPTIONAL = ("path", "key", "lang"), ("sentence", "sentences")


class Source(Protocol):
    """Where the bytes of an audio file are. `str` names it in messages and must never change."""

    def num_bytes(self) -> int:
        """Size without opening it; OSError when it is not there."""
        ...

    def open(self) -> str | BinaryIO:
        """Path or binary file to decode; OSError when it is not there."""
        ...


@dataclass(frozen=True, slots=True)
class File:
    """An audio file."""

    path: str

    def __str__(self) -> str:
        return self.path

    def num_bytes(self) -> int:
        """Size without opening it."""
        return Path(self.path).stat().st_size

    def open(self) -> str | BinaryIO:
        """Path: libsndfile reads it without Python in between."""
        # An OSError says more than libsndfile's "System error", and a pipe would never end.
        if not stat.S_ISREG(Path(self.path).stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return self.path


@dataclass(frozen=True, slots=True)
class TarMember:
    """An audio file within an uncompressed tar, found once and then read without scanning."""

    tar: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}:{self.name}"

    def num_bytes(self) -> int:
        """Size without opening it."""
        return self.size

    def open(self) -> str | BinaryIO:
        """Its bytes."""
        with Path(self.tar).open("rb") as file:
            file.seek(self.offset)
            return BytesIO(file.read(self.size))


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an audio file: a sentence."""

    source: Source
    start: float = 0.0
    """Seconds."""
    end: float | None = None
    """Seconds, or None for the end of the file."""

    @property
    def seconds(self) -> float | None:
        """Its length, where it is known without opening the file."""
        return None if self.end is None else self.end - self.start


@dataclass(frozen=True, slots=True)
class Recording:
    """One document in one language; recordings that share a key are translations of each other."""

    key: str
    language: str
    sentences: tuple[Span, ...]
    """At least one."""
    where: str = ""
    """Where it was listed, for messages: "train.jsonl:12"."""

    def __str__(self) -> str:
        return f"{self.language}/{self.key}"


def read_recordings(paths: Sequence[str | Path]) -> list[Recording]:
    """The recordings of one or more manifests, in the order of their first lines.

    ValueError names file and line: not JSON or CSV, fields missing, unknown or of another type,
    times that do not increase, sentences that are not 0 .. n-1, what `check_recordings` finds.
    Whether the files exist, and are long enough, shows when they are read.
    """
    pieces: dict[tuple[str, str], _Pieces] = {}
    for path in check_files(paths, "manifest"):
        folder = path.resolve().parent
        records = _read_csv(path) if path.suffix.lower() == ".csv" else read_records([path])
        for where, record in records:
            try:
                _add(pieces, record, folder, where)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
    return [own.recording(*identity) for identity, own in pieces.items()]


def check_recordings(recordings: Iterable[Recording]) -> None:
    """Raise ValueError when a key occurs twice in a language or its translations differ in length.

    This is known before hours of audio are tokenised; `write_corpus` would find it after.
    """
    seen: dict[tuple[str, str], Recording] = {}
    first: dict[str, Recording] = {}
    for recording in recordings:
        former = seen.setdefault((recording.language, recording.key), recording)
        if former is not recording:
            raise ValueError(
                f"{recording.where}: key {recording.key!r} is in {recording.language} already "
                f"({former.where})"
            )
        other = first.setdefault(recording.key, recording)
        if len(other.sentences) != len(recording.sentences):
            raise ValueError(
                f"{recording.where}: {recording} has {len(recording.sentences)} sentences, its "
                f"translation {other} ({other.where}) has {len(other.sentences)}; correct them, "
                "or leave such keys out (--skip-misaligned)"
            )


def list_tar(path: str | Path) -> Iterator[TarMember]:
    """The files in an uncompressed tar, in order; reads headers only."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    yield TarMember(str(path), member.name, member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{path}: cannot be read as an uncompressed tar ({error})") from None


@dataclass(slots=True)
class _Pieces:
    """The lines of one document so far."""

    where: str
    spans: list[Span] | None
    numbered: dict[int, tuple[Span, str]]

    def recording(self, language: str, key: str) -> Recording:
        if self.spans is None:
            for number, (found, (_, where)) in enumerate(sorted(self.numbered.items())):
                if found != number:
                    raise ValueError(
                        f"{where}: key {key!r} ({language}) has sentence {found} but no sentence "
                        f"{number}; expected 0 to {len(self.numbered) - 1}, each once"
                    )
            self.spans = [self.numbered[number][0] for number in range(len(self.numbered))]
        return Recording(key, language, tuple(self.spans), self.where)


def _add(
    pieces: dict[tuple[str, str], _Pieces], record: dict[str, Any], folder: Path, where: str
) -> None:
    _check_fields(record)
    source = File(str(folder / record["path"]))
    identity = (check_language(record["lang"]), record["key"])
    number = record.get("sentence")
    former = pieces.get(identity)
    if number is None:
        if former is not None:
            raise ValueError(
                f"key {identity[1]!r} is in {identity[0]} already ({former.where}); files of one "
                "document need a field 'sentence' each"
            )
        pieces[identity] = _Pieces(where, _spans(source, record.get("sentences")), {})
        return
    if former is None:
        former = pieces[identity] = _Pieces(where, None, {})
    if former.spans is not None or number in former.numbered:
        other = former.where if former.spans is not None else former.numbered[number][1]
        raise ValueError(
            f"sentence {number} of key {identity[1]!r} ({identity[0]}) is there already ({other})"
        )
    former.numbered[number] = (Span(source), where)


def _check_fields(record: dict[str, Any]) -> None:
    check_fields(record, REQUIRED, OPTIONAL)
    for name in REQUIRED:
        if not isinstance(record[name], str) or not record[name]:
            raise ValueError(f"{name} is {record[name]!r}, expected text")
    if not _can_be_path(record["path"]):
        raise ValueError(
            f"path is {record['path']!r}, expected the name of a file, without NUL characters and "
            "halves of surrogate pairs"
        )
    if len(set(OPTIONAL) & set(record)) == 2:
        raise ValueError("both 'sentence' and 'sentences'; the first is for a file per sentence")
    number = record.get("sentence", 0)
    if type(number) is not int or number < 0:
        raise ValueError(f"sentence is {number!r}, expected a number from 0")


def _can_be_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _spans(source: Source, times: Any) -> list[Span]:
    """Check [[start, end], ...] in seconds."""
    if times is None:
        return [Span(source)]
    if not isinstance(times, list) or not times:
        raise ValueError(f"sentences is {times!r}, expected [[start, end], ...] in seconds")
    spans, before = [], 0.0
    for i, pair in enumerate(times):
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(type(t) in (int, float) and math.isfinite(t) for t in pair):
            raise ValueError(f"sentence {i} is {pair!r}, expected [start, end] in seconds")
        if not before <= pair[0] < pair[1]:
            raise ValueError(
                f"sentence {i} is {pair}, expected a start from {before} on and a later end"
            )
        spans.append(Span(source, float(pair[0]), float(pair[1])))
        before = pair[1]
    return spans


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows as the JSON lines would have them; an empty cell is an absent field."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            _check_columns(path, reader.fieldnames)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(f"{where}: not as many cells as the header has")
                record: dict[str, Any] = {name: cell for name, cell in row.items() if cell}
                for name in set(OPTIONAL) & set(record):
                    try:
                        record[name] = decode_json(record[name].encode())
                    except ValueError:
                        raise ValueError(
                            f"{where}: {name} is {record[name]!r}, expected JSON"
                        ) from None
                yield where, record
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{reader.line_num + 1}: not CSV in UTF-8: {error}") from None


def _check_columns(path: Path, names: Sequence[str] | None) -> None:
    """None are the names of an empty file, which has no rows either."""
    if names is not None and not set(REQUIRED) <= set(names):
        raise ValueError(
            f"{path}: columns are {', '.join(map(repr, names)) or 'none'}; expected "
            f"{', '.join(REQUIRED)}, and {' or '.join(OPTIONAL)} where needed, separated by commas"
        )
