"""Embeddings of speakers: vectors that are near for one voice and far for two.

For a model of your own write a function, in a module that Python can import or that lies in the
current folder, and name it as `--embedder module:function`. It is called with the device and
returns an object with the members of `SpeakerEmbedder`.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tresse.data.plugins import build_own

MEMBERS = ("sample_rate", "embed")


class SpeakerEmbedder(Protocol):
    """A model that turns waveforms into vectors."""

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz of the waveforms that `embed` takes."""
        ...

    def embed(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Return vectors [N, D], of any norm, of N waveforms, mono, float32 [samples]."""
        ...


class Resemblyzer:
    """The d-vectors of the package resemblyzer, whose 17 MB hold the weights (Apache-2.0).

    Three LSTMs over windows of 1.6 s of a mel spectrogram, trained for the generalised end-to-end
    loss (Wan et al. 2018, https://arxiv.org/abs/1710.10467). Only the weights are used: importing
    the package would need librosa and webrtcvad. Silence is not cut out, as its own preprocessing
    does.
    """

    sample_rate = 16_000
    window, hop, num_mels = 400, 160, 40
    frames, step = 160, 77
    """Frames of the mel spectrogram in a window, and from the start of one to the next."""
    level_db = -30.0
    """Loudness in dB to which quieter waveforms are amplified; 0 is full scale."""
    min_share = 0.75
    """Share of the last window that the waveform must fill; else that window is left out."""

    def __init__(self, weights: Path, device: str) -> None:
        self._device = device
        self._lstm = nn.LSTM(self.num_mels, 256, 3, batch_first=True)
        self._linear = nn.Linear(256, 256)
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        for name, module in (("lstm.", self._lstm), ("linear.", self._linear)):
            own = {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}
            module.load_state_dict(own)
            module.to(device)
        self._filters = mel_filters(self.sample_rate, self.window, self.num_mels)

    @torch.no_grad()
    def embed(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [N, 256], each the mean of the unit vectors of its windows."""
        windows = [self._windows(torch.from_numpy(waveform)) for waveform in waveforms]
        _, (hidden, _) = self._lstm(torch.cat(windows).to(self._device))
        vectors = nn.functional.normalize(self._linear(hidden[-1]).relu(), dim=1)
        parts = vectors.cpu().split([len(own) for own in windows])
        return torch.stack([own.mean(dim=0) for own in parts]).numpy()

    def _windows(self, waveform: Tensor) -> Tensor:
        """Return float32 [num_windows, frames, num_mels] for float32 [samples]."""
        num_frames = -(-(len(waveform) + 1) // self.hop)
        starts = range(0, max(1, num_frames - self.frames + self.step + 1), self.step)
        there = (len(waveform) - starts[-1] * self.hop) / (self.frames * self.hop)
        if there < self.min_share and len(starts) > 1:
            starts = starts[:-1]
        missing = (starts[-1] + self.frames) * self.hop - len(waveform)
        level = 10 * torch.log10(waveform.square().mean())
        louder = 10 ** (max(0.0, self.level_db - float(level)) / 20)
        mels = self._mels(nn.functional.pad(waveform * louder, (0, max(0, missing))))
        return torch.stack([mels[start : start + self.frames] for start in starts])

    def _mels(self, waveform: Tensor) -> Tensor:
        """Return the power in bands of frequency, float32 [samples // hop + 1, num_mels]."""
        spectrum = torch.stft(
            waveform,
            self.window,
            self.hop,
            window=torch.hann_window(self.window),
            pad_mode="constant",
            return_complex=True,
        )
        return (self._filters @ spectrum.abs().square()).T


def mel_filters(sample_rate: int, window: int, num_mels: int) -> Tensor:
    """Return triangles of equal area on Slaney's mel scale, float32 [num_mels, window // 2 + 1].

    The scale is linear up to 1000 Hz, which is 15 mel; above, a factor of 6.4 in Hz is 27 mel.
    """
    top = 15 + 27 * np.log(sample_rate / 2 / 1000) / np.log(6.4)
    mel = np.linspace(0, top, num_mels + 2)
    hz = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
    bins = np.fft.rfftfreq(window, 1 / sample_rate)
    rise = (bins - hz[:-2, None]) / np.diff(hz)[:-1, None]
    fall = (hz[2:, None] - bins) / np.diff(hz)[1:, None]
    triangles = np.maximum(0, np.minimum(rise, fall)) * 2 / (hz[2:] - hz[:-2])[:, None]
    return torch.from_numpy(triangles.astype(np.float32))


def load_embedder(name: str, device: str) -> SpeakerEmbedder:
    """Load `resemblyzer`, or the embedder that `module:function` builds; ValueError without one."""
    if name == "resemblyzer":
        package = find_spec("resemblyzer")
        if package is None or not package.submodule_search_locations:
            raise ValueError(
                "--embedder resemblyzer needs the package: pip install --no-deps resemblyzer"
            )
        return Resemblyzer(Path(package.submodule_search_locations[0]) / "pretrained.pt", device)
    return build_own("--embedder", name, "resemblyzer", device, MEMBERS)
