"""Recordings of any of the formats that `prepare.py audio` reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tresse.data.audio.readers.audio_table import AudioColumns, read_audio_tables
from tresse.data.audio.readers.lhotse import read_lhotse
from tresse.data.audio.readers.moshi import read_moshi
from tresse.data.audio.readers.pieces import gather_recordings
from tresse.data.audio.readers.webdataset import read_webdataset
from tresse.data.audio.recordings import Recording, read_recordings
from tresse.data.left_out import LeftOut
from tresse.data.naming import Naming
from tresse.data.tables import find_tables

AudioFormat = Literal["manifest", "moshi", "webdataset", "lhotse", "table"]
NO_COLUMNS = AudioColumns()


def read_audio(
    paths: Sequence[str | Path],
    format: AudioFormat,
    naming: Naming,
    root: Path | None,
    left_out: LeftOut,
    columns: AudioColumns = NO_COLUMNS,
    split: str = "",
) -> list[Recording]:
    """Return the recordings in the order of their files.

    columns, split: the columns and the split of tables, which other formats do not have.
    ValueError names the place of a fault, or `left_out` gets it.
    """
    if format != "table" and (columns != NO_COLUMNS or split):
        raise ValueError(f"--columns and --split are for --format table, the format is {format}")
    if format == "manifest":
        if naming != Naming() or root is not None:
            raise ValueError(
                "a manifest gives keys, languages and paths; "
                "leave --lang, --key-pattern and --root out"
            )
        return read_recordings(paths, left_out)
    if naming.split_long:
        raise ValueError("--split-long is for units; for recordings use --max-seconds")
    pieces = {
        "moshi": lambda: read_moshi(paths, root, left_out),
        "webdataset": lambda: read_webdataset(paths, left_out),
        "lhotse": lambda: read_lhotse(
            paths, root, left_out, languages_too=not naming.has_languages
        ),
        "table": lambda: read_audio_tables(find_tables(paths, split), columns, root, left_out),
    }
    if format == "table":
        columns.check(has_languages=naming.has_languages, has_pattern=naming.pattern is not None)
    return gather_recordings(pieces[format](), naming, left_out)
