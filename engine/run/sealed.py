"""JSON files that hold a hash of their own content, so that a changed file is not believed.

The field "xxh3" is the xxh3_64 of all other fields, written with sorted keys and without spaces.
"""

import json
from pathlib import Path
from typing import Any

import xxhash

from tresse.data.durable import write_text
from tresse.data.lines import decode_json

SEAL = "xxh3"


def digest(values: dict[str, Any]) -> str:
    """Return the xxh3_64 of JSON values, whatever their order; ValueError for NaN and infinity."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return xxhash.xxh3_64_hexdigest(text.encode())


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object with its hash, whole or not at all; it replaces a file of that name."""
    sealed = values | {SEAL: digest(values)}
    write_text(path, json.dumps(sealed, indent=2, allow_nan=False) + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without its hash.

    ValueError when the file is not a JSON object, or its content has another hash; OSError when it
    cannot be read.
    """
    try:
        values = decode_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    if SEAL not in values:
        raise ValueError(f"{path.name} has no hash of its own; another version wrote it")
    stated = values.pop(SEAL)
    if stated != (found := digest(values)):
        raise ValueError(
            f"{path.name} was changed: its content has the hash {found}, it says {stated!r}"
        )
    return values
