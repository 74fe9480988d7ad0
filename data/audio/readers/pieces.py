"""Recordings of other tools, named and gathered as utterances are, and channels of stereo files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from math import isfinite
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tresse.data.audio.recordings import Recording, Source, Span
from tresse.data.naming import LeftOut, Naming, find_fault


class Piece(NamedTuple):
    """Spans of one audio file or cut."""

    name: str
    """As the file has it."""
    key: str
    """What it is called when no pattern says otherwise."""
    spans: tuple[Span, ...]
    where: str
    language: str = ""
    """Where the file says."""
    sentence: int | None = None
    """Its number, where the file says."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of an audio file, decoded whole when it is opened."""

    source: Source
    number: int
    """From 0; the left one is 0."""

    def __str__(self) -> str:
        return f"{self.source} channel {self.number}"

    def num_bytes(self) -> int:
        """Size of the whole file."""
        return self.source.num_bytes()

    def open(self) -> BinaryIO:
        """A WAV of the channel."""
        import soundfile

        try:
            with soundfile.SoundFile(self.source.open()) as file:
                samples = file.read(dtype="float32", always_2d=True)
                rate = file.samplerate
        except soundfile.LibsndfileError as error:
            raise OSError(f"not an audio file we know: {error}") from None
        if self.number >= samples.shape[1]:
            raise OSError(f"it has {samples.shape[1]} channels")
        content = BytesIO()
        soundfile.write(content, samples[:, self.number], rate, format="WAV", subtype="FLOAT")
        content.seek(0)
        return content


def time_spans(source: Source, times: Any, start: float = 0.0) -> tuple[Span, ...]:
    """Spans at [[start, end], ...] seconds after `start`, none before the end of the last.

    ValueError names the sentence.
    """
    if not isinstance(times, Sequence) or not times:
        raise ValueError(f"sentences are {times!r}, expected [[start, end], ...] in seconds")
    spans, before = [], 0.0
    for i, pair in enumerate(times):
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(map(is_time, pair)):
            raise ValueError(f"sentence {i} is {pair!r}, expected [start, end] in seconds")
        if not before <= pair[0] < pair[1]:
            raise ValueError(
                f"sentence {i} is from {pair[0]} to {pair[1]}, expected a start from {before} on "
                "and a later end"
            )
        spans.append(Span(source, start + pair[0], start + pair[1]))
        before = pair[1]
    return tuple(spans)


def is_time(value: object) -> bool:
    """Whether it is a number of seconds."""
    return type(value) in (int, float) and isfinite(value) and value >= 0  # type: ignore[arg-type, operator]


@dataclass
class _Document:
    """What is known of a recording so far."""

    where: str
    pieces: dict[int, tuple[Span, ...]] = field(default_factory=dict)
    is_numbered: bool = False


def gather_recordings(pieces: Iterable[Piece], naming: Naming) -> list[Recording]:
    """Recordings in the order of their first pieces; numbered sentences in the order of numbers.

    ValueError says where: a name without a key or language, a key that is there twice, a sentence
    that is missing or there twice. With `naming.skip_incomplete` incomplete ones are left out.
    """
    documents: dict[tuple[str, str], _Document] = {}
    for piece in pieces:
        try:
            _add(documents, piece, naming)
        except ValueError as error:
            raise ValueError(f"{piece.where}: {error}") from None
    numbers = [n for own in documents.values() if own.is_numbered for n in own.pieces]
    first = min(*numbers, 1) if numbers else 0
    recordings, left_out = [], LeftOut(naming)
    for (language, key), own in documents.items():
        found = np.array(sorted(own.pieces))
        fault = find_fault(found, np.ones_like(found), first) if own.is_numbered else ""
        if left_out.keeps(own.where, key, language, fault):
            spans = (span for number in found.tolist() for span in own.pieces[number])
            recordings.append(Recording(key, language, tuple(spans), own.where))
    left_out.report()
    return recordings


def _add(documents: dict[tuple[str, str], _Document], piece: Piece, naming: Naming) -> None:
    name = naming.parse(piece.name, piece.key, piece.language)
    number = piece.sentence if name.sentence is None else name.sentence
    own = documents.setdefault((name.language, name.key), _Document(piece.where))
    if own.pieces and (number is None or not own.is_numbered):
        raise ValueError(
            f"key {name.key!r} is in {name.language} already ({own.where}); name files apart, or "
            "number the sentences of a document by --key-pattern"
        )
    own.is_numbered = number is not None
    if own.is_numbered and len(piece.spans) > 1:
        raise ValueError(f"sentence {number} of {name.key!r} has {len(piece.spans)} sentences")
    if (number or 0) in own.pieces:
        raise ValueError(f"sentence {number} of {name.key!r} ({name.language}) is there twice")
    own.pieces[number or 0] = piece.spans
