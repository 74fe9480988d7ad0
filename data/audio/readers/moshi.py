"""Datasets of moshi-finetune (https://github.com/kyutai-labs/moshi-finetune).

    {"path": "data_stereo/a.wav", "duration": 24.52}          DATA.jsonl; paths start at its folder
    {"alignments": [["Hello,", [0.1, 0.4], "SPEAKER_MAIN"]]}  data_stereo/a.json

The audio is stereo: the left channel is Moshi, whose words are listed under `alignments`; the right
one is the user and is not read. A sentence ends with a word that ends with a full stop, a question
or exclamation mark.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tresse.data.audio.readers.pieces import Piece
from tresse.data.audio.sources import Channel, File, Span, is_time, time_spans
from tresse.data.left_out import LeftOut
from tresse.data.lines import check_files, decode_json
from tresse.data.naming import stem

SPEAKER = "SPEAKER_MAIN"
LEFT = 0
ENDS_SENTENCE = re.compile(r"[.!?…。！？]+[\"'”’»)\]]*\s*$")


def read_moshi(
    paths: Sequence[str | Path], root: Path | None, left_out: LeftOut
) -> Iterator[Piece]:
    """Yield a piece, a document, for each line; ValueError or `left_out` names the line.

    root: folder in which paths start; the folder of the list when None.
    """
    for path in check_files(paths, "moshi-finetune"):
        for where, piece in left_out.parsed_lines([path], partial(_piece, root or path.parent)):
            yield piece._replace(where=where)


def _piece(root: Path, record: dict[str, Any]) -> Piece:
    name, duration = record.get("path"), record.get("duration")
    if not isinstance(name, str) or not name or not is_time(duration):
        raise ValueError(
            f"path is {name!r}, duration {duration!r}; expected the name of a file and seconds"
        )
    audio = root / name
    words = _read_words(audio.with_suffix(".json"))
    try:
        spans, starts = _sentences(audio, words, float(duration))  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{audio.with_suffix('.json')}: {error}") from error
    return Piece(name, stem(name), spans, "", words=starts)


def _read_words(path: Path) -> list[tuple[str, float, float]]:
    """Return word, start and end of Moshi's words."""
    try:
        content = decode_json(path.read_bytes())
        words = content["alignments"]
        return [_word(i, entry) for i, entry in enumerate(words) if entry[2] == SPEAKER]
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); annotate.py of moshi-finetune writes it"
        ) from error
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f'{path}: expected {{"alignments": [[word, [start, end], speaker], ...]}}'
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _word(index: int, entry: Any) -> tuple[str, float, float]:
    word, (start, end), _ = entry
    if not isinstance(word, str) or not is_time(start) or not is_time(end):
        raise ValueError(f"alignment {index} is {entry!r}, expected [word, [start, end], speaker]")
    return word, float(start), float(end)


def _sentences(
    audio: Path, words: list[tuple[str, float, float]], duration: float
) -> tuple[tuple[Span, ...], tuple[tuple[float, ...], ...]]:
    """Return the spans of sentences, each from its first to its last word, and the words' starts.

    Whisper's times sometimes overlap: a sentence starts no earlier than the one before it ends, and
    joins that one if it would be over by then.
    """
    if not words:
        raise ValueError(f"no words of {SPEAKER}, so no sentences")
    times: list[list[float]] = []
    starts: list[list[float]] = []
    begins = True
    for word, start, end in words:
        end = min(end, duration)
        if begins and end > max(start, times[-1][1] if times else 0.0):
            times.append([max(start, times[-1][1] if times else 0.0), end])
            starts.append([times[-1][0]])
        elif times:
            times[-1][1] = max(times[-1][1], end)
            starts[-1].append(max(min(start, end), starts[-1][-1]))
        else:
            continue
        begins = bool(ENDS_SENTENCE.search(word))
    if not times:
        raise ValueError(f"all words end at 0 s; the file is {duration} s long")
    spans = time_spans(Channel(File(str(audio)), LEFT), times)
    return spans, tuple(map(tuple, starts))
