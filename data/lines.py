"""Read lines and JSON lines, one at a time, with their places for messages."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

BOM = b"\xef\xbb\xbf"
"""Mark at the start of files of UTF-8 that some editors write."""


def check_files(paths: Sequence[str | Path], what: str) -> list[Path]:
    """Return the paths of existing files; ValueError names the first that does not exist."""
    files = [Path(path) for path in paths]
    if not files:
        raise ValueError(f"no {what} files")
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
    return files


def read_lines(files: Sequence[Path], *, shows: bool = True) -> Iterator[tuple[str, bytes]]:
    """Yield the place of every line, "fr.jsonl:12", and the line without its end.

    shows: show a progress bar. Files `*.gz` are unpacked. ValueError names a file that cannot be
    read.
    """
    total = sum(path.stat().st_size for path in files)
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="prepare", disable=None if shows else True
    ) as bar:
        for path in files:
            try:
                yield from _read_file(path, bar)
            except (OSError, EOFError, zlib.error) as error:
                raise ValueError(f"{path}: cannot be read ({error}); restore the file") from error


def parse_records(lines: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Parse lines with their places as JSON objects; empty lines are skipped.

    ValueError names the place: not UTF-8, not JSON, not an object, a field that occurs twice.
    """
    for where, line in lines:
        if not line.strip():
            continue
        try:
            yield where, parse_record(line)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def parse_record(line: bytes) -> dict[str, Any]:
    """Parse a line as a JSON object; ValueError for anything else."""
    record = decode_json(line)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def decode_json(text: bytes) -> Any:
    """Parse UTF-8 JSON; ValueError for anything else, and for a field that occurs twice."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_fields(record: dict[str, Any], required: Sequence[str], optional: Sequence[str]) -> None:
    """Raise ValueError for a required field that is missing, and for an unknown field."""
    for name in required:
        if name not in record:
            raise ValueError(f"field {name!r} is missing")
    for name in record:
        if name not in (*required, *optional):
            raise ValueError(
                f"unknown field {name!r}; known are {', '.join((*required, *optional))}"
            )


def _read_file(path: Path, bar: tqdm) -> Iterator[tuple[str, bytes]]:
    before = bar.n
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        lines = stack.enter_context(gzip.open(file)) if path.suffix == ".gz" else file
        for number, line in enumerate(lines, 1):
            bar.update(before + file.tell() - bar.n)
            if number == 1:
                line = line.removeprefix(BOM)
            yield f"{path}:{number}", line.rstrip(b"\r\n")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(n for n in names if names.count(n) > 1)!r} occurs twice")
    return fields
