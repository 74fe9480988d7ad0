"""Damaged files of other tools are read, or refused with their name."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tests.support.foreign.audio import audio_bytes, cut, write_cuts, write_moshi, write_tar
from tests.support.foreign.units import (
    COLUMNS,
    HEARD,
    NAMES,
    SAMPLES,
    save_splits,
    table,
    transcribe,
    write_arrow_file,
    write_features,
    write_hubert,
    write_mimi,
    write_parquet,
    write_tokens,
    write_words,
)
from tests.support.workers.fuzz import mutate_bytes, mutate_json
from tresse.data.audio.readers.any_format import AudioFormat, read_audio
from tresse.data.formats.parquet import read_columns
from tresse.data.formats.slamkit import read_slamkit
from tresse.data.formats.smoltolk import read_meta, read_smoltolk
from tresse.data.formats.textless import read_textless
from tresse.data.left_out import LeftOut
from tresse.data.naming import Naming

NUM_MUTATIONS = int(os.environ.get("TRESSE_FUZZ", "1500")) // 10
"""Damaged copies of each format."""

Case = tuple[Path, Callable[[Path], object]]


def slamkit(folder: Path) -> Case:
    path = write_tokens(write_features(folder / "f.jsonl", NAMES, HEARD), NAMES, HEARD)
    return path, lambda path: [list(read_slamkit([path], expand_durations=False))]


def slamkit_expanded(folder: Path) -> Case:
    path = write_features(folder / "f.jsonl", NAMES, HEARD)
    return path, lambda path: list(read_slamkit([path], expand_durations=True))


def textless(folder: Path) -> Case:
    path = transcribe(folder / "t", ["a", "b", "c"], HEARD)
    return path, lambda path: list(read_textless([path], separator=" ", expand_durations=True))


def smoltolk(folder: Path) -> Case:
    def read(path: Path) -> object:
        return list(read_smoltolk([path], read_meta([path]), expand_durations=False))

    return write_mimi(folder / "d", SAMPLES), read


def smoltolk_expanded(folder: Path) -> Case:
    def read(path: Path) -> object:
        return list(read_smoltolk([path], read_meta([path]), expand_durations=True))

    return write_hubert(folder / "d", HEARD), read


def smoltolk_with_words(folder: Path) -> Case:
    def read(path: Path) -> object:
        found = read_smoltolk([path], read_meta([path]), expand_durations=False, words="smollm")
        return list(found)

    path = write_hubert(folder / "d" / "units", HEARD)
    write_words(path, [[(2, 0.04), (1, 0.2)], [(1, 0.04)], [(3, 0.0), (1, 0.1)]])
    return path, read


def parquet(folder: Path) -> Case:
    return write_parquet(folder / "t", table()), lambda path: list(
        read_columns([path], COLUMNS, "")
    )


def arrow(folder: Path) -> Case:
    return write_arrow_file(folder / "t", table()), lambda path: list(
        read_columns([path], COLUMNS, "")
    )


def splits(folder: Path) -> Case:
    path = save_splits(folder / "d", train=table())
    return path, lambda path: list(read_columns([path], COLUMNS, ""))


def audio(path: Path, format: AudioFormat) -> Case:
    return path, lambda path: read_audio([path], format, Naming(lang="en"), None, LeftOut())


def moshi(folder: Path) -> Case:
    return audio(write_moshi(folder / "d"), "moshi")


def webdataset(folder: Path) -> Case:
    members = [("a.json", {"key": "b", "sentence": 0}), ("a.wav", audio_bytes("wav", 1, 0.01))]
    return audio(write_tar(folder / "t.tar", members), "webdataset")


def lhotse(folder: Path) -> Case:
    return audio(write_cuts(folder / "c.jsonl.gz", cut("a", 0, 1), cut("b", 1.5, 1)), "lhotse")


CASES = [
    *(slamkit, slamkit_expanded, textless, smoltolk, smoltolk_expanded, smoltolk_with_words),
    *(parquet, arrow, splits, moshi, webdataset, lhotse),
]


def damage(rng: np.random.Generator, path: Path) -> None:
    """Damage a file: mostly change a value in JSON, else change bytes."""
    content = path.read_bytes()
    packed = path.suffix == ".gz"
    if packed and rng.random() < 0.8:
        content = gzip.decompress(content)
    else:
        packed = False
    if path.suffix in (".json", ".jsonl", ".gz") and rng.random() < 0.7 and content[:1] == b"{":
        lines = content.splitlines() if path.suffix != ".json" else [content]
        i = rng.integers(len(lines))
        value = mutate_json(rng, json.loads(lines[i]))
        lines[i] = json.dumps(value, ensure_ascii=bool(rng.random() < 0.8)).encode(
            errors="surrogatepass"
        )
        content = b"\n".join(lines)
    else:
        content = mutate_bytes(rng, content)
    path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_damage_is_refused_by_name_or_read(case: Callable[[Path], Case], tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    good, read = case(tmp_path / "good")
    assert read(good)
    inside, outcomes = good.relative_to(tmp_path / "good"), []
    for seed in range(NUM_MUTATIONS):
        rng = np.random.default_rng(seed)
        bad = tmp_path / "bad"
        shutil.copytree(tmp_path / "good", bad)
        files = sorted(p for p in chain([bad / inside], bad.rglob("*")) if p.is_file())
        files = [p for p in files if p.suffix != ".wav"]
        damage(rng, files[rng.integers(len(files))])
        outcomes.append(message(read, bad / inside))
        assert str(bad) in outcomes[-1] or not outcomes[-1], f"mutation {seed}: {outcomes[-1]}"
        shutil.rmtree(bad)
    assert sum(map(bool, outcomes)) > NUM_MUTATIONS / 10


def message(read: Callable[[Path], object], path: Path) -> str:
    """Return the message of the ValueError, or an empty text."""
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return ""
