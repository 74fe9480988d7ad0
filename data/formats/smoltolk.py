"""SmolTolk's flat token files (https://github.com/vozlms/smoltolk_base).

    DATASET/FEATURES/SPLIT.bin   uint16, uint32 if vocab_size > 65,536; [frames, n_q], n_q fastest
    DATASET/FEATURES/SPLIT.len   uint64 or uint16: frames of each sample, its EOS included
    DATASET/FEATURES/SPLIT.dur   uint8, only for deduplicated units: repetitions of each
    DATASET/FEATURES/meta.pkl    {"vocab_size": 2050, "eos": 2048, "pad": 2049, "n_q": 8,
                                 "frame_rate": 12.5}

Samples have no names; they are called DATASET/FEATURES/SPLIT/NUMBER. Only the first codebook is
read: Mimi's semantic one. DATASET/TEXT/SPLIT.* may tell their words (`smoltolk_words`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tresse.data.formats.durations import expand
from tresse.data.formats.plain_pickle import read_plain_pickle
from tresse.data.formats.smoltolk_words import SampleWords, read_words
from tresse.data.formats.utterances import Utterance
from tresse.data.left_out import ContradictionError, LeftOut
from tresse.data.lines import check_files

LENGTHS = ("<u8", "<u2")  # this order: small uint64 lengths have the same sum as uint16
BLOCK = 1 << 20


@dataclass(frozen=True)
class Meta:
    """Content of a meta.pkl."""

    vocab_size: int
    eos: int
    pad: int
    n_q: int
    """Number of codebooks."""
    frame_rate: str
    """Frames per second, as a fraction."""

    @property
    def num_units(self) -> int:
        """Number of units; the two special tokens come after them."""
        return self.vocab_size - 2

    @property
    def dtype(self) -> np.dtype:
        """Type of the tokens in the .bin file."""
        return _dtype(self.vocab_size)


def read_meta(paths: Sequence[str | Path]) -> Meta:
    """Read the meta.pkl beside the files; ValueError when several of them differ."""
    folders = dict.fromkeys(path.parent for path in check_files(paths, ".bin"))
    metas = {folder: _read_meta(folder / "meta.pkl") for folder in folders}
    first = next(iter(metas))
    for folder, meta in metas.items():
        if meta != metas[first]:
            raise ValueError(f"{folder}/meta.pkl says {meta}, {first}/meta.pkl {metas[first]}")
    return metas[first]


def _read_meta(path: Path) -> Meta:
    content = read_plain_pickle(path)
    counts = {name: _count(content, name, path) for name in ("vocab_size", "eos", "pad", "n_q")}
    rate = content.get("frame_rate")
    if not isinstance(rate, (int, float)) or not 0 < rate < 1e6:
        raise ValueError(f"{path}: frame_rate is {rate!r}, expected units per second")
    meta = Meta(**counts, frame_rate=str(Fraction(str(rate))))
    if {meta.eos, meta.pad} != {meta.num_units, meta.num_units + 1} or meta.n_q < 1:
        raise ValueError(
            f"{path}: eos {meta.eos}, pad {meta.pad} and n_q {meta.n_q} with a vocabulary of "
            f"{meta.vocab_size}; expected eos and pad as the last two tokens and n_q of 1 or more"
        )
    return meta


def _count(content: dict[str, Any], name: str, path: Path) -> int:
    count = content.get(name)
    if type(count) is not int or not 0 <= count <= 1 << 32:
        raise ValueError(f"{path}: {name} is {count!r}, expected a count")
    return count


def _dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u4" if vocab_size > 1 << 16 else "<u2")


def read_smoltolk(
    paths: Sequence[str | Path],
    meta: Meta,
    left_out: LeftOut | None = None,
    *,
    expand_durations: bool,
    words: str = "",
) -> Iterator[Utterance]:
    """Yield the samples of `*.bin` files, without EOS and padding.

    `expand_durations` repeats each unit as the `.dur` file says. `words` is the folder of text,
    beside that of the units, whose words the samples get. ValueError names the file, and the sample
    if it does not end with EOS, as with the `.len` file of another `.bin`.
    """
    files = check_files(paths, ".bin")
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as bar:
        for path in files:
            samples = _read_file(path, meta, bar, expands=expand_durations, text=words)
            for _, utterance in (left_out or LeftOut()).parsed(samples, lambda parse: parse()):
                yield utterance


@dataclass(frozen=True)
class _Units:
    """An open `.bin` file of units."""

    path: Path
    meta: Meta
    tokens: np.ndarray
    """uint16 or uint32 [frames, codebooks]."""
    durations: np.ndarray | None
    """uint8 [frames], the repetitions of each unit; None where they are not needed."""
    expands: bool
    """Whether units are repeated."""

    def sample(self, index: int, start: int, end: int, words: SampleWords | None) -> Utterance:
        """Return the sample of these frames of the file."""
        units = _strip(self.tokens[start:end, 0], self.meta)
        heard = np.arange(len(units))  # for each frame that was heard, the position of its unit
        if self.durations is not None:
            heard = expand(heard, self.durations[start : start + len(units)])
        if self.expands:
            units, heard = units[heard], np.arange(len(heard))
        rate = float(Fraction(self.meta.frame_rate))
        places = None if words is None else [words.place(heard, rate)]
        name = "/".join([*self.path.absolute().parts[-3:-1], self.path.stem, str(index)])
        return Utterance(name, name, units, f"{self.path}: sample {index}", words=places)


def _read_file(
    path: Path, meta: Meta, bar: tqdm, *, expands: bool, text: str
) -> Iterator[tuple[str, Callable[[], Utterance]]]:
    """Yield the place of each sample, and the function that parses it."""
    num_frames, rest = divmod(path.stat().st_size, meta.dtype.itemsize * meta.n_q)
    if rest or not num_frames:
        raise ValueError(
            f"{path}: {path.stat().st_size} bytes are no whole number of frames of {meta.n_q} "
            f"{meta.dtype} tokens; meta.pkl may belong to other files"
        )
    lengths = _read_lengths(path, num_frames, "frames")
    tokens = np.memmap(path, meta.dtype, mode="r", shape=(num_frames, meta.n_q))
    needs_durations = expands or (text and path.with_suffix(".dur").exists())
    durations = _read_durations(path, num_frames) if needs_durations else None
    file = _Units(path, meta, tokens, durations, expands)
    words = _read_words(path, text, lengths.size) if text else repeat(None, lengths.size)
    start = 0
    for index, (length, own) in enumerate(zip(lengths, words, strict=True)):
        end = start + int(length)
        yield f"{path}: sample {index}", partial(file.sample, index, start, end, own)
        bar.update((end - start) * meta.n_q * meta.dtype.itemsize)
        start = end


def _read_words(path: Path, folder: str, num_samples: int) -> Iterator[SampleWords]:
    """Yield the words of each sample of a `.bin` file, from a folder beside that of the file."""
    text = Path(os.path.normpath(path.absolute())).parent.parent / folder / path.name
    if not text.is_file():
        raise ValueError(f"{text}: no such file; --words {folder} needs it")
    meta = text.parent / "meta.pkl"
    content = read_plain_pickle(meta)
    dtype, size = _dtype(_count(content, "vocab_size", meta)), text.stat().st_size
    if not size or size % dtype.itemsize:
        raise ValueError(f"{text}: {size} bytes, expected {dtype} tokens; it is cut short")
    tokens = np.memmap(text, dtype, mode="r")
    lengths = _read_lengths(text, tokens.size, "tokens")
    if lengths.size != num_samples:
        raise ValueError(
            f"{text.with_suffix('.len')}: {lengths.size} samples, expected {num_samples}, those of "
            f"{path}"
        )
    return read_words(text, tokens, lengths, _count(content, "eos", meta))


def _read_lengths(path: Path, num_frames: int, what: str) -> np.ndarray:
    """Read the length of each sample, as uint64 or uint16: the type that adds up to the file."""
    beside, found = path.with_suffix(".len"), {}
    if not beside.is_file():
        raise ValueError(f"{beside}: no such file; {path.name} needs it")
    for name in LENGTHS:
        dtype = np.dtype(name)
        if beside.stat().st_size and beside.stat().st_size % dtype.itemsize == 0:
            lengths = np.memmap(beside, dtype, mode="r")
            total = sum(int(lengths[i : i + BLOCK].sum()) for i in range(0, lengths.size, BLOCK))
            found[dtype.name] = total
            if total == num_frames and lengths.max() <= num_frames:  # else the sum wrapped around
                return lengths
    sums = ", ".join(f"{total} as {name}" for name, total in found.items())
    raise ValueError(
        f"{beside}: lengths add up to {sums or 'nothing'}, {path.name} has {num_frames} {what}; "
        "the files do not belong together, or one is cut short"
    )


def _read_durations(path: Path, num_frames: int) -> np.ndarray:
    beside = path.with_suffix(".dur")
    if not beside.is_file():
        raise ValueError(f"{beside}: no such file; --expand needs the durations of {path.name}")
    if beside.stat().st_size != num_frames:
        raise ValueError(f"{beside}: {beside.stat().st_size} durations for {num_frames} tokens")
    return np.memmap(beside, np.uint8, mode="r")


def _strip(sample: np.ndarray, meta: Meta) -> np.ndarray:
    """Return a sample without its EOS and the padding before and after it."""
    units = _without_end(sample, meta.pad)
    if not units.size or units[-1] != meta.eos:
        raise ContradictionError(
            f"ends with {units[-1] if units.size else 'nothing'}, expected EOS "
            f"{meta.eos}; the .len file or meta.pkl belongs to another file"
        )
    return np.array(_without_end(units[:-1], meta.pad))


def _without_end(tokens: np.ndarray, special: int) -> np.ndarray:
    kept = np.flatnonzero(tokens != special)
    return tokens[: kept[-1] + 1 if kept.size else 0]
