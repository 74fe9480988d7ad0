"""SlamKit's JSON lines (https://github.com/slp-rl/slamkit): units by file name.

    {"units": [3, 49], "duration": [2, 1], "file_name": "/audio/en/0001_0.flac"}   features.jsonl
    {"file_name": "/audio/en/0001_0.flac", "audio_repr": "<Un3><Un49>"}            tokens.jsonl

`units` are deduplicated; `duration` counts the repetitions of each. SlamKit ignores other fields.
In tokens.jsonl, `tresse export-units` adds one: `sentence_lengths`, the units of each sentence.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tresse.data.formats.durations import expand
from tresse.data.formats.utterances import Utterance
from tresse.data.left_out import LeftOut
from tresse.data.lines import check_files
from tresse.data.naming import stem

UNITS = re.compile(r"(?:<Un[0-9]{1,18}>)*")
INTERLEAVED = re.compile(r"<(?:speech|text)>")


def read_slamkit(
    paths: Sequence[str | Path], left_out: LeftOut | None = None, *, expand_durations: bool
) -> Iterator[Utterance]:
    """Yield the utterances of features.jsonl and tokens.jsonl files.

    `expand_durations` repeats each unit for its duration, which tokens.jsonl does not hold.
    ValueError names file and line, or `left_out` gets it.
    """

    def parse(record: dict[str, Any]) -> Utterance:
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"file_name is {name!r}, expected the name of a file")
        units = _units(record, expand_durations)
        return Utterance(name, stem(name), units, "", _lengths(record, len(units)))

    files = check_files(paths, "SlamKit")
    for where, utterance in (left_out or LeftOut()).parsed_lines(files, parse):
        yield utterance._replace(where=where)


def _units(record: dict[str, Any], expand_durations: bool) -> list[int] | np.ndarray:
    if "units" in record:
        units = record["units"]
        if not isinstance(units, list):
            raise ValueError("units is not a list")
        return expand(units, record.get("duration")) if expand_durations else units
    if "audio_repr" not in record:
        raise ValueError("has neither 'units' (features.jsonl) nor 'audio_repr' (tokens.jsonl)")
    if expand_durations:
        raise ValueError("tokens.jsonl has no durations to expand; import features.jsonl instead")
    return parse_units(record["audio_repr"])


def _lengths(record: dict[str, Any], num_units: int) -> list[int] | None:
    """Return the number of units in each sentence, or None when the record does not say it."""
    lengths = record.get("sentence_lengths") if "audio_repr" in record else None
    if lengths is None:
        return None
    counts = isinstance(lengths, list) and all(type(n) is int and n > 0 for n in lengths)
    if not counts or sum(lengths) != num_units:
        raise ValueError(
            f"sentence_lengths are {str(lengths)[:80]}, expected counts that add up to {num_units}"
        )
    return lengths


def parse_units(text: Any) -> list[int]:
    """Parse the text of units: "<Un3><Un49>" gives [3, 49]."""
    if not isinstance(text, str):
        raise ValueError(f"audio_repr is {text!r}, expected text")
    if INTERLEAVED.search(text):
        raise ValueError(
            "audio_repr is interleaved with text, so units are missing; import the features.jsonl "
            "that it was made from"
        )
    end = UNITS.match(text).end()  # type: ignore[union-attr]  # it matches an empty text
    if end < len(text):
        raise ValueError(f"audio_repr has {text[end : end + 20]!r}, expected units like '<Un3>'")
    return [int(number) for number in text[3:-1].split("><Un")] if text else []
