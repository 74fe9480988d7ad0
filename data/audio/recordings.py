"""Recordings: documents in one language that are still audio, and the manifest that lists them.

JSON lines or CSV, one line per file:

    {"path": "en/0001.flac", "key": "0001", "lang": "en", "sentences": [[0, 2.4], [2.4, 5.1]]}
    {"path": "fr/0001-0.wav", "key": "0001", "lang": "fr", "sentence": 0}

`sentences` are the times of sentences in seconds; `sentence` is the number of a sentence that has a
file of its own; a file without either is one sentence. `path` is relative to the manifest. In CSV
the cell of `sentences` holds JSON. Recordings of different languages with the same key are
translations of each other, sentence by sentence.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tresse.data.audio.sources import File, Span, time_spans
from tresse.data.lines import check_fields, check_files, decode_json, read_records
from tresse.data.naming import check_language, normal_key

REQUIRED, OPTIONAL = ("path", "key", "lang"), ("sentence", "sentences")


@dataclass(frozen=True, slots=True)
class Recording:
    """One document in one language; recordings that share a key are translations of each other."""

    key: str
    language: str
    sentences: tuple[Span, ...]
    """At least one."""
    where: str = ""
    """Place in the manifest, for messages: "train.jsonl:12"."""

    def __str__(self) -> str:
        return f"{self.language}/{self.key}"


def read_recordings(paths: Sequence[str | Path]) -> list[Recording]:
    """Read one or more manifests; returns their recordings in the order of the first lines.

    ValueError names file and line: not JSON or CSV, fields missing, unknown or of another type,
    times that do not increase, sentences that are not 0 .. n-1. Files that are missing or too short
    are found only when they are read.
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


@dataclass(slots=True)
class _Pieces:
    """The lines of one document so far."""

    where: str
    spans: tuple[Span, ...] | None
    numbered: dict[int, tuple[Span, str]]

    def recording(self, language: str, key: str) -> Recording:
        if self.spans is None:
            for number, (found, (_, where)) in enumerate(sorted(self.numbered.items())):
                if found != number:
                    raise ValueError(
                        f"{where}: key {key!r} ({language}) has sentence {found} but no sentence "
                        f"{number}; expected 0 to {len(self.numbered) - 1}, each once"
                    )
            self.spans = tuple(span for _, (span, _) in sorted(self.numbered.items()))
        return Recording(key, language, self.spans, self.where)


def _add(
    pieces: dict[tuple[str, str], _Pieces], record: dict[str, Any], folder: Path, where: str
) -> None:
    _check_fields(record)
    source = File(str(folder / record["path"]))
    identity = (check_language(record["lang"]), normal_key(record["key"]))
    number = record.get("sentence")
    former = pieces.get(identity)
    if number is None:
        if former is not None:
            raise ValueError(
                f"key {identity[1]!r} is in {identity[0]} already ({former.where}); files of one "
                "document need numbers, the field 'sentence'"
            )
        times = record.get("sentences")
        spans = (Span(source),) if times is None else time_spans(source, times)
        pieces[identity] = _Pieces(where, spans, {})
        return
    if former is None:
        former = pieces[identity] = _Pieces(where, None, {})
    if former.spans is not None or number in former.numbered:
        other = former.where if former.spans is not None else former.numbered[number][1]
        raise ValueError(
            f"sentence {number} of key {identity[1]!r} ({identity[0]}) is listed already ({other})"
        )
    former.numbered[number] = (Span(source), where)


def _check_fields(record: dict[str, Any]) -> None:
    check_fields(record, REQUIRED, OPTIONAL)
    for name in REQUIRED:
        if not isinstance(record[name], str) or not record[name]:
            raise ValueError(f"{name} is {record[name]!r}, expected text")
    if not _can_be_path(record["path"]):
        raise ValueError(
            f"path is {record['path']!r}, expected the name of a file, without NUL characters or "
            "halves of surrogate pairs"
        )
    if len(set(OPTIONAL) & set(record)) == 2:
        raise ValueError(
            "both 'sentence' and 'sentences'; give 'sentence' only where each sentence has a file"
        )
    number = record.get("sentence", 0)
    if type(number) is not int or number < 0:
        raise ValueError(f"sentence is {number!r}, expected an integer of at least 0")


def _can_be_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines as JSON lines would have them; an empty cell is an absent field."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            _check_columns(path, reader.fieldnames)
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if None in cells or None in cells.values():
                    raise ValueError(f"{where}: the number of cells differs from the header's")
                record: dict[str, Any] = {name: cell for name, cell in cells.items() if cell}
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
    # An empty file has no names, and no lines that would need them.
    if names is not None and not set(REQUIRED) <= set(names):
        raise ValueError(
            f"{path}: columns are {', '.join(map(repr, names)) or 'none'}; expected "
            f"{', '.join(REQUIRED)}, and {' or '.join(OPTIONAL)} where needed, separated by commas"
        )
