"""Settings of the job from recordings to units, the same for every tokenizer."""

from dataclasses import dataclass
from math import inf
from typing import Any

from tresse.data.left_out import OnFault


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Settings of the job that turns recordings into units, for every tokenizer."""

    joint: bool = False
    """Encode a document as a whole, gaps included, and cut its units at the times of its sentences.
    By default each sentence is encoded by itself."""
    min_seconds: float = 0.08
    """Shortest sentence in seconds. Recordings with a shorter one are left out."""
    max_seconds: float = 300.0
    """Longest sentence in seconds; with --joint the longest document.
    Longer recordings are left out."""
    silence_db: float = -60.0
    """Loudness in dB that each sentence must exceed somewhere; 0 is full scale.
    Recordings with a quieter sentence are left out."""
    batch_seconds: float = 240.0
    """Seconds of audio that are encoded at once, padding included. Less takes less memory."""
    workers: int = 4
    """Number of threads that decode audio files."""
    on_fault: OnFault = "skip"
    """What to do at a recording that cannot be used: `stop`, or `skip` it.
    OUT/skipped.jsonl lists those that are left out. A key that is there twice always stops."""
    skip_misaligned: bool = False
    """Leave out keys whose documents differ in their number of sentences.
    By default such a key is an error."""

    words: bool = False
    """Keep the words of each sentence, for streams that change language by words.
    Manifests, moshi-finetune and Lhotse can have their times."""

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds <= self.max_seconds:
            raise ValueError(
                f"--min-seconds is {self.min_seconds}, --max-seconds {self.max_seconds}; expected "
                "numbers above 0, the first at most the second"
            )
        if not self.silence_db <= 0:
            raise ValueError(f"--silence-db is {self.silence_db}, expected a number of at most 0")
        if not 0 < self.batch_seconds < inf:
            raise ValueError(
                f"--batch-seconds is {self.batch_seconds}, expected a finite number above 0"
            )
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, expected at least 1")

    def deciding_units(self) -> dict[str, Any]:
        """Return the settings that units depend on."""
        names = ("joint", "min_seconds", "max_seconds", "silence_db", "batch_seconds")
        return {name: getattr(self, name) for name in names}
