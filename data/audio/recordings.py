"""Recordings: documents in one language that are still audio, and the manifest that lists them.

JSON lines or CSV, one line per file:

    {"path": "en/0001.flac", "key": "0001", "lang": "en", "sentences": [[0, 2.4], [2.4, 5.1]]}
    {"path": "fr/0001-0.wav", "key": "0001", "lang": "fr", "sentence": 0}

`words` may list the seconds at which the words of each sentence begin: [[0.1, 0.4], [2.5, 3.0]].
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
from typing import Any, NamedTuple

from tresse.data.audio.sources import File, Span, time_spans, word_starts
from tresse.data.left_out import ContradictionError, LeftOut
from tresse.data.lines import check_fields, check_files, decode_json
from tresse.data.naming import check_language, normal_key

MAX_CELL = 1 << 30
"""Characters of a cell of CSV; the csv module's own limit is 2**17, some 8,000 sentences."""
REQUIRED, OPTIONAL = ("path", "key", "lang"), ("sentence", "sentences", "words")


@dataclass(frozen=True, slots=True)
class Recording:
    """One document in one language; recordings that share a key are translations of each other."""

    key: str
    language: str
    sentences: tuple[Span, ...]
    """At least one."""
    where: str = ""
    """Place in the manifest, for messages: "train.jsonl:12"."""
    texts: tuple[str, ...] = ()
    """A text for each sentence, or none."""
    words: tuple[tuple[float, ...], ...] = ()
    """Seconds from the start of its source at which the words of each sentence begin, or none."""

    def __str__(self) -> str:
        return f"{self.language}/{self.key}"


def read_recordings(
    paths: Sequence[str | Path], left_out: LeftOut | None = None
) -> list[Recording]:
    """Read one or more manifests; returns their recordings in the order of the first lines.

    ValueError names file and line, or `left_out` gets it: not JSON or CSV, fields missing, unknown
    or of another type, times that do not increase, sentences that are not 0 .. n-1. A document or a
    sentence that is there twice is always an error. Audio files that are missing or too short are
    found only when they are read.
    """
    left_out = left_out or LeftOut()
    pieces: dict[tuple[str, str], _Pieces] = {}
    for path in check_files(paths, "manifest"):
        folder = path.absolute().parent  # of a link, not of what it leads to
        if path.suffix.lower() == ".csv":
            lines = left_out.parsed(_read_csv(path), _checked_cells)
        else:
            lines = left_out.parsed_lines([path], _checked)
        for where, line in lines:
            try:
                _add(pieces, line, folder, where)
            except ContradictionError as error:
                raise ContradictionError(f"{where}: {error}") from None
    broken = {(fault.lang, normal_key(fault.key)): fault.where for fault in left_out.faults}
    recordings = []
    for (language, key), own in pieces.items():
        fault = own.fault()
        if own.whole is None and (language, key) in broken:
            fault = f"its line {broken[language, key]} cannot be used"
        if left_out.keeps(own.where, key, language, fault):
            recordings.append(
                Recording(key, language, own.spans(), own.where, words=own.all_words())
            )
    return recordings


@dataclass(slots=True)
class _Pieces:
    """The lines of one document so far."""

    where: str
    whole: tuple[Span, ...] | None
    numbered: dict[int, tuple[Span, str]]
    """Span and place of each sentence that has a file of its own."""
    words: dict[int, tuple[tuple[float, ...], ...]]
    """Words of each line that has them, by its number; 0 for a whole document."""

    def spans(self) -> tuple[Span, ...]:
        return self.whole or tuple(span for _, (span, _) in sorted(self.numbered.items()))

    def all_words(self) -> tuple[tuple[float, ...], ...]:
        """Return the words of all sentences; none if a sentence lacks them."""
        found = tuple(starts for _, own in sorted(self.words.items()) for starts in own)
        return found if len(found) == len(self.spans()) else ()

    def fault(self) -> str:
        """Return the first fault of the numbered sentences; "" for none."""
        for number, (found, (_, where)) in enumerate(sorted(self.numbered.items())):
            if found != number:
                return (
                    f"{where} has sentence {found} but no sentence {number}; expected 0 to "
                    f"{len(self.numbered) - 1}, each once"
                )
        return ""


class _Line(NamedTuple):
    """A line of a manifest, checked."""

    path: str
    key: str
    language: str
    sentence: int | None
    times: Any
    words: Any


def _checked(record: dict[str, Any]) -> _Line:
    _check_fields(record)
    language, key = check_language(record["lang"]), normal_key(record["key"])
    times = record.get("sentences")
    spans = (Span(File("")),) if times is None else time_spans(File(""), times)
    words = record.get("words")
    if words is not None:
        word_starts(words, spans)
    return _Line(record["path"], key, language, record.get("sentence"), times, words)


def _add(pieces: dict[tuple[str, str], _Pieces], line: _Line, folder: Path, where: str) -> None:
    source = File(str(folder / line.path))
    identity = (line.language, line.key)
    number = line.sentence
    former = pieces.get(identity)
    if number is None:
        if former is not None:
            raise ContradictionError(
                f"key {identity[1]!r} is in {identity[0]} already ({former.where}); files of one "
                "document need numbers, the field 'sentence'"
            )
        spans = (Span(source),) if line.times is None else time_spans(source, line.times)
        words = {} if line.words is None else {0: word_starts(line.words, spans)}
        pieces[identity] = _Pieces(where, spans, {}, words)
        return
    if former is None:
        former = pieces[identity] = _Pieces(where, None, {}, {})
    if former.whole is not None or number in former.numbered:
        other = former.where if former.whole is not None else former.numbered[number][1]
        raise ContradictionError(
            f"sentence {number} of key {identity[1]!r} ({identity[0]}) is listed already ({other})"
        )
    former.numbered[number] = (Span(source), where)
    if line.words is not None:
        former.words[number] = word_starts(line.words, (Span(source),))


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
    if {"sentence", "sentences"} <= set(record):
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


def _checked_cells(cells: dict[Any, Any]) -> _Line:
    """Check the cells of a line of CSV; an empty one is an absent field."""
    if None in cells or None in cells.values():
        raise ValueError("the number of cells differs from the header's")
    record: dict[str, Any] = {name: cell for name, cell in cells.items() if cell}
    for name in set(OPTIONAL) & set(record):
        try:
            record[name] = decode_json(record[name].encode())
        except ValueError:
            raise ValueError(f"{name} is {record[name]!r}, expected JSON") from None
    return _checked(record)


def _read_csv(path: Path) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield the place and the cells of each line."""
    csv.field_size_limit(MAX_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            _check_columns(path, reader.fieldnames)
            for cells in reader:
                yield f"{path}:{reader.line_num}", cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{reader.line_num + 1}: not CSV in UTF-8: {error}") from None


def _check_columns(path: Path, names: Sequence[str] | None) -> None:
    # An empty file has no names, and no lines that would need them.
    if names is not None and not set(REQUIRED) <= set(names):
        raise ValueError(
            f"{path}: columns are {', '.join(map(repr, names)) or 'none'}; expected "
            f"{', '.join(REQUIRED)}, and {' or '.join(OPTIONAL)} where needed, separated by commas"
        )
