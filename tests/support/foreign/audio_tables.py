"""Tables of audio as the package `datasets` writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Audio, ClassLabel, Dataset, DatasetDict, disable_progress_bars

from tests.support.foreign.audio import audio_bytes

disable_progress_bars()
# A process that reads such files has not imported `datasets`, so it does not know its types.
for dimensions in range(2, 6):
    pa.unregister_extension_type(f"datasets.features.features.Array{dimensions}DExtensionType")

Line = dict[str, Any]


def sound(name: str | None, seed: int, seconds: float = 1.0, kind: str = "flac") -> Line:
    """Return a cell of Audio with bytes and the name of their file."""
    return {"bytes": audio_bytes(kind, seed, seconds), "path": name}


def dataset(
    lines: Sequence[Line],
    audio: Sequence[str] = ("audio",),
    classes: Mapping[str, list[str]] | None = None,
) -> Dataset:
    """Return a dataset whose columns `audio` are Audio; it encodes dicts of bytes as they are."""
    found = Dataset.from_list(list(lines))
    for column in audio:
        found = found.cast_column(column, Audio())
    for column, names in (classes or {}).items():
        found = found.cast_column(column, ClassLabel(names=names))
    return found


def to_parquet(path: Path, content: Dataset, group_lines: int = 2) -> Path:
    """Write a Parquet file with `group_lines` lines in a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content.to_parquet(path, batch_size=group_lines)
    return path


def to_disk(path: Path, content: Dataset, num_files: int = 2) -> Path:
    """Write a folder of `save_to_disk`."""
    content.save_to_disk(path, num_shards=num_files)
    return path


def splits_to_disk(path: Path, **splits: Dataset) -> Path:
    """Write a folder of `save_to_disk` with several splits."""
    DatasetDict(list(splits.items())).save_to_disk(path)
    return path
