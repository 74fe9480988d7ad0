"""Places of sound: audio files, members of tars, channels of stereo files, and spans of them."""

import errno
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol


class Source(Protocol):
    """The bytes of an audio file. `str` names it in messages and in hashes: it must not change."""

    def num_bytes(self) -> int:
        """Return the size without opening it; OSError when it is not there."""
        ...

    def open(self) -> str | BinaryIO:
        """Return a path or a binary file to decode; OSError when it is not there."""
        ...


@dataclass(frozen=True, slots=True)
class File:
    """An audio file."""

    path: str

    def __str__(self) -> str:
        return self.path

    def num_bytes(self) -> int:
        """Return the size of the file."""
        return Path(self.path).stat().st_size

    def open(self) -> str | BinaryIO:
        """Return the path: libsndfile reads it without Python in between."""
        # An OSError says more than libsndfile's "System error", and a pipe would never end.
        if not stat.S_ISREG(Path(self.path).stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return self.path


@dataclass(frozen=True, slots=True)
class TarMember:
    """An audio file within an uncompressed tar, found once and then read without scanning."""

    tar: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}:{self.name}"

    def num_bytes(self) -> int:
        """Return the size of the member."""
        return self.size

    def open(self) -> str | BinaryIO:
        """Return the bytes of the member."""
        with Path(self.tar).open("rb") as file:
            file.seek(self.offset)
            return BytesIO(file.read(self.size))


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of an audio file."""

    source: Source
    number: int
    """Counted from 0; the left channel is 0."""

    def __str__(self) -> str:
        return f"{self.source} channel {self.number}"

    def num_bytes(self) -> int:
        """Return the size of the whole file."""
        return self.source.num_bytes()

    def open(self) -> str | BinaryIO:
        """Return the whole file; whoever decodes it takes the channel."""
        return self.source.open()


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a source: a sentence."""

    source: Source
    start: float = 0.0
    """Seconds from the start of the source."""
    end: float | None = None
    """Seconds from the start of the source; None means its end."""

    @property
    def seconds(self) -> float | None:
        """Length; None when only opening the source would tell it."""
        return None if self.end is None else self.end - self.start


def time_spans(source: Source, times: Any, start: float = 0.0) -> tuple[Span, ...]:
    """Return spans at [[start, end], ...] seconds after `start`; none begins before the last ends.

    ValueError names the sentence.
    """
    if not isinstance(times, Sequence) or isinstance(times, str) or not times:
        raise ValueError(f"sentences is {times!r}, expected [[start, end], ...] in seconds")
    spans, before = [], 0.0
    for i, pair in enumerate(times):
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(map(is_time, pair)):
            raise ValueError(
                f"sentence {i} is {pair!r}, expected [start, end] in seconds, both at least 0"
            )
        if not before <= pair[0] < pair[1]:
            raise ValueError(
                f"sentence {i} is from {pair[0]} to {pair[1]}, expected a start of at least "
                f"{before} and a later end"
            )
        spans.append(Span(source, start + pair[0], start + pair[1]))
        before = pair[1]
    return tuple(spans)


def word_starts(words: Any, spans: Sequence[Span]) -> tuple[tuple[float, ...], ...]:
    """Return the seconds at which the words of each sentence begin, [[start, ...], ...], checked.

    They count from the start of the source, as those of the spans. ValueError names the sentence.
    """
    if not isinstance(words, Sequence) or isinstance(words, str) or len(words) != len(spans):
        raise ValueError(
            f"words is {words!r}, expected [[start, ...], ...] in seconds, for {len(spans)} "
            "sentences"
        )
    for i, (starts, span) in enumerate(zip(words, spans, strict=True)):
        if not isinstance(starts, Sequence) or not starts or not all(map(is_time, starts)):
            raise ValueError(
                f"words of sentence {i} are {starts!r}, expected their starts, in seconds"
            )
        if list(starts) != sorted(starts) or (span.end is not None and starts[-1] >= span.end):
            raise ValueError(
                f"words of sentence {i} begin at {list(starts)}, expected times that do not fall, "
                f"before its end at {span.end}"
            )
    return tuple(tuple(float(start) for start in starts) for starts in words)


def is_time(value: object) -> bool:
    """Return whether a value is a number of seconds, finite and not negative."""
    return type(value) in (int, float) and 0 <= value <= sys.float_info.max  # type: ignore[operator]
