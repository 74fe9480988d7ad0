"""Audio as other tools store it: moshi-finetune, WebDataset and lhotse."""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from tests.support.synthetic_audio import buzz

WORDS = [
    ["Hello,", [0.1, 0.4], "SPEAKER_MAIN"],
    ["Bob.", [0.4, 0.9], "SPEAKER_MAIN"],
    ["Hi!", [1.0, 1.2], "SPEAKER_USER"],
    ["How", [0.88, 1.5], "SPEAKER_MAIN"],  # as Whisper does, before the last word ends
    ["are", [1.5, 1.6], "SPEAKER_MAIN"],
    ['you?"', [1.6, 2.0], "SPEAKER_MAIN"],
    ["Fine", [2.5, 3.004], "SPEAKER_MAIN"],  # ends after the file
]


def write_moshi(folder: Path, words: list = WORDS, name: str = "data_stereo/a.wav") -> Path:
    """README.md of moshi-finetune: stereo WAVs, their list, and what annotate.py writes."""
    (folder / "data_stereo").mkdir(parents=True)
    stereo = np.stack([buzz(3.0, seed=1), buzz(3.0, seed=2)], axis=1)
    soundfile.write(folder / name, stereo, 24_000)
    (folder / name).with_suffix(".json").write_text(json.dumps({"alignments": words}))
    path = folder / "mycooldataset.jsonl"
    with path.open("w") as file:
        json.dump({"path": name, "duration": 3.0}, file)
        file.write("\n")
    return path


def audio_bytes(kind: str, seed: int, seconds: float = 1.0) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, buzz(seconds, seed=seed), 24_000, format=kind.upper())
    return content.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes | dict | tarfile.TarInfo]]) -> Path:
    """`TarWriter` of webdataset: members of a sample follow each other."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            data = json.dumps(content).encode() if isinstance(content, dict) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def cut(name: str, start: float, duration: float, **changes) -> dict:
    """A line of libriheavy_cuts_small.jsonl.gz, as its README shows one."""
    supervision = {
        "id": name,
        "recording_id": "small/100/a",
        "start": 0,
        "duration": duration,
        "channel": 0,
        "language": "English",
        "speaker": "100",
        "custom": {"texts": ["The little girl.", "THE LITTLE GIRL"], "begin_byte": 4993},
    }
    recording = {
        "id": "small/100/a",
        "sources": [{"type": "file", "channels": [0], "source": "download/small/100/a.flac"}],
        "sampling_rate": 16_000,
        "num_samples": 64_000,
        "duration": 4.0,
        "channel_ids": [0],
    }
    record = {
        "id": name,
        "start": start,
        "duration": duration,
        "channel": 0,
        "supervisions": [supervision],
        "recording": recording,
        "custom": {"text_path": "download/text.txt"},
        "type": "MonoCut",
    }
    return record | changes


def write_cuts(path: Path, *cuts: dict) -> Path:
    with gzip.open(path, "wt") as file:
        for record in cuts:
            file.write(json.dumps(record) + "\n")
    return path
