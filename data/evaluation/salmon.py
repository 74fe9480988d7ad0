"""SALMon (Maimon et al. 2024): pairs of recordings that differ in a sound, such as the voice.

    <part>/sample_<i>_0.wav, <part>/sample_<i>_1.wav        as its archive has them
    <part>/train-00000-of-00001.parquet                     as on the Hugging Face hub

The file of the lower number is the natural one, which should be more likely. Each part is a task of
its own: SALMon-speaker_consistency.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from tresse.data.evaluation.listing import SUFFIXES, Names, pair_item
from tresse.data.evaluation.pair_tables import PairColumns
from tresse.data.naming import normal_key
from tresse.data.store.cloze import Item

NAME = "SALMon"
SALMON_COLUMNS = PairColumns(positive="positive_audio", negative="negative_audio")
SAMPLE = re.compile(r"sample_([0-9]+)_([0-9]+)")


def find_parts(folder: Path, task: str) -> dict[str, Path]:
    """Return the folders of the parts by the names of their tasks.

    folder: the whole of SALMon, or one part. task: name that the user gave it, or "".
    """
    if has_sounds(folder):
        return {task or f"{NAME}-{normal_key(folder.name)}": folder}
    # Archives of macOS add a folder __MACOSX.
    shown = [path for path in sorted(folder.iterdir()) if not path.name.startswith((".", "__"))]
    parts = [path for path in shown if path.is_dir() and has_sounds(path)]
    if not parts:
        raise ValueError(
            f"{folder}: expected SALMon's folders in it, such as {folder / 'speaker_consistency'}, "
            "with sample_0_0.wav and so on, or with Parquet files"
        )
    return {f"{task or NAME}-{normal_key(path.name)}": path for path in parts}


def has_sounds(folder: Path) -> bool:
    """Return whether a folder has audio files or Parquet files."""
    return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()) or is_table(folder)


def is_table(folder: Path) -> bool:
    """Return whether a folder has Parquet files."""
    return any(folder.glob("*.parquet"))


def read_salmon(task: str, listed: Mapping[str, Names]) -> list[Item]:
    """Return an item for each sample in each language."""
    return [
        pair_item(task, language, str(sample), *pair)
        for language, names in listed.items()
        for sample, pair in _pairs(names).items()
    ]


def _pairs(names: Names) -> dict[int, tuple[str, str]]:
    """Return the natural and the other recording of each sample, in order of its number."""
    samples: dict[int, dict[int, str]] = {}
    for name, where in names.items():
        match = SAMPLE.fullmatch(name)
        if match is None:
            raise ValueError(f"{where}: expected a name like sample_12_0 or sample_12_1")
        former = samples.setdefault(int(match[1]), {}).setdefault(int(match[2]), name)
        if former != name:
            raise ValueError(f"{where}: {names[former]} has the same numbers")
    for own in samples.values():
        if len(own) != 2:
            where = names[next(iter(own.values()))]
            raise ValueError(f"{where}: its sample has {len(own)} recordings, expected 2")
    return {sample: (own[min(own)], own[max(own)]) for sample, own in sorted(samples.items())}
