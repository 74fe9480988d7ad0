"""Recordings of any of the formats that `prepare.py audio` reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tresse.data.audio.readers.lhotse import read_lhotse
from tresse.data.audio.readers.moshi import read_moshi
from tresse.data.audio.readers.pieces import gather_recordings
from tresse.data.audio.readers.webdataset import read_webdataset
from tresse.data.audio.recordings import Recording, read_recordings
from tresse.data.left_out import LeftOut
from tresse.data.naming import Naming

AudioFormat = Literal["manifest", "moshi", "webdataset", "lhotse"]


def read_audio(
    paths: Sequence[str | Path],
    format: AudioFormat,
    naming: Naming,
    root: Path | None,
    left_out: LeftOut,
) -> list[Recording]:
    """Return the recordings in the order of their files.

    ValueError names the place of a fault, or `left_out` gets it.
    """
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
    }
    return gather_recordings(pieces[format](), naming, left_out)
