"""Waveforms: audio files of any kind as mono float32 at the sample rate of a tokenizer.

libsndfile decodes (WAV, FLAC, MP3, Ogg Vorbis and Opus, and more), soxr resamples. Both work block
by block, so memory holds only the stretch that is asked for.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import inf, isfinite
from typing import NamedTuple, Self

import numpy as np
import soxr

from tresse.data.audio.containers.sound import Sound, SoundError
from tresse.data.audio.sources import Channel, Source, Span

BLOCK_FRAMES = 1 << 16
# Aligners round the end of the last sentence up.
TIME_TOLERANCE_S = 0.05
# Beyond any scale that a float file may have by mistake, such as that of 16-bit integers.
MAX_SAMPLE = 1e6


class Joint(NamedTuple):
    """Sentences in one waveform, gaps included."""

    waveform: np.ndarray  # float32 [samples]
    bounds: list[tuple[float, float]]  # seconds in it where each sentence starts and ends


class AudioReader:
    """An open audio file, read forward in stretches."""

    def __init__(self, source: Source) -> None:
        self.source = source
        try:
            self._sound = Sound(source.open())
        except OSError as error:
            raise ValueError(f"{source}: cannot be read ({error.strerror or error})") from None
        except SoundError as error:
            raise ValueError(f"{source}: {error}") from None
        self._channel = source.number if isinstance(source, Channel) else None
        if self._channel is not None and self._channel >= self._sound.num_channels:
            self._sound.close()
            raise ValueError(f"{source}: the file has {self._sound.num_channels}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sound.close()

    def read(
        self, start: float, end: float | None, sample_rate: int, max_seconds: float = inf
    ) -> np.ndarray:
        """Return float32 [samples], mono at `sample_rate`, from `start` to `end` seconds.

        ValueError names the source: it cannot be decoded, ends early, holds a sample that is not
        finite or absurdly large, or the stretch is longer than `max_seconds`.
        """
        rate = self._sound.sample_rate
        first = round(start * rate)
        last = None if end is None else max(first, round(end * rate))
        expected = (self._sound.num_frames if last is None else last) - first
        if expected > max_seconds * rate:
            raise ValueError(
                f"{self.source}: {expected / rate:.2f} s after {start:g} s, expected at most "
                f"{max_seconds:g} s (--max-seconds)"
            )
        resampler = None
        if rate != sample_rate:
            resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
        try:
            self._sound.go_to(first)
            pieces, taken = self._blocks(None if last is None else last - first, resampler)
        except SoundError as error:
            raise ValueError(f"{self.source}: {error}") from None
        except RuntimeError as error:  # soxr's
            raise ValueError(f"{self.source}: cannot be resampled ({error})") from None
        if last is not None and (last - first - taken) / rate > TIME_TOLERANCE_S:
            raise ValueError(
                f"{self.source}: ends at {self._sound.position / rate:.2f} s, a sentence at "
                f"{end:g} s; correct the times or restore the file"
            )
        return np.concatenate(pieces)

    def _blocks(
        self, frames: int | None, resampler: soxr.ResampleStream | None
    ) -> tuple[list[np.ndarray], int]:
        """Return mono pieces at the new rate, and the number of frames of the file in them.

        frames: number of frames to read; None for all that are left.
        """
        pieces: list[np.ndarray] = []
        taken, ended = 0, False
        while not ended:
            left = BLOCK_FRAMES if frames is None else frames - taken
            block = self._sound.read(min(left, BLOCK_FRAMES))
            taken += len(block)
            ended = not len(block) or taken == frames
            _check_samples(block)
            mono = self._mono(block)
            if resampler is not None:
                mono = resampler.resample_chunk(np.ascontiguousarray(mono), last=ended)
            pieces.append(mono)
        return pieces, taken

    def _mono(self, block: np.ndarray) -> np.ndarray:
        """Return one channel of float32 [frames, channels], or their mean."""
        if self._channel is not None:
            return block[:, self._channel]
        return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def read_spans(
    spans: Sequence[Span], sample_rate: int, max_seconds: float = inf
) -> Iterator[np.ndarray]:
    """Yield the waveform of each span, float32 [samples].

    A file is opened once for all its spans that follow each other. ValueError as for
    `AudioReader.read`.
    """
    for source, own in groupby(spans, lambda span: span.source):
        with AudioReader(source) as reader:
            for span in own:
                yield reader.read(span.start, span.end, sample_rate, max_seconds)


def check_sound(
    waveform: np.ndarray, sample_rate: int, source: Source, min_seconds: float, silence_db: float
) -> None:
    """Raise ValueError for a waveform that is too short or too quiet; 0 dB is full scale."""
    if waveform.size < min_seconds * sample_rate:
        raise ValueError(
            f"{source}: a sentence of {waveform.size / sample_rate:.3f} s, expected at least "
            f"{min_seconds:g} s (--min-seconds)"
        )
    peak = float(np.abs(waveform).max())
    if peak <= 10 ** (silence_db / 20):
        loudness = f"{20 * np.log10(peak):.0f} dB at most" if peak else "all zero"
        raise ValueError(f"{source}: a silent sentence ({loudness}; --silence-db)")


def read_joint(spans: Sequence[Span], sample_rate: int, max_seconds: float = inf) -> Joint:
    """Return one waveform from the start of the first span to the end of the last, gaps included.

    Files follow each other without a pause. ValueError when all are longer than `max_seconds`.
    """
    waveforms, bounds, before = [], [], 0
    for source, group in groupby(spans, lambda span: span.source):
        own = list(group)
        start, left = own[0].start, max_seconds - before / sample_rate
        with AudioReader(source) as reader:
            waveform = reader.read(start, own[-1].end, sample_rate, left)
        shift = before / sample_rate - start
        before += waveform.size
        waveforms.append(waveform)
        for span in own:
            end = before / sample_rate if span.end is None else span.end + shift
            bounds.append((span.start + shift, end))
    return Joint(np.concatenate(waveforms), bounds)


def _check_samples(block: np.ndarray) -> None:
    """Raise SoundError for float32 [frames, channels] that cannot be sound."""
    peak = float(np.abs(block).max(initial=0))
    if not isfinite(peak):
        raise SoundError("cannot be decoded (a sample is not a finite number)")
    if peak >= MAX_SAMPLE:
        raise SoundError(
            f"cannot be decoded (a sample is {peak:g} in magnitude, expected below "
            f"{MAX_SAMPLE:g}; full scale is 1)"
        )
