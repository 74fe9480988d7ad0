"""WebDataset tars of audio: a sample is the members that share a name up to its first dot.

    0001/v07.flac   the audio: .wav, .flac, .mp3, .ogg or .opus
    0001/v07.json   optional {"key": "0001", "lang": "fr", "sentence": 0}; other fields are ignored
    0001/v07.txt    other members are ignored

Nothing is unpacked: audio is read from its place in the tar, which must not be compressed.
"""

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from tresse.data.audio.readers.pieces import Piece
from tresse.data.audio.readers.tars import read_members
from tresse.data.audio.sources import Span, TarMember, time_spans
from tresse.data.left_out import LeftOut
from tresse.data.lines import check_files, parse_record

AUDIO = {"wav", "flac", "mp3", "ogg", "opus"}
MAX_JSON_BYTES = 1 << 24


@dataclass
class _Sample:
    """The audio and the fields of the members of one name."""

    name: str
    audio: list[TarMember] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    """Why its JSON cannot be used."""


def read_webdataset(paths: Sequence[str | Path], left_out: LeftOut) -> Iterator[Piece]:
    """Yield a piece for each sample; ValueError or `left_out` names the tar and the member."""
    files = check_files(paths, "tar")
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="list", disable=None) as bar:
        for path in files:
            members = read_members(path, left_out, bar)
            samples = ((f"{path}: {sample.name}", sample) for sample in _samples(path, members))
            for where, piece in left_out.parsed(samples, _piece):
                yield piece._replace(where=where)


def _piece(sample: _Sample) -> Piece:
    if sample.fault:
        raise ValueError(sample.fault)
    if len(sample.audio) != 1:
        found = ", ".join(member.name for member in sample.audio) or "none"
        raise ValueError(f"expected one audio file ({', '.join(sorted(AUDIO))}), found {found}")
    audio, fields = sample.audio[0], sample.fields
    spans: tuple[Span, ...] = (Span(audio),)
    if "sentences" in fields:
        spans = time_spans(audio, fields["sentences"])
    for name in ("key", "lang"):
        if not isinstance(fields.get(name, ""), str):
            raise ValueError(f"{name} is {fields[name]!r}, expected text")
    sentence = fields.get("sentence")
    if sentence is not None and (type(sentence) is not int or sentence < 0):
        raise ValueError(f"sentence is {sentence!r}, expected an integer of at least 0")
    key = fields.get("key", sample.name)
    return Piece(audio.name, key, spans, "", fields.get("lang", ""), sentence)


def _samples(path: Path, members: Iterable[tarfile.TarInfo]) -> Iterator[_Sample]:
    """Gather members that follow each other and share a name."""
    sample = None
    with path.open("rb") as file:
        for member in members:
            name, ending = _split(member.name)
            if sample is None or sample.name != name:
                if sample is not None:
                    yield sample
                sample = _Sample(name)
            if ending in AUDIO:
                place = TarMember(str(path), member.name, member.offset_data, member.size)
                sample.audio.append(place)
            elif ending == "json":
                try:
                    sample.fields = _read_json(member, file)
                except ValueError as error:
                    sample.fault = f"member {member.name!r}: {error}"
    if sample is not None:
        yield sample


def _split(name: str) -> tuple[str, str]:
    """Return the sample's name, up to the first dot of the file's name, and the last ending."""
    folder, _, file = name.rpartition("/")
    first, _, endings = file.partition(".")
    return f"{folder}/{first}".lstrip("/"), endings.rpartition(".")[2].lower()


def _read_json(member: tarfile.TarInfo, file: BinaryIO) -> dict[str, Any]:
    if member.size > MAX_JSON_BYTES:
        raise ValueError(f"{member.size} bytes, expected at most {MAX_JSON_BYTES} of JSON")
    file.seek(member.offset_data)
    return parse_record(file.read(member.size))
