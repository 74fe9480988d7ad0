"""What turns waveforms into units, and how one is named on the command line.

A tokenizer of your own is a function in a module that Python can import, or that lies in the
current folder, named as `--tokenizer module:function`. It is called with the device ("cpu",
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
    """Waveforms to units."""

    @property
    def identity(self) -> Tokenizer:
        """Name, hash of the weights, frame rate and vocabulary, as the corpus will have them."""
        ...

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms it wants."""
        ...

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Units of each waveform.

        waveforms: mono, float32 [samples], full scale 1, of any lengths, each at least a frame.
        Returns integers [num_frames] each, where frame i is about the sound from i / frame_rate
        seconds on. A waveform's units must not depend on the others of the batch.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """Which tokenizer, and how it runs."""

    tokenizer: str
    """mimi, kmeans, or module:function for one of your own."""
    mimi_weights: str = ""
    """Mimi's weights: a safetensors file, or hf://owner/repository/file; empty for Kyutai's."""
    kmeans: Path | None = None
    """The units that `fit-kmeans` wrote."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of Mimi's encoder. A few units in a thousand differ between the two."""
    compile: bool = False
    """Compile Mimi's encoder (torch.compile)."""

    @property
    def variant(self) -> str:
        """What changes units beyond the tokenizer's identity: the same in all parts of a job."""
        if self.tokenizer != "mimi":
            return ""
        return f"{self.precision}, compiled" if self.compile else self.precision


def load_tokenizer(settings: TokenizerSettings) -> AudioTokenizer:
    """Load the tokenizer on this process' device; ValueError when something is missing."""
    name = settings.tokenizer
    if name == "kmeans" and settings.kmeans is None:
        raise ValueError("--tokenizer kmeans needs --kmeans FILE, which fit-kmeans writes")
    if settings.kmeans is not None and name != "kmeans":
        raise ValueError(f"--kmeans is for --tokenizer kmeans, not for {name}")
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
