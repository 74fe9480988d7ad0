"""Groups of recordings that are encoded together, and the groups of each rank.

A group is a run of recordings in the manifest's order, a few batches long, and depends on the
manifest alone. Batches are formed within a group. So units depend neither on the number of ranks
nor on where a run was killed, even where a GPU's rounding depends on the shape of a batch.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import PurePath
from typing import NamedTuple

import xxhash

from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import Source

BYTES_PER_SECOND = {".wav": 48_000, ".flac": 24_000, ".mp3": 8_000, ".ogg": 8_000, ".opus": 4_000}
OTHER_BYTES_PER_SECOND = 24_000
STAT_THREADS, STAT_BLOCK = 16, 1024


class Group(NamedTuple):
    """Recordings `start` to `end` - 1 of the manifest."""

    start: int
    end: int
    seconds: float  # an estimate where only the sizes of files are known


class Grouping(NamedTuple):
    """All groups of a job."""

    groups: list[Group]
    hash: str  # of all recordings, their spans and texts, and the sizes of their files


def form_groups(recordings: Sequence[Recording], group_seconds: float) -> Grouping:
    """Form groups of at most `group_seconds`; a longer recording is a group of its own."""
    starts = range(0, len(recordings), STAT_BLOCK)
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        blocks = pool.map(_sizes, (recordings[i : i + STAT_BLOCK] for i in starts))
        sizes = list(chain.from_iterable(blocks))
    hasher = xxhash.xxh3_64()
    groups: list[Group] = []
    start, seconds = 0, 0.0
    for i, (recording, own) in enumerate(zip(recordings, sizes, strict=True)):
        hasher.update(_describe(recording, own))
        length = _estimate(recording, own)
        if i > start and seconds + length > group_seconds:
            groups.append(Group(start, i, seconds))
            start, seconds = i, 0.0
        seconds += length
    if len(recordings) > start:
        groups.append(Group(start, len(recordings), seconds))
    return Grouping(groups, hasher.hexdigest())


def groups_of_rank(groups: Sequence[Group], rank: int, world_size: int) -> list[int]:
    """Return the numbers of a rank's groups, from long to short.

    The seconds of two ranks differ by at most the longest group.
    """
    order = sorted(range(len(groups)), key=lambda i: (-groups[i].seconds, i))
    return order[rank::world_size]


def _sizes(recordings: Sequence[Recording]) -> list[dict[Source, int]]:
    return [
        {source: _size(source) for source in {s.source for s in r.sentences}} for r in recordings
    ]


def _size(source: Source) -> int:
    try:
        return source.num_bytes()
    except OSError:
        return -1  # the error comes when it is read


def _estimate(recording: Recording, sizes: dict[Source, int]) -> float:
    seconds = 0.0
    for span in recording.sentences:
        if span.seconds is None:
            suffix = PurePath(str(span.source)).suffix.lower()
            rate = BYTES_PER_SECOND.get(suffix, OTHER_BYTES_PER_SECOND)
            seconds += max(0.0, sizes[span.source] / rate - span.start)
        else:
            seconds += span.seconds
    return seconds


def _describe(recording: Recording, sizes: dict[Source, int]) -> bytes:
    spans = [(str(s.source), sizes[s.source], s.start, s.end) for s in recording.sentences]
    texts = (recording.texts,) if recording.texts else ()
    return repr((recording.key, recording.language, spans, *texts)).encode()
