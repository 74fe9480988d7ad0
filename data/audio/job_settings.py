"""How recordings become units, whatever the tokenizer."""

from dataclasses import dataclass
from math import inf
from typing import Any


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """How recordings become units."""

    joint: bool = False
    """Encode a document whole, gaps included, and cut its units at the sentences' times; else each
    sentence is encoded by itself."""
    min_seconds: float = 0.08
    """Recordings with a shorter sentence are left out."""
    max_seconds: float = 300.0
    """Recordings with a longer sentence, with --joint a longer document, are left out."""
    silence_db: float = -60.0
    """Recordings with a sentence that never gets louder than this are left out; 0 is full scale."""
    batch_seconds: float = 240.0
    """Audio that is encoded at once, padding included."""
    workers: int = 4
    """Threads that decode."""
    strict: bool = False
    """Stop at the first recording that would be left out."""
    skip_misaligned: bool = False
    """Leave out the keys whose documents differ in their number of sentences."""

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds <= self.max_seconds:
            raise ValueError(
                f"--min-seconds is {self.min_seconds}, --max-seconds {self.max_seconds}; expected "
                "numbers above 0, the second not below the first"
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
