"""WebDataset tars of audio: a sample is the members that share a name up to its first dot.

    0001/v07.flac   the audio: .wav, .flac, .mp3, .ogg or .opus
    0001/v07.json   optional {"key": "0001", "lang": "fr", "sentence": 0}; other fields are ignored
    0001/v07.txt    other members are ignored

Nothing is unpacked: audio is read from its place in the tar, which must not be compressed.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from tresse.data.audio.readers.pieces import Piece
from tresse.data.audio.sources import Span, TarMember, time_spans
from tresse.data.lines import check_files, decode_json

AUDIO = {"wav", "flac", "mp3", "ogg", "opus"}
MAX_JSON_BYTES = 1 << 24


@dataclass
class _Sample:
    """The audio and the fields of the members of one name."""

    name: str
    audio: list[TarMember] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


def read_webdataset(paths: Sequence[str | Path]) -> Iterator[Piece]:
    """Yield a piece for each sample; ValueError names the tar and the member."""
    files = check_files(paths, "tar")
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="list", disable=None) as bar:
        for path in files:
            for sample in _samples(path, bar):
                where = f"{path}: {sample.name}"
                try:
                    yield _piece(sample, where)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error


def _piece(sample: _Sample, where: str) -> Piece:
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
    return Piece(audio.name, key, spans, where, fields.get("lang", ""), sentence)


def _samples(path: Path, bar: tqdm) -> Iterator[_Sample]:
    sample, before = None, bar.n
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            for member in tar:
                bar.update(before + member.offset_data + member.size - bar.n)
                _check_member(path, member)
                if member.isdir():
                    continue
                name, ending = _split(member.name)
                if sample is None or sample.name != name:
                    if sample is not None:
                        yield sample
                    sample = _Sample(name)
                if ending in AUDIO:
                    place = TarMember(str(path), member.name, member.offset_data, member.size)
                    sample.audio.append(place)
                elif ending == "json":
                    sample.fields = _read_json(path, member, file)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{path}: cannot be read as an uncompressed tar ({error})") from error
    if sample is not None:
        yield sample


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    """Refuse all but plain files and folders within the tar, though nothing is unpacked."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{path}: member {member.name!r} leaves the folder; write the tar again")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise ValueError(
            f"{path}: member {member.name!r} is a link, a device or sparse; expected plain files"
        )


def _split(name: str) -> tuple[str, str]:
    """Return the sample's name, up to the first dot of the file's name, and the last ending."""
    folder, _, file = name.rpartition("/")
    first, _, endings = file.partition(".")
    return f"{folder}/{first}".lstrip("/"), endings.rpartition(".")[2].lower()


def _read_json(path: Path, member: tarfile.TarInfo, file: Any) -> dict[str, Any]:
    if member.size > MAX_JSON_BYTES:
        raise ValueError(
            f"{path}: member {member.name!r} has {member.size} bytes, expected at most "
            f"{MAX_JSON_BYTES} of JSON"
        )
    file.seek(member.offset_data)
    try:
        content = decode_json(file.read(member.size))
    except ValueError as error:
        raise ValueError(f"{path}: member {member.name!r}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: member {member.name!r} is not a JSON object")
    return content
