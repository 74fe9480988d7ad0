"""Waveforms: audio files of any kind as mono float32 at the sample rate of a tokenizer.

libsndfile decodes (WAV, FLAC, MP3, Ogg Vorbis and Opus, and more), soxr resamples. Both work block
by block, so memory holds only the stretch that is asked for.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import inf, isfinite
from typing import NamedTuple, Self

import numpy as np
import soundfile
import soxr

from tresse.data.audio.sources import Source, Span

BLOCK_FRAMES = 1 << 16
# Aligners round the end of the last sentence up.
TIME_TOLERANCE_S = 0.05
# Beyond any scale that a float file may have by mistake, such as that of 16-bit integers.
MAX_SAMPLE = 1e6
# Without a Xing header the length of an MP3 is an estimate.
MIN_SHARE_OF_MP3 = 0.9
# libsndfile reads a WAV that was cut without an error, but notes the cut in its log. Writers to a
# pipe put 0 or numbers beyond 2**31 there, as they cannot know the size.
CUT_WAV = re.compile(r"data : (\d+) \(should be (\d+)\)")


class Joint(NamedTuple):
    """Sentences in one waveform, gaps included."""

    waveform: np.ndarray  # float32 [samples]
    bounds: list[tuple[float, float]]  # seconds in it where each sentence starts and ends


class _SoundFile(soundfile.SoundFile):
    """A sound file that soundfile does not seek in when it is an MP3.

    soundfile seeks to the current place after every read. In an MP3 the next frame needs bits of
    the one before, so after a seek hundreds of samples are wrong.
    """

    def seekable(self) -> bool:
        """Return whether the samples after a seek are right."""
        return self.format != "MP3"


class AudioReader:
    """An open audio file, read forward in stretches."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._open()

    def _open(self) -> None:
        source, self._position = self.source, 0
        try:
            self._file = _SoundFile(source.open())
        except OSError as error:
            raise ValueError(f"{source}: cannot be read ({error.strerror or error})") from None
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{source}: not an audio file we know ({_reason(error)})") from None
        cut = CUT_WAV.search(self._file.extra_info)
        if cut is not None and int(cut[2]) < int(cut[1]) < 1 << 31:
            self._file.close()
            raise ValueError(
                f"{source}: cut short: {cut[2]} bytes of sound, the header says {cut[1]}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(
        self, start: float, end: float | None, sample_rate: int, max_seconds: float = inf
    ) -> np.ndarray:
        """Return float32 [samples], mono at `sample_rate`, from `start` to `end` seconds.

        ValueError names the source: it cannot be decoded, ends early, holds a sample that is not
        finite or absurdly large, or the stretch is longer than `max_seconds`.
        """
        rate = self._file.samplerate
        first = round(start * rate)
        last = max(first, self._file.frames if end is None else round(end * rate))
        if last - first > max_seconds * rate:
            raise ValueError(
                f"{self.source}: {(last - first) / rate:.2f} s after {start:g} s, expected at most "
                f"{max_seconds:g} s (--max-seconds)"
            )
        resampler = None
        if rate != sample_rate:
            resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
        try:
            self._go_to(first)
            pieces, taken = self._blocks(last - first, resampler)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise ValueError(f"{self.source}: cannot be decoded ({_reason(error)})") from None
        self._check_length(end, taken, last - first)
        return np.concatenate(pieces)

    def _go_to(self, frame: int) -> None:
        """Seek to a frame, or decode up to it in a file where a seek is not exact."""
        if self._file.seekable():
            self._position = self._file.seek(min(frame, self._file.frames))
            return
        if frame < self._position:
            self._file.close()
            self._open()
        while self._position < frame and len(self._read(frame - self._position)):
            pass

    def _read(self, frames: int) -> np.ndarray:
        """Return the next frames of the file, float32 [at most BLOCK_FRAMES, channels]."""
        block = self._file.read(min(frames, BLOCK_FRAMES), dtype="float32", always_2d=True)
        self._position += len(block)
        return block

    def _blocks(
        self, frames: int, resampler: soxr.ResampleStream | None
    ) -> tuple[list[np.ndarray], int]:
        """Return mono pieces at the new rate, and the number of frames of the file in them."""
        pieces: list[np.ndarray] = []
        taken, ended = 0, False
        while not ended:
            block = self._read(frames - taken)
            taken += len(block)
            ended = not len(block) or taken == frames
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
            _check_samples(block)
            if resampler is not None:
                mono = resampler.resample_chunk(np.ascontiguousarray(mono), last=ended)
            pieces.append(mono)
        return pieces, taken

    def _check_length(self, end: float | None, taken: int, frames: int) -> None:
        rate = self._file.samplerate
        if end is not None:
            if (frames - taken) / rate > TIME_TOLERANCE_S:
                raise ValueError(
                    f"{self.source}: ends at {self._position / rate:.2f} s, a sentence at {end:g} "
                    "s; correct the times or restore the file"
                )
        elif taken < frames * (MIN_SHARE_OF_MP3 if self._file.format == "MP3" else 1):
            raise ValueError(
                f"{self.source}: cut short: {taken} samples decoded, the header says {frames}"
            )


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
    """Raise RuntimeError for float32 [frames, channels] that cannot be sound."""
    peak = float(np.abs(block).max(initial=0))
    if not isfinite(peak):
        raise RuntimeError("a sample is not a finite number")
    if peak >= MAX_SAMPLE:
        raise RuntimeError(
            f"a sample is {peak:g} in magnitude, expected below {MAX_SAMPLE:g}; full scale is 1"
        )


def _reason(error: Exception) -> str:
    """Return the short reason of an error of libsndfile."""
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return text.removeprefix("Error : ").rstrip(".")
