"""Pieces of recordings in the files of other tools, named and gathered into documents."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import Span
from tresse.data.left_out import ContradictionError, LeftOut
from tresse.data.naming import Naming, find_fault


class Piece(NamedTuple):
    """Sentences of one audio file or cut."""

    name: str
    """Name in the file, in which a key pattern searches."""
    key: str
    """Key of the document when there is no key pattern."""
    spans: tuple[Span, ...]
    """A span for each sentence."""
    where: str
    """Place in the file, for messages."""
    language: str = ""
    """Language by the file; empty when it names none."""
    sentence: int | None = None
    """Number of the sentence by the file; None when it gives none."""


@dataclass
class _Document:
    """The pieces of a document so far, by the number of the sentence."""

    where: str
    pieces: dict[int, tuple[Span, ...]] = field(default_factory=dict)
    is_numbered: bool = False


def gather_recordings(
    pieces: Iterable[Piece], naming: Naming, left_out: LeftOut
) -> list[Recording]:
    """Return recordings in the order of their first pieces, with sentences in order of number.

    ValueError names the place, or `left_out` gets it: a name without a key or language, a sentence
    that is missing. A key or a sentence that occurs twice is always an error.
    """
    documents: dict[tuple[str, str], _Document] = {}
    for piece in pieces:
        try:
            _add(documents, piece, naming)
        except ContradictionError as error:
            raise ContradictionError(f"{piece.where}: {error}") from None
        except ValueError as error:
            left_out.add(piece.where, str(error))
    numbers = [n for own in documents.values() if own.is_numbered for n in own.pieces]
    first = min(*numbers, 1) if numbers else 0
    recordings = []
    for (language, key), own in documents.items():
        found = np.array(sorted(own.pieces))
        fault = find_fault(found, np.ones_like(found), first) if own.is_numbered else ""
        if left_out.keeps(own.where, key, language, fault):
            spans = (span for number in found.tolist() for span in own.pieces[number])
            recordings.append(Recording(key, language, tuple(spans), own.where))
    return recordings


def _add(documents: dict[tuple[str, str], _Document], piece: Piece, naming: Naming) -> None:
    name = naming.parse(piece.name, piece.key, piece.language)
    number = piece.sentence if name.sentence is None else name.sentence
    own = documents.setdefault((name.language, name.key), _Document(piece.where))
    if own.pieces and (number is None or not own.is_numbered):
        raise ContradictionError(
            f"key {name.key!r} is in {name.language} already ({own.where}); give files different "
            "names, or number the sentences of a document by --key-pattern"
        )
    own.is_numbered = number is not None
    if own.is_numbered and len(piece.spans) > 1:
        raise ContradictionError(
            f"sentence {number} of {name.key!r} has times for {len(piece.spans)} sentences; give "
            "either numbers or times of sentences"
        )
    if (number or 0) in own.pieces:
        raise ContradictionError(
            f"sentence {number} of {name.key!r} ({name.language}) occurs twice"
        )
    own.pieces[number or 0] = piece.spans
