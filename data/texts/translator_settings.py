"""Settings of `prepare.py translate`: the model or function that translates."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TranslatorSettings:
    """The translator and its speed."""

    translator: str = ""
    """Folder or repository on the Hugging Face hub of a Marian, NLLB, M2M100 or mBART model.
    Or your own function, module:function, which gets whole stories (data/texts/translators.py).
    The default is Marian's Helsinki-NLP/opus-mt-FROM-TO."""
    source_code: str = ""
    """Name of the language --from in a multilingual model, such as NLLB's eng_Latn.
    The default is the language itself."""
    target_code: str = ""
    """Name of the language --to in a multilingual model, such as NLLB's fra_Latn."""
    greedy: bool = False
    """Take the most likely token instead of the beam search that the model's settings ask for."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of a model."""
    batch: int = 64
    """Number of sentences that a model translates at once."""
    workers: int = 1
    """Number of threads that call your own function, a story each."""

    def __post_init__(self) -> None:
        for name in ("batch", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected at least 1")

    @property
    def is_own(self) -> bool:
        """True for a function of the user's."""
        return ":" in self.translator
