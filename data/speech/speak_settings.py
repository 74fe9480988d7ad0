"""Settings of `prepare.py speak`: the model that speaks texts, and the job."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tresse.data.left_out import OnFault


@dataclass(frozen=True, kw_only=True)
class DsmSettings:
    """The TTS model and its sampling."""

    tts_repo: str = "kyutai/tts-1.6b-en_fr"
    """Repository of the TTS model on the Hugging Face hub."""
    tts_weights: Path | None = None
    """Folder with the model's config.json and the files that it names.
    By default they are downloaded from --tts-repo."""
    guidance: float = 2.0
    """Strength of classifier-free guidance.
    Models that are distilled for it, like the default one, take 1 to 4 in steps of 0.5."""
    temperature: float = 0.6
    """Temperature of sampling, for text and audio."""
    codebooks: int = 32
    """Number of codebooks that the model generates and hears; the corpus has only the first.
    Fewer are faster and sound worse."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Precision of the model."""

    @property
    def variant(self) -> str:
        """Settings that change units beyond the weights; the same throughout a job."""
        return (
            f"guidance {self.guidance:g}, temperature {self.temperature:g}, {self.codebooks} "
            f"codebooks, {self.precision}"
        )


@dataclass(frozen=True, kw_only=True)
class SpeakSettings:
    """Settings of the job that speaks texts."""

    batch: int = 32
    """Number of texts that are spoken at once."""
    seed: int = 0
    """Seed of the draw of voices and of the model's sampling."""
    keep_audio: bool = False
    """Write the audio too, to listen to or for choose-voices.
    These are FLAC files, listed in CORPUS/recordings.jsonl."""
    on_fault: OnFault = "skip"
    """What to do at a text that cannot be read, or is not spoken to its end: `stop`, or `skip` it.
    OUT/skipped.jsonl lists those that are left out. A key that is there twice always stops."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"--batch is {self.batch}, expected at least 1")
