"""Cut manifests of Lhotse (https://github.com/lhotse-speech/lhotse), such as LibriHeavy's.

A manifest is JSON lines, a JSON array or YAML, plain or packed by gzip. An entry is a cut: a
stretch of a recording, with supervisions in it:

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
from tresse.data.audio.sources import Channel, File, Source, Span, is_time, time_spans, word_starts
from tresse.data.left_out import LeftOut
from tresse.data.lines import check_files, decode_json, read_lines

TOLERANCE_S = 0.001  # times are rounded, so a supervision may begin this much before the last ends


def read_lhotse(
    paths: Sequence[str | Path], root: Path | None, left_out: LeftOut, *, languages_too: bool
) -> Iterator[Piece]:
    """Yield a piece for each cut; ValueError or `left_out` names the line or the cut.

    root: folder in which relative paths start; the current folder when None, as in Lhotse.
    languages_too: take the languages of the supervisions.
    """

    def parse(cut: Any) -> Piece:
        try:
            return _piece(cut, root or Path(), languages_too)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a cut of Lhotse: {error!r}") from error

    for path in check_files(paths, "cut manifest"):
        if _is_lines(path):
            cuts = left_out.parsed_lines([path], parse)
        else:
            cuts = left_out.parsed(_read_whole(path), parse)
        for where, piece in cuts:
            yield piece._replace(where=where)


def _is_lines(path: Path) -> bool:
    """Return whether a file is JSON lines, as Lhotse's own reader decides it: by its name."""
    return not {".yaml", ".yml"} & set(path.suffixes) and next(_content(path), b"")[:1] != b"["


def _content(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that are not empty."""
    return (line.strip() for _, line in read_lines([path], shows=False) if line.strip())


def _read_whole(path: Path) -> list[tuple[str, Any]]:
    """Return the cuts of a JSON array or a list in YAML with their places."""
    content = b"\n".join(line for _, line in read_lines([path]))
    try:
        if {".yaml", ".yml"} & set(path.suffixes):
            cuts = _parse_yaml(content)
        else:
            cuts = decode_json(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(cuts, list):
        raise ValueError(f"{path}: expected a list of cuts, found {type(cuts).__name__}")
    return [(f"{path}: cut {number}", cut) for number, cut in enumerate(cuts)]


def _parse_yaml(content: bytes) -> Any:
    try:
        import yaml
    except ImportError:
        raise ValueError("YAML needs pyyaml: pip install 'tresse[audio]'") from None
    try:
        return yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None


def _piece(cut: dict[str, Any], root: Path, languages_too: bool) -> Piece:
    _check_kind(cut)
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
    language = languages.pop() if languages_too and languages else ""
    return Piece(name, name, spans, "", language, words=_words(supervisions, spans, start))


def _words(
    supervisions: list[dict[str, Any]], spans: tuple[Span, ...], start: float
) -> tuple[tuple[float, ...], ...]:
    """Return the starts of the words of each supervision; none unless all are aligned by words.

    An item is [symbol, start, duration, score], or has these fields; times are within the cut. One
    without a symbol is silence. ValueError names the sentence whose words are not within it.
    """
    found = []
    for own in supervisions:
        items = (own.get("alignment") or {}).get("word") or []
        named = [(i["symbol"], i["start"]) if isinstance(i, dict) else i[:2] for i in items]
        times = [time for symbol, time in named if symbol]
        if not times or not all(map(is_time, times)):
            return ()
        found.append([start + time for time in times])
    return word_starts(found, spans) if found else ()


def _check_kind(cut: dict[str, Any]) -> None:
    """Raise ValueError unless a cut is of one channel of one recording."""
    kind = cut.get("type", "Cut")  # before version 1.0 there was no other type, or none at all
    channels = cut.get("channel")
    if kind == "MultiCut" and isinstance(channels, list) and len(channels) == 1:
        return
    if kind not in ("MonoCut", "Cut"):
        channel = f" of the channels {channels!r}" if kind == "MultiCut" else ""
        raise ValueError(
            f"type is {kind!r}{channel}, expected a cut of one channel; save the cuts as MonoCut "
            "by Lhotse"
        )


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
    channel = channel[0] if isinstance(channel, list) else channel
    own = [source for source in sources if channel in source["channels"]]
    if len(own) != 1 or own[0]["type"] != "file":
        kinds = [source["type"] for source in sources]
        raise ValueError(f"sources {kinds} of channel {channel!r}, expected one of type 'file'")
    file = File(str(root / own[0]["source"]))
    channels = own[0]["channels"]
    return Channel(file, channels.index(channel)) if len(channels) > 1 else file
