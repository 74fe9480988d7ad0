"""Audio files that the speaking jobs keep: a FLAC file for each text, and the list of them.

While a job runs, the files lie in its journal's folder; the output gets links to those it lists.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tresse.data.durable import link_or_copy, replaced_file, sync_path
from tresse.data.texts.texts import Text

RECORDINGS = "recordings.jsonl"


def flac_name(text: Text) -> str:
    """Return the file's name, which any key can have: LANGUAGE/HASH.flac."""
    return f"{text.language}/{xxhash.xxh3_128_hexdigest(text.key.encode())}.flac"


def write_flac(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write [samples], int16 or float32, as a file of 16 bits."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        soundfile.write(file, samples, sample_rate, format="FLAC")  # pyright: ignore[reportArgumentType]


def write_recordings(
    kept: Path, out: Path, records: Iterable[dict[str, Any]], *, ascii_only: bool
) -> None:
    """Write a manifest of recordings into the folder `out`, with the files that it names.

    kept: the folder in which the files lie.
    """
    out.mkdir(parents=True, exist_ok=True)
    folders: set[Path] = set()
    with replaced_file(out / RECORDINGS) as manifest:
        for record in records:
            path = out / record["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(kept / record["path"], path)
            folders.update(out / folder for folder in Path(record["path"]).parents)
            manifest.write(json.dumps(record, ensure_ascii=ascii_only).encode() + b"\n")
    for folder in folders:  # `kept` is removed next: the links are all that is left
        sync_path(folder)
