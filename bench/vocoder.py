"""The units that come back when sound made of units is encoded again, and the speed of both.

    python bench/vocoder.py runs/demo-speech/speech/train/recordings.jsonl \
        --held-out runs/demo-speech/speech/valid/recordings.jsonl --json bench/results/vocoder.json

Units are fitted on the first recordings. Each held-out sentence is encoded, its units are decoded
and encoded again. `same` is the share of frames with the same unit, `chance` the share if units
were drawn by their frequencies.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from tresse.bench.records import write_records
from tresse.data.audio.kmeans import KMeansUnits, fit
from tresse.data.audio.recordings import read_recordings
from tresse.data.audio.waveforms import read_spans

COLUMNS = ("units", "same", "chance", "encode_times_real_time", "decode_times_real_time")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the vocoder of k-means units."""

    recordings: tyro.conf.Positional[tuple[Path, ...]]
    """Manifests of the recordings to fit units on."""
    held_out: tuple[Path, ...]
    """Manifests of other recordings, to measure on."""
    units: tuple[int, ...] = (200, 500, 2000)
    """Numbers of units."""
    hours: float = 1.0
    """Hours to fit units on."""
    limit: int = 40
    """Number of held-out recordings; those of every language take part alike."""
    json: str = ""
    """File for the results; empty: none."""


def main(options: Options) -> None:
    """Measure each number of units, print a table, and write the results if there is a file."""
    waveforms = read_waveforms(options)
    records = []
    print("  ".join(COLUMNS))
    for num_units in options.units:
        with tempfile.TemporaryDirectory() as folder:
            recordings = read_recordings(options.recordings)
            path = Path(folder, "units.safetensors")
            tokenizer = fit(recordings, num_units, path, hours=options.hours)
        records.append(measure(tokenizer, waveforms) | {"fitted_hours": options.hours})
        print("  ".join(f"{records[-1][column]:,.4g}" for column in COLUMNS))
    if options.json:
        write_records(options.json, records)


def read_waveforms(options: Options) -> list[np.ndarray]:
    """Return the sentences of held-out recordings, evenly spread over their list."""
    held_out = read_recordings(options.held_out)
    chosen = held_out[:: max(1, len(held_out) // options.limit)][: options.limit]
    return [waveform for each in chosen for waveform in read_spans(each.sentences, 16_000)]


def measure(tokenizer: KMeansUnits, waveforms: list[np.ndarray]) -> dict[str, Any]:
    """Encode, decode and encode again."""
    began = time.perf_counter()
    units = tokenizer.encode(waveforms)
    encoded = time.perf_counter()
    sounds = [tokenizer.decode(each) for each in units]
    decoded = time.perf_counter()
    given, again = np.concatenate(units), np.concatenate(tokenizer.encode(sounds))
    frequencies = np.bincount(given) / given.size
    seconds = given.size * tokenizer.features.frame_ms / 1000
    return {
        "units": tokenizer.identity.vocab_size,
        "frames": given.size,
        "same": float((given == again).mean()),
        "chance": float((frequencies**2).sum()),
        "encode_times_real_time": seconds / (encoded - began),
        "decode_times_real_time": seconds / (decoded - encoded),
    }


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
