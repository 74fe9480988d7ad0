"""Which model speaks texts, and how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DsmSettings:
    """Which model speaks, and how."""

    tts_repo: str = "kyutai/tts-1.6b-en_fr"
    """Repository of the hub."""
    tts_weights: Path | None = None
    """Folder with config.json and the files that it names, instead of the hub's."""
    guidance: float = 2.0
    """Strength of classifier-free guidance; models distilled for it know 1 to 4 by 0.5."""
    temperature: float = 0.6
    """Of sampling, in text and audio."""
    codebooks: int = 32
    """Codebooks that are generated, as the model hears itself; fewer are faster and worse."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the model."""

    @property
    def variant(self) -> str:
        """What changes units beyond the weights: the same in all parts of a job."""
        return (
            f"guidance {self.guidance:g}, temperature {self.temperature:g}, {self.codebooks} "
            f"codebooks, {self.precision}"
        )


@dataclass(frozen=True, kw_only=True)
class SpeakSettings:
    """How texts are spoken."""

    batch: int = 32
    """Texts that are spoken at once."""
    seed: int = 0
    """Draws the voices, and the model's samples."""
    keep_audio: bool = False
    """Decode the audio too: CORPUS/recordings.jsonl lists it, to listen to or for choose-voices."""
    strict: bool = False
    """Stop at the first text that would be left out."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}, expected at least 1")
