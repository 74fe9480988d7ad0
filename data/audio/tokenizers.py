"""What turns waveforms into units, and how one is named on the command line.

A tokenizer of your own is a function in a module that Python can import, or that lies in the
current folder, named as `--tokenizer module:function`. It is called with the device ("cpu",
"cuda:0") and returns an object with the members of `AudioTokenizer`.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from tresse.data.store.documents import Tokenizer

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


def device() -> str:
    """The GPU of this process where there is one, torchrun's LOCAL_RANK, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank} has no GPU: {torch.cuda.device_count()} found here; "
            "start torchrun with --nproc-per-node of at most that many"
        )
    return f"cuda:{local_rank}"


def build_own(flag: str, name: str, known: str, device: str, members: Sequence[str]) -> Any:
    """Call the user's `module:function` with a device and return the object that it builds.

    ValueError names flag and value: not found, not a function of a device, or a member is missing.
    What is raised within the user's function stays as it is.
    """
    build = _import_own(flag, name, known)
    try:
        own = build(device)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # the call itself succeeded
        raise ValueError(
            f"{flag} {name}: {error}; expected a function that is called with the device"
        ) from None
    if missing := [member for member in members if not hasattr(own, member)]:
        raise ValueError(
            f"{flag} {name} gave an object of type {type(own).__name__}, which has no "
            f"{', '.join(missing)}; expected one with {', '.join(members)}"
        )
    return own


def _import_own(flag: str, name: str, known: str) -> Callable[[str], Any]:
    module, _, function = name.partition(":")
    if not function or not all(module.split(".")):
        raise ValueError(f"{flag} is {name!r}, expected {known} or module:function")
    if (folder := str(Path.cwd())) not in sys.path:  # a script has its own folder there instead
        sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{flag} {name}: {error}") from None
