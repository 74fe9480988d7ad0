"""Hours of audio that become units in a second, and the share of the time spent on decoding.

    python bench/audio.py --tokenizers decode kmeans mimi --kinds wav flac --json records.json

Runs the job of `prepare.py audio` on generated recordings. `wait_share` is the share of the time in
which the tokenizer waited for decoded clips. `decode` is the job with a tokenizer that does
nothing: the speed of the decoding threads. Mimi has random weights, as fast as trained ones.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import tyro

from tresse.bench.records import write_records
from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.kmeans import fit
from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import File, Span
from tresse.data.audio.tokenise import tokenise
from tresse.data.audio.tokenizers import AudioTokenizer
from tresse.data.processes import device
from tresse.data.store.tokenizer import Tokenizer

COLUMNS = ("tokenizer", "kind", "hours", "hours_per_s", "times_real_time", "wait_share")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the job from recordings to units."""

    tokenizers: tuple[Literal["decode", "kmeans", "mimi"], ...] = ("decode", "kmeans", "mimi")
    """Tokenizers to measure; `decode` gives the speed of decoding alone."""
    kinds: tuple[str, ...] = ("wav", "flac", "mp3")
    """Kinds of audio files to measure."""
    hours: float = 0.5
    """Hours of audio for each measurement."""
    sentence_s: float = 5.0
    """Mean seconds of a sentence; each has 0.4 to 1.6 times that, ten to a recording."""
    sample_rate: int = 24_000
    """Sample rate of the files in Hz."""
    batch_seconds: float = 240.0
    """Seconds of audio that are encoded at once, padding included."""
    workers: int = 4
    """Number of threads that decode."""
    units: int = 500
    """Number of units of k-means."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of Mimi's encoder."""
    json: str = ""
    """File to write the results to, as JSON; none by default."""


class Decode:
    """A tokenizer that does nothing, so that the job's time is that of decoding."""

    sample_rate = 24_000
    identity = Tokenizer("decode", "", "25/2", 1)

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return a zero for each 80 ms."""
        return [np.zeros(-(-waveform.size // 1920), np.int64) for waveform in waveforms]


def main(options: Options) -> None:
    """Measure every tokenizer on every kind of file, and print a table."""
    records = []
    print("  ".join(COLUMNS))
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            recordings = write_recordings(Path(folder), kind, options)
            for name in options.tokenizers:
                records.append(measure(name, kind, recordings, Path(folder), options))
                print("  ".join(_format(records[-1][column]) for column in COLUMNS))
    if options.json:
        write_records(options.json, records)


def measure(
    name: str, kind: str, recordings: list[Recording], folder: Path, options: Options
) -> dict[str, Any]:
    """Run the job once, after one recording to warm up."""
    tokenizer = build(name, recordings, folder, options)
    tokenizer.encode([np.zeros(tokenizer.sample_rate, np.float32)])
    settings = JobSettings(batch_seconds=options.batch_seconds, workers=options.workers)
    before = time.monotonic()
    times = tokenise(recordings, tokenizer, folder / f"corpus-{name}", settings).times
    return {
        "tokenizer": name,
        "kind": kind,
        "sample_rate": options.sample_rate,
        "device": device(),
        "precision": options.precision if name == "mimi" else "",
        "workers": options.workers,
        "batch_seconds": options.batch_seconds,
        "hours": times.audio / 3600,
        "hours_per_s": times.audio / 3600 / times.whole,
        "times_real_time": times.audio / times.whole,
        "wait_share": times.wait / times.whole,
        "encode_share": times.encode / times.whole,
        "with_assembly_s": time.monotonic() - before,
    }


def build(name: str, recordings: list[Recording], folder: Path, options: Options) -> AudioTokenizer:
    """Build the tokenizer of that name; Mimi has random weights, k-means is fitted here."""
    if name == "decode":
        return Decode()
    if name == "kmeans":
        hours = options.units * 40 * 0.08 / 3600
        return fit(recordings, options.units, folder / "units.safetensors", hours=hours)
    from moshi.models.loaders import get_mimi

    from tresse.data.audio.mimi import Mimi

    return Mimi(get_mimi(None, device=device()), "random", options.precision)


def write_recordings(folder: Path, kind: str, options: Options) -> list[Recording]:
    """Write noise with a tone and a rhythm, ten sentences a file."""
    rng, seconds, recordings = np.random.default_rng(0), 0.0, []
    while seconds < options.hours * 3600:
        lengths = options.sentence_s * rng.uniform(0.4, 1.6, 10)
        ends = np.cumsum(lengths)
        t = np.arange(int((ends[-1] + 0.1) * options.sample_rate)) / options.sample_rate
        tone = np.sin(2 * np.pi * rng.uniform(100, 250) * t) * np.sin(2 * np.pi * 4 * t)
        sound = 0.1 * tone + 0.01 * rng.standard_normal(t.size)
        path = folder / f"{len(recordings):05d}.{kind}"
        soundfile.write(path, sound, options.sample_rate)
        source = File(str(path))
        times = zip(np.append(0, ends[:-1]), ends, strict=True)
        spans = tuple(Span(source, float(start), float(end)) for start, end in times)
        recordings.append(Recording(path.stem, "en", spans))
        seconds += ends[-1]
    return recordings


def _format(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(tyro.cli(Options))
