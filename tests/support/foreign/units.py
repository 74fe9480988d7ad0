"""Units as other tools write them: SlamKit, textless, SmolTolk, Parquet and Arrow."""

import json
import pickle
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tresse.data.formats.parquet import Columns
from tresse.data.formats.slamkit import read_slamkit

NUMBERED = r"(?P<lang>en|fr)/(?P<key>.+)_(?P<sentence>\d+)\.flac"
HEARD = [[7, 7, 7, 3, 499, 499], [0], [3, 49, 49]]
NAMES = ["/audio/x.flac", "/audio/sub/y.z.flac", "é.flac"]


def represent(units: list[int]) -> dict:
    """Deduplicate like `audio_represent` of unit_tokeniser.py: tuples of units and durations."""
    runs, durations = zip(*[(k, len(list(g))) for k, g in groupby(units)], strict=True)
    return {"units": runs, "duration": durations}


def write_features(path: Path, names: list[str], heard: list[list[int]]) -> Path:
    """Write like `extract_features.py`, which adds the name last."""
    with path.open("a+") as file:
        for name, units in zip(names, heard, strict=True):
            file.write(json.dumps({**represent(units), "file_name": name}) + "\n")
    return path


def write_tokens(path: Path, names: list[str], heard: list[list[int]]) -> Path:
    """Write like `prepare_tokens.py`: records with a text instead of the units."""
    with path.open("a+") as file:
        for name, units in zip(names, heard, strict=True):
            text = "".join(f"<Un{unit}>" for unit in represent(units)["units"])
            file.write(json.dumps({"file_name": name, "audio_repr": text}) + "\n")
    return path


def dedup(units: list[int]) -> list[int]:
    return [unit for unit, _ in groupby(units)]


def units_of(path: Path, expand: bool) -> list[list[int]]:
    found = read_slamkit([path], expand_durations=expand)
    return [list(map(int, utterance.units)) for utterance in found]


def transcribe(path: Path, names: list[str], heard: list[list[int]], separator: str = " ") -> Path:
    """Write like `transcribe` and `merge_files`: names by --preserve_name, lines stripped."""
    for ending, field in (("units", "units"), ("durations", "duration")):
        with path.with_suffix(f".{ending}").open("w") as file:
            for i, units in enumerate(heard):
                stream = represent(units)[field] if units else []
                line = separator.join(str(int(x)) for x in np.array(stream).tolist())
                line = f"{names[i]}\t{line}" if names else line
                print(line.strip(), file=file)
    return path.with_suffix(".units")


META = {"vocab_size": 2050, "eos": 2048, "pad": 2049, "n_q": 8, "frame_rate": 12.5}
SAMPLES = [[5, 5, 2047], [0], list(range(1000)), [2047, 0]]


def write_mimi(folder: Path, samples: list[list[int]], n_q: int = 8, **changes) -> Path:
    """Write like `dump_mimi_codes.py`: [n_q, frames + EOS], int16, transposed; lengths int64."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with (folder / "train.bin").open("ab") as bins, (folder / "train.len").open("ab") as lens:
        for sample in samples:
            codes = rng.integers(0, 2048, (n_q, len(sample)))
            codes[0] = sample
            codes = np.concatenate([codes, np.full((n_q, 1), 2048)], axis=1).astype(np.int16)
            bins.write(codes.T.tobytes())
            lens.write(np.array([codes.shape[1]], np.int64).tobytes())
    (folder / "meta.pkl").write_bytes(pickle.dumps(META | {"n_q": n_q} | changes))
    return folder / "train.bin"


def write_hubert(folder: Path, heard: list[list[int]], num_units: int = 500) -> Path:
    """Write like `dump_hubert_codes.py`: units once per run, EOS; int16 lengths, int8 durations."""
    folder.mkdir(parents=True)
    files = [(folder / f"dev.{ending}").open("ab") for ending in ("bin", "dur", "len")]
    for units in heard:
        codes = np.array([*units, num_units])
        starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
        runs = np.diff(np.append(starts, codes.size))
        files[0].write(codes[starts].astype(np.int16).tobytes())
        files[1].write(runs.astype(np.int8).tobytes())
        files[2].write(np.array([starts.size], np.int16).tobytes())
    for file in files:
        file.close()
    meta = {"vocab_size": num_units + 2, "eos": num_units, "pad": num_units + 1, "n_q": 1}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta | {"frame_rate": 25}))
    return folder / "dev.bin"


Words = list[tuple[int, float]]
"""Tokens of each word, and the second at which it ends."""


def write_words(units: Path, samples: list[Words], name: str = "smollm") -> Path:
    """Write what `dataset.py` reads of a text: EOS 0 after each sample, which is a word there."""
    folder = units.parent.parent / name
    folder.mkdir()
    words = [word for sample in samples for word in [*sample, (1, np.nan)]]
    tokens = [[*range(1, 1 + sum(size for size, _ in sample)), 0] for sample in samples]
    content = {
        "bin": np.concatenate(tokens).astype(np.uint16),
        "len": np.array(list(map(len, tokens)), np.uint64),
        "wrds_tms": np.array([end for _, end in words], np.float32),
        "wrds_tms_len": np.array([size for size, _ in words], np.uint64),
    }
    for ending, values in content.items():
        (folder / f"{units.stem}.{ending}").write_bytes(values.tobytes())
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 49152, "eos": 0}))
    return folder / units.name


I64 = pa.int64()
LINES = [
    {"key": "a", "lang": "en", "sentences": [[1, 2], [3]]},
    {"key": "a", "lang": "fr", "sentences": [[4], [5, 6, 7]]},
    {"key": "b", "lang": "en", "sentences": [[2047]]},
]
COLUMNS = Columns(lang="lang", sentences="sentences")


def table(lines: list[dict] = LINES, units: pa.DataType = I64, lists=pa.list_) -> pa.Table:
    kinds = {
        "key": pa.string(),
        "lang": pa.string(),
        "sentences": lists(lists(units)),
        "units": lists(units),
    }
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in lines[0]])
    return pa.Table.from_pylist(lines, schema)


def write_parquet(path: Path, content: pa.Table) -> Path:
    pq.write_table(content, path, row_group_size=3000 if content.num_rows > 3 else 2)
    return path


def write_arrow_file(path: Path, content: pa.Table) -> Path:
    with pa.ipc.new_file(path, content.schema) as writer:
        writer.write_table(content, max_chunksize=2)
    return path


def save_to_disk(path: Path, content: pa.Table, num_files: int = 2) -> Path:
    """Write as Hugging Face's `Dataset.save_to_disk`: Arrow streams, listed in state.json."""
    path.mkdir(parents=True)
    names = [f"data-{i:05}-of-{num_files:05}.arrow" for i in range(num_files)]
    size = -(-content.num_rows // num_files)
    for i, name in enumerate(names):
        with pa.ipc.new_stream(path / name, content.schema) as writer:
            writer.write_table(content.slice(i * size, size), max_chunksize=1)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1f"}
    (path / "state.json").write_text(json.dumps(state, indent=2))
    (path / "dataset_info.json").write_text("{}")
    return path


def save_splits(path: Path, **splits: pa.Table) -> Path:
    """Write as Hugging Face's `DatasetDict.save_to_disk`: a folder for each split."""
    for name, content in splits.items():
        save_to_disk(path / name, content)
    (path / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return path
