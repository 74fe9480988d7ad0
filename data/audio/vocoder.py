"""Sound from units: a mean spectrum for every unit, and phases that fit by Griffin-Lim.

    spectra[k, p] = mean of log |STFT| over part p of all frames of unit k

An utterance is the spectra of its units, one after the other. Its phases start at random and become
those of a real waveform (Griffin and Lim 1984, in the fast form of Perraudin et al. 2013). Means
keep the shape of the vocal tract and lose the pitch: the result is a whisper. The same units always
give the same sound.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

WINDOW_MS, HOP_MS = 32, 10
FLOOR = 1e-4
"""Smallest magnitude: some 90 dB below that of a loud sound."""
ITERATIONS = 16
MOMENTUM = 0.99


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """The stretch of sound that a unit stands for."""

    sample_rate: int
    """Samples in a second."""
    frame_ms: int
    """Length of a unit, a multiple of `parts * HOP_MS`."""
    parts: int
    """Parts of a frame that have a spectrum each, one after the other."""

    @property
    def frame_samples(self) -> int:
        """Samples of a frame."""
        return self.sample_rate * self.frame_ms // 1000

    @property
    def hop(self) -> int:
        """Samples from one spectrum of the STFT to the next."""
        return self.sample_rate * HOP_MS // 1000

    @property
    def window(self) -> int:
        """Samples of a spectrum of the STFT."""
        return self.sample_rate * WINDOW_MS // 1000

    @property
    def num_bins(self) -> int:
        """Frequencies of a spectrum."""
        return self.window // 2 + 1

    def log_spectra(self, waveform: np.ndarray) -> np.ndarray:
        """Return float32 [ceil(samples / frame_samples), parts, num_bins] for float32 [samples]."""
        num_frames = -(-waveform.size // self.frame_samples)
        padded = np.pad(waveform, (0, num_frames * self.frame_samples - waveform.size))
        hops = _stft(torch.from_numpy(padded), self).abs()[:, :-1].clamp(min=FLOOR).log()
        return hops.T.reshape(num_frames, self.parts, -1, self.num_bins).mean(dim=2).numpy()

    def synthesise(self, log_spectra: np.ndarray) -> np.ndarray:
        """Return float32 [num_frames * frame_samples] for [num_frames, parts, num_bins]."""
        repeats = self.frame_ms // HOP_MS // self.parts
        hops = torch.from_numpy(log_spectra).flatten(0, 1).repeat_interleave(repeats, dim=0).exp()
        magnitudes = torch.cat((hops, hops[-1:])).T  # the STFT has a spectrum at either end
        return _griffin_lim(magnitudes.contiguous(), self).numpy()


def fit_spectra(
    examples: Iterable[tuple[np.ndarray, np.ndarray]], num_units: int, frames: Frames
) -> np.ndarray:
    """Return the spectra of units, float32 [num_units, parts, num_bins].

    examples: waveforms, float32 [samples], and their units, [num_frames]. A unit that does not
    occur in them gets the mean of all.
    """
    sums = np.zeros((num_units, frames.parts, frames.num_bins))
    counts = np.zeros(num_units, np.int64)
    for waveform, units in examples:
        np.add.at(sums, units, frames.log_spectra(waveform))
        np.add.at(counts, units, 1)
    overall = sums.sum(axis=0) / max(1, counts.sum())
    means = sums / np.maximum(counts, 1)[:, None, None]
    return np.where(counts[:, None, None] > 0, means, overall).astype(np.float32)


def _griffin_lim(magnitudes: torch.Tensor, frames: Frames) -> torch.Tensor:
    """Return the waveform, (samples,), whose STFT comes close to (num_bins, hops + 1)."""
    generator = torch.Generator().manual_seed(0)
    phases = torch.rand(magnitudes.shape, generator=generator) * (2 * torch.pi)
    angles, former = torch.polar(torch.ones_like(phases), phases), torch.zeros(())
    for _ in range(ITERATIONS):
        rebuilt = _stft(_istft(magnitudes * angles, frames), frames)
        angles = rebuilt - former * (MOMENTUM / (1 + MOMENTUM))
        angles, former = angles / angles.abs().clamp(min=1e-9), rebuilt
    return _istft(magnitudes * angles, frames)


def _stft(waveform: torch.Tensor, frames: Frames) -> torch.Tensor:
    """Return complex (num_bins, hops + 1); silence surrounds the waveform."""
    window = torch.hann_window(frames.window)
    return torch.stft(
        waveform, frames.window, frames.hop, window=window, pad_mode="constant", return_complex=True
    )


def _istft(spectra: torch.Tensor, frames: Frames) -> torch.Tensor:
    length = (spectra.shape[1] - 1) * frames.hop
    window = torch.hann_window(frames.window)
    return torch.istft(spectra, frames.window, frames.hop, window=window, length=length)
