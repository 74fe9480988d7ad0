"""Voices of documents, drawn by the key, so that translations sound like one speaker."""

import json
from collections.abc import Sequence
from pathlib import Path

import xxhash


def list_voices(folder: Path, chosen: Path | None = None) -> list[Path]:
    """Return the voice embeddings (.safetensors) in a folder and its subfolders, sorted by name.

    folder: may be a single voice's file.
    chosen: the file that `choose-voices` wrote; only the voices that it names are returned.
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
    """Return the voice of a document in all languages, a function of its key and the seed."""
    return voices[xxhash.xxh3_64_intdigest(key.encode(), seed=seed) % len(voices)]
