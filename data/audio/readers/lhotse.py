"""Cut manifests of Lhotse (https://github.com/lhotse-speech/lhotse), such as LibriHeavy's.

A line of cuts.jsonl.gz is a cut: a stretch of a recording, with supervisions in it:

    {"id": "small/100/a_0", "start": 243.919, "duration": 7.36, "channel": 0, "type": "MonoCut",
     "supervisions": [{"start": 0, "duration": 7.36, "language": "English", ...}],
     "recording": {"sources": [{"type": "file", "channels": [0], "source": "down/a.flac"}], ...}}

A cut is a document, and its supervisions are the sentences; a cut without any is one sentence. With
a key pattern that finds `sentence` in the id, the cuts of a recording are its sentences. Lhotse
need not be installed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tresse.data.audio.readers.pieces import Piece
from tresse.data.audio.sources import Channel, File, Source, Span, is_time, time_spans
from tresse.data.lines import check_files, read_records

TOLERANCE_S = 0.001  # times are rounded, so a supervision may begin this much before the last ends


def read_lhotse(
    paths: Sequence[str | Path], root: Path | None, *, languages_too: bool
) -> Iterator[Piece]:
    """Yield a piece for each cut; ValueError names the line.

    root: folder in which relative paths start; the current folder when None, as in Lhotse.
    languages_too: take the languages of the supervisions.
    """
    for where, cut in read_records(check_files(paths, "cut manifest")):
        try:
            yield _piece(cut, root or Path(), languages_too, where)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{where}: not a cut of Lhotse: {error!r}") from error


def _piece(cut: dict[str, Any], root: Path, languages_too: bool, where: str) -> Piece:
    if cut.get("type") != "MonoCut":
        raise ValueError(
            f"type is {cut.get('type')!r}, expected MonoCut; save the cuts as MonoCut by Lhotse"
        )
    name, start, duration = cut["id"], cut["start"], cut["duration"]
    if not isinstance(name, str) or not is_time(start) or not is_time(duration) or not duration:
        raise ValueError(
            f"id {name!r}, start {start!r}, duration {duration!r}; expected text and seconds"
        )
    source = _source(cut, root)
    supervisions = sorted(cut.get("supervisions") or [], key=lambda own: own["start"])
    times = _times(supervisions, duration)
    spans = time_spans(source, times, start) if times else (Span(source, start, start + duration),)
    languages = {own.get("language") for own in supervisions if own.get("language")}
    if languages_too and len(languages) > 1:
        raise ValueError(f"supervisions in {sorted(map(str, languages))}, expected one language")
    return Piece(name, name, spans, where, languages.pop() if languages_too and languages else "")


def _times(supervisions: list[dict[str, Any]], duration: float) -> list[list[float]]:
    """Return start and end of each supervision within the cut."""
    times, before = [], 0.0
    for own in supervisions:
        start, length = own["start"], own["duration"]
        if not is_time(length) or type(start) not in (int, float):
            raise ValueError(f"a supervision from {start!r} for {length!r} s, expected seconds")
        end = min(start + length, duration)
        if before - TOLERANCE_S <= start < before:
            start = before
        times.append([start, end])
        before = end
    return times


def _source(cut: dict[str, Any], root: Path) -> Source:
    recording = cut.get("recording")
    if not isinstance(recording, dict):
        raise ValueError("the cut has no recording; a cut of features alone has no audio")
    if recording.get("transforms"):
        raise ValueError("the recording has transforms, which are not applied; save the audio")
    channel, sources = cut["channel"], recording["sources"]
    own = [source for source in sources if channel in source["channels"]]
    if len(own) != 1 or own[0]["type"] != "file":
        kinds = [source["type"] for source in sources]
        raise ValueError(f"sources {kinds} of channel {channel!r}, expected one of type 'file'")
    file = File(str(root / own[0]["source"]))
    channels = own[0]["channels"]
    return Channel(file, channels.index(channel)) if len(channels) > 1 else file
