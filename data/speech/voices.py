"""Voices of documents: drawn by the key, so that translations are as one speaker's."""

import json
from collections.abc import Sequence
from pathlib import Path

import xxhash


def list_voices(folder: Path, chosen: Path | None = None) -> list[Path]:
    """Voice embeddings (.safetensors) in a folder and those below it, in the order of their names.

    The file itself where `folder` is one.
    chosen: what `choose-voices` wrote; only the voices that it names, without their suffixes.
    """
    if folder.is_file() and chosen is None:
        return [folder]
    voices = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.safetensors"))
    }
    if not voices:
        raise ValueError(f"{folder}: no voices, expected files *.safetensors")
    if chosen is None:
        return list(voices.values())
    found = []
    for name in json.loads(chosen.read_text(encoding="utf-8"))["voices"]:
        own = [path for key, path in voices.items() if key.startswith(f"{name}.")]
        if len(own) != 1:
            raise ValueError(
                f"{chosen} chooses voice {name}, for which {folder} has {len(own)} files "
                f"{name}.*.safetensors, expected one"
            )
        found += own
    if not found:
        raise ValueError(f"{chosen} chooses no voice")
    return found


def draw_voice(key: str, voices: Sequence[Path], seed: int) -> Path:
    """The voice of a document in any language: a function of its key and the seed."""
    return voices[xxhash.xxh3_64_intdigest(key.encode(), seed=seed) % len(voices)]
