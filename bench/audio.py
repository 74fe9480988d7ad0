"""Hours of audio that become units per second, and how much of that time decoding takes.

    python bench/audio.py --tokenizers decode kmeans mimi --kinds wav flac --json rows.json

Through the job of `prepare audio`, on recordings made here: `wait_share` is the part of its time
that the tokenizer waited for decoded clips. `decode` is the job without a tokenizer: what the
threads can give. Mimi has random weights, which cost what trained ones cost.
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

from tresse.bench.rows import write_rows
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
    """Measure the way from audio to units."""

    tokenizers: tuple[Literal["decode", "kmeans", "mimi"], ...] = ("decode", "kmeans", "mimi")
    """What makes the units."""
    kinds: tuple[str, ...] = ("wav", "flac", "mp3")
    """Kinds of files."""
    hours: float = 0.5
    """Audio for each row."""
    sentence_s: float = 5.0
    """Mean length of a sentence; they have 0.4 to 1.6 times that, ten to a recording."""
    sample_rate: int = 24_000
    """Of the files."""
    batch_seconds: float = 240.0
    """Audio that is encoded at once."""
    workers: int = 4
    """Threads that decode."""
    units: int = 500
    """Of k-means."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of Mimi's encoder."""
    json: str = ""
    """File for the rows."""


class Decode:
    """A tokenizer that does nothing, so that the job's time is decoding's."""

    sample_rate = 24_000
    identity = Tokenizer("decode", "", "25/2", 1)

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A zero for each 80 ms."""
        return [np.zeros(-(-waveform.size // 1920), np.int64) for waveform in waveforms]


def main(options: Options) -> None:
    """Measure every pair and print a table."""
    rows = []
    print("  ".join(COLUMNS))
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            recordings = write_recordings(Path(folder), kind, options)
            for name in options.tokenizers:
                rows.append(measure(name, kind, recordings, Path(folder), options))
                print("  ".join(_format(rows[-1][column]) for column in COLUMNS))
    if options.json:
        write_rows(options.json, rows)


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
    """A tokenizer of that name, with random weights or few units."""
    if name == "decode":
        return Decode()
    if name == "kmeans":
        hours = options.units * 40 * 0.08 / 3600
        return fit(recordings, options.units, folder / "units.safetensors", hours=hours)
    from moshi.models.loaders import get_mimi

    from tresse.data.audio.mimi import Mimi

    return Mimi(get_mimi(None, device=device()), "random", options.precision)


def write_recordings(folder: Path, kind: str, options: Options) -> list[Recording]:
    """Noise with a tone and a rhythm, ten sentences a file."""
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
