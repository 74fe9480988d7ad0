"""Texts divided into train, valid and eval by a hash of their keys.

The part of a text follows from its key, the shares and the seed alone: all languages of a key are
in the same part, also those that are written later.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import xxhash

from tresse.data.durable import replaced_file, staged_folder
from tresse.data.left_out import LeftOut
from tresse.data.texts.texts import Text, encode_text

PARTS = ("train", "valid", "eval")


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Shares of the parts, and the draw."""

    valid: float = 0.01
    """Share of the keys that goes to valid.jsonl."""
    eval: float = 0.0
    """Share of the keys that goes to eval.jsonl. The rest goes to train.jsonl."""
    seed: int = 0
    """Seed of the hash that divides the keys."""

    def __post_init__(self) -> None:
        if not (self.valid >= 0 and self.eval >= 0 and self.valid + self.eval < 1):
            raise ValueError(
                f"--valid is {self.valid:g} and --eval is {self.eval:g}, expected shares from 0 "
                "whose sum is below 1"
            )

    @property
    def parts(self) -> list[str]:
        """The parts that have a share."""
        return [part for part in PARTS if part == "train" or getattr(self, part)]


def split_texts(
    texts: Iterable[Text], out: Path, settings: SplitSettings, left_out: LeftOut
) -> dict[str, int]:
    """Write a manifest for each part into the folder `out`; return the number of texts in each."""
    counts = dict.fromkeys(settings.parts, 0)
    with staged_folder(out) as folder:
        with ExitStack() as stack:
            files = {
                part: stack.enter_context(replaced_file(folder / f"{part}.jsonl"))
                for part in counts
            }
            for text in texts:
                part = choose_part(text.key, settings)
                files[part].write(encode_text(text))
                counts[part] += 1
        if not any(counts.values()):
            raise ValueError("no texts")
        left_out.write(folder)
    return counts


def choose_part(key: str, settings: SplitSettings) -> str:
    """Return the part of a key: hashes of all keys are spread evenly over [0, 1)."""
    # The draws of voices hash the key alone; they must not depend on the part.
    digest = xxhash.xxh3_64_intdigest(f"split/{key}".encode(), seed=settings.seed)
    place = digest / 2**64
    if place < settings.valid:
        return "valid"
    return "eval" if place < settings.valid + settings.eval else "train"
