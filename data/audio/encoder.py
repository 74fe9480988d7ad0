"""The loop from recordings to units: decode ahead in threads, encode in batches, group by group.

A sentence is encoded by itself, or a document whole and then cut at the times of its sentences. A
recording with a sentence that cannot be used is left out whole.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tresse.data.audio.ahead import run_ahead
from tresse.data.audio.groups import Group
from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.recordings import Recording
from tresse.data.audio.tokenizers import AudioTokenizer
from tresse.data.audio.waveforms import check_sound, read_joint, read_spans
from tresse.data.interrupt import Interrupt
from tresse.data.jobs import Results, stop_if_asked
from tresse.data.store.documents import MAX_SENTENCE_TOKENS
from tresse.data.word_places import spread_words

logger = logging.getLogger(__name__)

BATCHES_PER_GROUP = 8
NUM_SHOWN = 10


class Clip(NamedTuple):
    """Sound that is encoded in one piece: a sentence, or with `joint` a document."""

    recording: int
    waveform: np.ndarray  # float32 [samples]
    bounds: list[tuple[float, float]]  # seconds: start and end of its sentences; only with `joint`


@dataclass
class Times:
    """Seconds of audio that a rank encoded, and the seconds that it took."""

    audio: float = 0.0
    """Audio that was encoded."""
    encode: float = 0.0
    """Time in the tokenizer."""
    wait: float = 0.0
    """Time spent waiting for clips that were still being decoded."""
    whole: float = 0.0
    """Time from the start to the end of the last group."""


@dataclass
class _Result:
    """Length and units of the recordings of a group, or the reason for leaving one out."""

    seconds: dict[int, float] = field(default_factory=dict)
    units: dict[int, list[np.ndarray]] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)

    def as_record(self, group: Group) -> dict[str, Any]:
        """Return the journal's record of the group: an object for each recording, in order."""
        recordings = []
        for i in range(group.start, group.end):
            if i in self.skipped:
                recordings.append({"skipped": self.skipped[i]})
            else:
                units = [sentence.tolist() for sentence in self.units[i]]
                recordings.append({"seconds": round(self.seconds[i], 4), "units": units})
        return {"start": group.start, "recordings": recordings}


class Encoder:
    """The encoding loop of one rank; stops between two batches after a signal."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        tokenizer: AudioTokenizer,
        settings: JobSettings,
        interrupt: Interrupt,
        times: Times,
    ) -> None:
        self.recordings, self.tokenizer, self.settings = recordings, tokenizer, settings
        self.interrupt, self.times = interrupt, times
        self._window_seconds = BATCHES_PER_GROUP * settings.batch_seconds
        self._num_shown = 0

    def run(self, groups: Sequence[Group], *, shows: bool) -> Results:
        """Encode the groups in order and yield the journal's record of each."""
        began = time.monotonic()
        todo = (i for group in groups for i in range(group.start, group.end))
        decode = partial(_decode, self.recordings, self.tokenizer.sample_rate, self.settings)
        hours = sum(group.seconds for group in groups) / 3600
        with (
            closing(run_ahead(todo, decode, self.settings.workers)) as ahead,
            tqdm(total=hours, unit="h", desc="tokenise", disable=None if shows else True) as bar,
        ):
            for group in groups:
                yield self._encode_group(group, ahead).as_record(group)
                self.times.whole = time.monotonic() - began
                bar.update(group.seconds / 3600)
                bar.set_postfix_str(f"{self.times.audio / self.times.whole:.0f} x real time")

    def _encode_group(
        self, group: Group, ahead: Iterator[tuple[int, Iterator[Clip | str]]]
    ) -> _Result:
        result, window = _Result(), []
        for _ in range(group.start, group.end):
            i, pieces = next(ahead)
            while (piece := self._next(pieces)) is not None:
                if isinstance(piece, str):
                    self._skip(i, piece, result)
                    window = [clip for clip in window if clip.recording != i]
                    continue
                window.append(piece)
                seconds = piece.waveform.size / self.tokenizer.sample_rate
                result.seconds[i] = result.seconds.get(i, 0.0) + seconds
                if self._seconds(window) >= self._window_seconds:
                    self._encode_window(window, result)
                    window = []
        self._encode_window(window, result)
        return result

    def _next(self, pieces: Iterator[Clip | str]) -> Clip | str | None:
        before = time.monotonic()
        piece = next(pieces, None)
        self.times.wait += time.monotonic() - before
        return piece

    def _seconds(self, clips: Sequence[Clip]) -> float:
        return sum(clip.waveform.size for clip in clips) / self.tokenizer.sample_rate

    def _encode_window(self, window: list[Clip], result: _Result) -> None:
        """Encode clips in batches of similar lengths, and add their units in the clips' order."""
        order = sorted(range(len(window)), key=lambda i: -window[i].waveform.size)
        found: dict[int, np.ndarray] = {}
        for batch in self._batches(order, window):
            stop_if_asked(self.interrupt)
            units = self._encode([window[i].waveform for i in batch])
            found |= dict(zip(batch, units, strict=True))
        self.times.audio += self._seconds(window)
        for i, clip in enumerate(window):
            units = self._check(found[i])
            self._add(clip, units, result)

    def _encode(self, waveforms: list[np.ndarray]) -> list[np.ndarray]:
        before = time.monotonic()
        units = self.tokenizer.encode(waveforms)
        self.times.encode += time.monotonic() - before
        if len(units) != len(waveforms):
            raise ValueError(
                f"tokenizer {self.tokenizer.identity.name} gave {len(units)} results for "
                f"{len(waveforms)} waveforms, expected one each"
            )
        return units

    def _batches(self, order: list[int], window: list[Clip]) -> Iterator[list[int]]:
        """Split the order, from long to short; a batch fits when all are as long as its first."""
        most = self.settings.batch_seconds * self.tokenizer.sample_rate
        while order:
            size = max(1, int(most // window[order[0]].waveform.size))
            yield order[:size]
            order = order[size:]

    def _check(self, units: np.ndarray) -> np.ndarray:
        vocab_size = self.tokenizer.identity.vocab_size
        if not isinstance(units, np.ndarray):
            raise ValueError(
                f"tokenizer {self.tokenizer.identity.name} gave a {type(units).__name__}, "
                "expected NumPy arrays of integers [num_frames]"
            )
        if units.ndim != 1 or units.dtype.kind not in "iu" or not units.size:
            raise ValueError(
                f"tokenizer {self.tokenizer.identity.name} gave {units.dtype} {list(units.shape)}, "
                "expected integers [num_frames]"
            )
        if units.min() < 0 or units.max() >= vocab_size:
            raise ValueError(
                f"tokenizer {self.tokenizer.identity.name} gave units {units.min()} to "
                f"{units.max()}, its vocabulary is 0 to {vocab_size - 1}"
            )
        return units

    def _add(self, clip: Clip, units: np.ndarray, result: _Result) -> None:
        i = clip.recording
        if i in result.skipped:
            return
        rate = Fraction(self.tokenizer.identity.frame_rate)
        sentences = cut_units(units, clip.bounds, rate) if clip.bounds else [units]
        if not all(1 <= sentence.size <= MAX_SENTENCE_TOKENS for sentence in sentences):
            lengths = [sentence.size for sentence in sentences]
            where = self.recordings[i].sentences[0].source
            reason = f"{where}: sentences of {min(lengths)} to {max(lengths)} units"
            self._skip(i, f"{reason}, expected 1 to {MAX_SENTENCE_TOKENS}", result)
            return
        result.units.setdefault(i, []).extend(sentences)

    def _skip(self, i: int, reason: str, result: _Result) -> None:
        if self.settings.on_fault == "stop":
            raise ValueError(f"{self.recordings[i]}: {reason} (--on-fault stop)")
        result.skipped[i] = reason
        self._num_shown += 1
        if self._num_shown <= NUM_SHOWN:
            logger.warning("left out %s: %s", self.recordings[i], reason)
        if self._num_shown == NUM_SHOWN:
            logger.warning("further recordings that are left out are not shown")


def cut_units(
    units: np.ndarray, bounds: Sequence[tuple[float, float]], frame_rate: Fraction
) -> list[np.ndarray]:
    """Cut units [num_frames] into sentences that start and end at these seconds, in whole frames.

    No unit is in two sentences. Each sentence has at least one unit: one that is shorter than a
    frame takes the next frame. Only a sentence that would start beyond the last frame is empty.
    """
    sentences, before = [], 0
    for start, end in bounds:
        first = max(round(start * frame_rate), before)
        before = max(round(end * frame_rate), first + 1)
        sentences.append(units[first:before])
    return sentences


def _decode(
    recordings: Sequence[Recording], sample_rate: int, settings: JobSettings, i: int
) -> Iterator[tuple[Clip | str, int]]:
    """Yield each clip of a recording with its bytes; at the first fault a reason, and no more."""
    spans = recordings[i].sentences
    check = partial(
        check_sound,
        sample_rate=sample_rate,
        min_seconds=settings.min_seconds,
        silence_db=settings.silence_db,
    )
    try:
        if settings.joint:
            waveform, bounds = read_joint(spans, sample_rate, settings.max_seconds)
            for span, (start, end) in zip(spans, bounds, strict=True):
                piece = waveform[round(start * sample_rate) : round(end * sample_rate)]
                check(piece, source=span.source)
            yield Clip(i, waveform, bounds), waveform.nbytes
            return
        read = read_spans(spans, sample_rate, settings.max_seconds)
        for span, waveform in zip(spans, read, strict=True):
            check(waveform, source=span.source)
            yield Clip(i, waveform, []), waveform.nbytes
    except ValueError as error:
        yield str(error), 0


def place_words(
    starts: Sequence[float], begin: float, num_units: int, frame_rate: Fraction
) -> list[int]:
    """Return the unit at which each word of a sentence begins; every word has one unit or more.

    starts: seconds at which the words begin; begin: second at which the sentence begins. The first
    word takes all units before the second one. ValueError for more words than units.
    """
    places = [round((start - begin) * frame_rate) for start in starts]
    return spread_words(places, num_units)
