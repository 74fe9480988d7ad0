"""The words of SmolTolk's samples, told by the folder of their text beside that of their units.

    DATASET/TEXT/SPLIT.bin, .len, meta.pkl   tokens of the samples, each with its EOS
    DATASET/TEXT/SPLIT.wrds_tms_len          uint64: tokens of each word; the EOS counts as a word
    DATASET/TEXT/SPLIT.wrds_tms              float32: second of its sample at which each word ends

A word begins where the one before it ends, the first with its sample: so silence goes with the word
after it. The time of an EOS is not used. SmolTolk derives `.wrd_smps`, `.wrd_lens` and `.wrd_bnds`
from these files; they are not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tresse.data.word_places import spread_words

BLOCK = 1 << 18
SIZES, ENDS = ".wrds_tms_len", ".wrds_tms"


@dataclass(frozen=True)
class SampleWords:
    """The words of one sample."""

    path: Path
    """File of the times, for messages."""
    ends: np.ndarray
    """float32 [words], seconds from the start of the sample."""

    def place(self, frames: np.ndarray, frame_rate: float) -> list[int]:
        """Return the unit at which each word begins, as SmolTolk cuts them; each has at least one.

        frames: the unit of each frame, as its position in the sample. ValueError for times that
        fall or are none, and for words that the speech has no place for.
        """
        if not self.ends.size:
            raise ValueError(f"{self.path}: no words, expected one at least")
        before = np.append(np.float32(0), self.ends[:-1])
        if not np.all(self.ends >= before):  # nan is not
            word = int(np.argmin(self.ends >= before))
            begin, end = before[word], self.ends[word]
            raise ValueError(
                f"{self.path}: word {word} ends at {end:g} s, expected {begin:g} s or later, where "
                "it begins"
            )
        if float(before[-1]) * frame_rate >= frames.size + 1:
            raise ValueError(
                f"{self.path}: the last word begins at {before[-1]:g} s, expected a time within "
                f"the {frames.size / frame_rate:g} s of speech (deduplicated units need their .dur)"
            )
        starts = (before * np.float32(frame_rate)).astype(np.int64)
        places = frames[np.minimum(starts, frames.size - 1)] if frames.size else starts
        try:
            return spread_words(places.tolist(), int(frames[-1]) + 1 if frames.size else 0)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None


def read_words(
    path: Path, tokens: np.ndarray, lengths: np.ndarray, eos: int
) -> Iterator[SampleWords]:
    """Yield the words of each sample.

    path: the `.bin` file of the text. tokens: its content. lengths: tokens of each sample.
    ValueError names a file that is missing or cut short, or whose words are not those of the text.
    """
    sizes, ends = _open(path, SIZES, np.dtype("<u8")), _open(path, ENDS, np.dtype("<f4"))
    if sizes.size != ends.size:
        raise ValueError(
            f"{path.with_suffix(ENDS)}: {ends.size} times, expected one for each of the "
            f"{sizes.size} words of {path.stem}{SIZES}; one of the files is cut short"
        )
    _check_sizes(path, sizes, tokens.size)
    first = end = 0
    for sample, length in enumerate(map(int, lengths)):
        own = np.cumsum(sizes[first : first + length], dtype=np.int64)
        last = first + int(np.searchsorted(own, length))  # the first word that reaches the end
        end += length
        fault = _fault(sizes[first : last + 1], tokens[end - 1], length, eos)
        if fault:
            raise ValueError(
                f"{path.with_suffix(SIZES)}: sample {sample}: {fault}; the file belongs to another "
                "text"
            )
        yield SampleWords(path.with_suffix(ENDS), ends[first:last])
        first = last + 1


def _fault(sizes: np.ndarray, last_token: int, length: int, eos: int) -> str:
    """Say what is wrong with the words of a sample, or nothing."""
    total = int(sizes.sum())
    if not length or total != length:
        return f"its words have {total} tokens, expected {length or 'one or more'} as in the text"
    if sizes[-1] != 1 or last_token != eos:
        return (
            f"its last word has {sizes[-1]} tokens that end with {last_token}, expected the EOS "
            f"{eos} alone"
        )
    return ""


def _open(text: Path, ending: str, dtype: np.dtype) -> np.ndarray:
    path = text.with_suffix(ending)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; --words needs it")
    size = path.stat().st_size
    if not size or size % dtype.itemsize:
        raise ValueError(f"{path}: {size} bytes, expected {dtype} numbers; it is cut short")
    return np.memmap(path, dtype, mode="r")


def _check_sizes(path: Path, sizes: np.ndarray, num_tokens: int) -> None:
    """Check that the words have a token or more each, and all of the text together."""
    total = 0
    for i in range(0, sizes.size, BLOCK):
        block = sizes[i : i + BLOCK]
        wrong = (block < 1) | (block > num_tokens)  # larger ones could make the sum wrap around
        if wrong.any():
            word = int(np.argmax(wrong))
            raise ValueError(
                f"{path.with_suffix(SIZES)}: word {i + word} has {block[word]} tokens, expected 1 "
                f"to {num_tokens}, the tokens of {path.name}"
            )
        total += int(block.sum())
    if total != num_tokens:
        raise ValueError(
            f"{path.with_suffix(SIZES)}: words of {total} tokens in all, {path.name} has "
            f"{num_tokens}; the files do not belong together, or one is cut short"
        )
