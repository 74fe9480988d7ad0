"""Shards of interleaved_lm (https://github.com/tiagoCuervo/interleaved_lm): speech, or speech with
its text, aligned token by token.

    SHARD/meta.json       schema_version 1, profile, num_samples, n_codebooks, checksums (SHA-256)
    SHARD/samples.jsonl   a line per sample with its `id`
    SHARD/audio.bin       int16 [steps, n_codebooks];  audio.len: int64 [samples], steps of each
    SHARD/text.bin        int32 [tokens];              text.len: int64 [samples], tokens of each
    SHARD/dur.bin         int32 [tokens]: steps of each token; they cover the sample's speech

The last three are in shards of the profile `aligned`. A sample is a document of one sentence. A
word is a stretch of text tokens that begins with a space, and their speech. Of several codebooks
the first is read.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tresse.data.lines import decode_json, parse_record, read_lines
from tresse.data.store.documents import Document

META, SAMPLES = "meta.json", "samples.jsonl"
SPEECH, TEXT = ("audio.bin", "audio.len"), ("text.bin", "text.len", "dur.bin")
VERSION = 1


@dataclass(frozen=True)
class AlignedShard:
    """An open shard, its files checked against their hashes."""

    path: Path
    keys: list[str]
    codes: np.ndarray
    """int16 [steps, codebooks]."""
    steps: list[int]
    """Steps of each sample."""
    tokens: np.ndarray | None = None
    """int32 [tokens]; None in a shard of speech alone."""
    durations: np.ndarray | None = None
    """int32 [tokens], steps of each token."""
    num_tokens: Sequence[int] = ()
    """Tokens of each sample."""

    @staticmethod
    def open(path: Path) -> "AlignedShard":
        """Read a shard's folder; ValueError names the file and what is wrong with it."""
        meta = _read_meta(path)
        has_text = meta["profile"] == "aligned"
        for name in (*SPEECH, SAMPLES, *(TEXT if has_text else ())):
            _check_hash(path / name, meta)
        steps = np.fromfile(path / "audio.len", np.int64).tolist()
        codes = np.fromfile(path / "audio.bin", np.int16)
        width = meta["n_codebooks"]
        if codes.size != sum(steps) * width:
            raise ValueError(
                f"{path / 'audio.bin'}: {codes.size} codes, audio.len says {sum(steps)} steps of "
                f"{width} codebooks"
            )
        shard = AlignedShard(path, _read_keys(path), codes.reshape(-1, width), steps)
        if has_text:
            shard = _with_text(shard)
        if not len(shard.keys) == len(steps) == meta["num_samples"]:
            raise ValueError(
                f"{path}: {len(shard.keys)} lines of {SAMPLES}, {len(steps)} lengths, "
                f"{meta['num_samples']} samples by {META}; expected equal numbers"
            )
        return shard

    def speech(self, language: str, starts: np.ndarray | None = None) -> Iterator[Document]:
        """Yield the units of each sample, with words where there is text.

        starts: for each text token whether a word begins with it, bool [ids].
        """
        ends = list(accumulate(self.steps, initial=0))
        places = self._places()
        for i, key in enumerate(self.keys):
            words = None
            if self.durations is not None and starts is not None:
                own = self.durations[places[i] : places[i + 1]]
                begins = np.cumsum([0, *own[:-1]])
                words = [begins[self._words(i, places, starts)].tolist()]
            units = self.codes[ends[i] : ends[i + 1], 0]
            yield Document(key, language, [units], words, f"{self.path}: {key}")

    def text(self, language: str, starts: np.ndarray) -> Iterator[Document]:
        """Yield the text of each sample, with the same words as its speech."""
        assert self.tokens is not None
        places = self._places()
        for i, key in enumerate(self.keys):
            own = self.tokens[places[i] : places[i + 1]]
            words = [self._words(i, places, starts).tolist()]
            yield Document(key, language, [own], words, f"{self.path}: {key}")

    def _words(self, sample: int, places: Sequence[int], starts: np.ndarray) -> np.ndarray:
        """Return the places of the tokens that begin a word; the first one always does."""
        assert self.tokens is not None
        own = self.tokens[places[sample] : places[sample + 1]]
        if own.min() < 0 or own.max() >= starts.size:
            raise ValueError(
                f"{self.path}: {self.keys[sample]}: text tokens {own.min()} to {own.max()}, the "
                f"tokenizer has {starts.size}; name the one that made the text"
            )
        begins = starts[own]
        begins[0] = True
        return np.flatnonzero(begins)

    def _places(self) -> list[int]:
        return list(accumulate(self.num_tokens, initial=0))


def _with_text(shard: AlignedShard) -> AlignedShard:
    path = shard.path
    counts = np.fromfile(path / "text.len", np.int64).tolist()
    tokens, durations = (np.fromfile(path / name, np.int32) for name in ("text.bin", "dur.bin"))
    if not sum(counts) == tokens.size == durations.size or len(counts) != len(shard.steps):
        raise ValueError(
            f"{path}: text.len says {sum(counts)} tokens of {len(counts)} samples, text.bin has "
            f"{tokens.size}, dur.bin {durations.size} of {len(shard.steps)} samples"
        )
    for key, own, steps in zip(
        shard.keys, np.split(durations, np.cumsum(counts)[:-1]), shard.steps, strict=False
    ):
        if own.size == 0 or own.min() < 1 or own.sum() != steps:
            raise ValueError(
                f"{path / 'dur.bin'}: sample {key!r} has {steps} steps of speech, its tokens "
                f"{own.sum()}; expected as many, and one or more for each"
            )
    return AlignedShard(path, shard.keys, shard.codes, shard.steps, tokens, durations, counts)


def _read_meta(path: Path) -> dict[str, Any]:
    file = path / META
    if not file.is_file():
        raise ValueError(f"{file}: no such file; expected a shard of interleaved_lm")
    meta = decode_json(file.read_bytes())
    if not isinstance(meta, dict) or meta.get("schema_version") != VERSION:
        raise ValueError(f"{file}: expected a JSON object of schema_version {VERSION}")
    if meta.get("profile") not in ("aligned", "units-only"):
        raise ValueError(f"{file}: profile {meta.get('profile')!r}, not aligned or units-only")
    for name in ("num_samples", "n_codebooks"):
        if type(meta.get(name)) is not int or meta[name] < 1:
            raise ValueError(f"{file}: {name} is {meta.get(name)!r}, expected a count")
    if not isinstance(meta.get("checksums"), dict):
        raise ValueError(f"{file}: has no checksums")
    return meta


def _check_hash(path: Path, meta: dict[str, Any]) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the shard is not complete")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != meta["checksums"].get(path.name):
        raise ValueError(
            f"{path}: SHA-256 {found}, {META} says {meta['checksums'].get(path.name)}; restore it"
        )


def _read_keys(path: Path) -> list[str]:
    keys = []
    for where, line in read_lines([path / SAMPLES], shows=False):
        key = parse_record(line).get("id")
        if not isinstance(key, str) or not key:
            raise ValueError(f"{where}: id is {key!r}, expected a text")
        keys.append(key)
    return keys
