"""Pieces of recordings in the files of other tools, named and gathered into documents."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import Span
from tresse.data.left_out import ContradictionError, LeftOut
from tresse.data.naming import Naming, find_fault, normal_key


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
    sentence: float | None = None
    """Number of the sentence by the file; None when it gives none.
    An integer is counted; a float only puts the sentences in order, and may have gaps before it."""
    texts: tuple[str, ...] = ()
    """A text for each sentence, where the file has them."""
    words: tuple[tuple[float, ...], ...] = ()
    """Starts of the words of each sentence, as in `Recording`, where the file has them."""


@dataclass
class _Document:
    """The pieces of a document so far, by the number of the sentence."""

    where: str
    pieces: dict[float, Piece] = field(default_factory=dict)
    """Each piece by its number."""
    is_numbered: bool = False

    @property
    def is_counted(self) -> bool:
        """True when its numbers must have no gaps."""
        return self.is_numbered and all(isinstance(number, int) for number in self.pieces)

    def recording(self, key: str, language: str) -> Recording:
        """Return the sentences in order of number."""
        own = [self.pieces[number] for number in sorted(self.pieces)]
        spans = tuple(span for piece in own for span in piece.spans)
        texts = tuple(text for piece in own for text in piece.texts)
        words = tuple(starts for piece in own for starts in piece.words)
        known = words if len(words) == len(spans) else ()
        return Recording(key, language, spans, self.where, texts, known)


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
    numbers = [int(n) for own in documents.values() if own.is_counted for n in own.pieces]
    first = min(*numbers, 1) if numbers else 0
    broken = {(fault.lang, normal_key(fault.key)): fault.where for fault in left_out.faults}
    recordings = []
    for (language, key), own in documents.items():
        found = np.array(sorted(own.pieces))
        fault = find_fault(found, np.ones_like(found), first) if own.is_counted else ""
        if own.is_numbered and not own.is_counted:
            place = broken.get((language, key), broken.get(("", key)))
            fault = f"its line {place} cannot be used" if place else ""
        if left_out.keeps(own.where, key, language, fault):
            recordings.append(own.recording(key, language))
    return recordings


def _add(documents: dict[tuple[str, str], _Document], piece: Piece, naming: Naming) -> None:
    name = naming.parse(piece.name, piece.key, piece.language)
    number = piece.sentence if name.sentence is None else name.sentence
    own = documents.setdefault((name.language, name.key), _Document(piece.where))
    if own.pieces and (number is None or not own.is_numbered):
        raise ContradictionError(
            f"key {name.key!r} is in {name.language} already ({own.where}); give files different "
            "names, or number the sentences of a document by --key-pattern or a column"
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
    own.pieces[number or 0] = piece
