"""Speech-like sounds for tests: a gliding buzz with a syllable rhythm, different for every seed."""

from pathlib import Path

import numpy as np
import soundfile

from tresse.data.audio.job_settings import JobSettings

SMALL = JobSettings(batch_seconds=1.0, workers=2)
"""Groups of 8 seconds: two or three recordings."""


def buzz(seconds: float, sample_rate: int = 24_000, seed: int = 0) -> np.ndarray:
    """float32 [samples]."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch, glide, rhythm = rng.uniform(90, 250), rng.uniform(-20, 40), rng.uniform(3, 6)
    phase = 2 * np.pi * (pitch + glide * np.sin(t)) * t
    voice = sum(np.sin(k * phase) / k**1.2 for k in range(1, 9))
    sound = voice * (0.55 + 0.45 * np.sin(2 * np.pi * rhythm * t))
    return (0.1 * sound + 0.005 * rng.standard_normal(t.size)).astype(np.float32)


def write_buzz(
    path: Path, seconds: float, sample_rate: int = 24_000, seed: int = 0, channels: int = 1
) -> Path:
    """Write a file of the kind that its name says; further channels are quieter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = buzz(seconds, sample_rate, seed)
    soundfile.write(path, np.stack([sound / 2**i for i in range(channels)], axis=1), sample_rate)
    return path
