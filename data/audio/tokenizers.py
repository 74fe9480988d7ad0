"""Tokenizers of audio, which turn waveforms into units, and their names on the command line.

For a tokenizer of your own write a function, in a module that Python can import or that lies in the
current folder, and name it as `--tokenizer module:function`. It is called with the device ("cpu",
"cuda:0") and returns an object with the members of `AudioTokenizer`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from tresse.data.plugins import build_own
from tresse.data.processes import device
from tresse.data.store.tokenizer import Tokenizer

MEMBERS = ("identity", "sample_rate", "encode")


class AudioTokenizer(Protocol):
    """A tokenizer that turns waveforms into units."""

    @property
    def identity(self) -> Tokenizer:
        """Name, hash of the weights, frame rate and vocabulary size, which the corpus stores."""
        ...

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz of the waveforms that `encode` takes."""
        ...

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the units of each waveform.

        waveforms: mono, float32 [samples], full scale 1, of any lengths, each at least a frame.
        Returns integers [num_frames] each; frame i starts at i / frame_rate seconds. The units of
        a waveform must not depend on the other waveforms of the batch.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """The tokenizer and its settings."""

    tokenizer: str
    """Tokenizer: mimi, kmeans, or your own module:function."""
    mimi_weights: str = ""
    """Mimi's weights: a .safetensors file, or hf://owner/repository/file on the Hugging Face hub.
    By default Kyutai's weights are downloaded."""
    kmeans: Path | None = None
    """File of units that `fit-kmeans` wrote; for `--tokenizer kmeans`, which needs it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of Mimi's encoder. A few units in a thousand differ between the two."""
    compile: bool = False
    """Compile Mimi's encoder (torch.compile)."""

    @property
    def variant(self) -> str:
        """Settings that change units beyond the tokenizer's identity; the same throughout a job."""
        if self.tokenizer != "mimi":
            return ""
        return f"{self.precision}, compiled" if self.compile else self.precision


def load_tokenizer(settings: TokenizerSettings) -> AudioTokenizer:
    """Load the tokenizer on this process' device; ValueError for flags or files that do not fit."""
    name = settings.tokenizer
    if name == "kmeans" and settings.kmeans is None:
        raise ValueError("--tokenizer kmeans needs --kmeans FILE, which fit-kmeans writes")
    if settings.kmeans is not None and name != "kmeans":
        raise ValueError(f"--kmeans is for --tokenizer kmeans, the tokenizer is {name}")
    if settings.mimi_weights and name != "mimi":
        raise ValueError(f"--mimi-weights is for --tokenizer mimi, the tokenizer is {name}")
    if settings.kmeans is not None:
        from tresse.data.audio.kmeans import KMeansUnits

        return KMeansUnits.open(settings.kmeans)
    if name == "mimi":
        from tresse.data.audio.mimi import load_mimi

        return load_mimi(
            settings.mimi_weights, device(), settings.precision, compile_encoder=settings.compile
        )
    return build_own("--tokenizer", name, "mimi, kmeans", device(), MEMBERS)
