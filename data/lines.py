"""Lines and JSON lines of files, one at a time, with their place and a progress bar."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm


def check_files(paths: Sequence[str | Path], what: str) -> list[Path]:
    """Paths of files that are there; ValueError names the first that is not."""
    files = [Path(path) for path in paths]
    if not files:
        raise ValueError(f"no {what} files")
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
    return files


def read_lines(files: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Every line, without its end, and where it is: "fr.jsonl:12". Files `*.gz` are unpacked."""
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as bar:
        for path in files:
            try:
                yield from _read_file(path, bar)
            except (OSError, EOFError, zlib.error) as error:
                raise ValueError(f"{path}: cannot be read ({error}); restore the file") from error


def read_records(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON object, one per line, and where it is; empty lines are skipped.

    ValueError names file and line: not UTF-8, not JSON, not an object, a field that occurs twice.
    """
    for where, line in read_lines(files):
        if not line.strip():
            continue
        try:
            record = decode_json(line)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where}: not a JSON object")
        yield where, record


def decode_json(text: bytes) -> Any:
    """Parse UTF-8 JSON; ValueError for anything else, and for a field that occurs twice."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_fields(record: dict[str, Any], required: Sequence[str], optional: Sequence[str]) -> None:
    """Raise ValueError for a required field that is missing and for one that is not known."""
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
            yield f"{path}:{number}", line.rstrip(b"\r\n")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(n for n in names if names.count(n) > 1)!r} occurs twice")
    return fields
