"""One-dimensional arrays in a safetensors file: written once, checked when opened, memory-mapped.

The layout is that of https://huggingface.co/docs/safetensors: the length of the header in 8 bytes
(little-endian), the header in JSON, the arrays. Our files are canonical, so equal content gives
equal bytes: keys are sorted, arrays are in order of falling width and then of name, spaces pad the
header to a multiple of 64 bytes, and the file is named by the hash of its bytes.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tresse.data._packer import map_file
from tresse.data.durable import commit, synced_file
from tresse.data.lines import decode_json

DTYPES = {
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 64
MAX_HEADER_BYTES = 1 << 20
BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class TensorFile:
    """A mapped file. `tensors` are read-only views; the system reads a page when it is used."""

    path: Path
    num_bytes: int
    metadata: dict[str, str]
    tensors: dict[str, np.ndarray]

    def check_hashes(self, expected: Mapping[str, str], skip: str = "") -> None:
        """Compare every tensor but `skip` with its xxh3; ValueError names the first to differ."""
        if set(expected) != set(self.tensors):
            raise ValueError(
                f"{self.path}: holds {sorted(self.tensors)}, expected {sorted(expected)}"
            )
        for name, tensor in self.tensors.items():
            if name != skip and (found := checksum(tensor)) != expected[name]:
                raise ValueError(
                    f"{self.path}: {name} has the hash {found}, expected {expected[name]}; "
                    "the file is damaged, restore it"
                )


def checksum(array: np.ndarray) -> str:
    """Return xxh3_64 of the bytes of a contiguous array, 16 hex digits."""
    return xxhash.xxh3_64_hexdigest(array.view(np.uint8).data)


def checksum_file(path: Path) -> str:
    """Return xxh3_64 of a file, 16 hex digits."""
    hasher = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def encode_header(
    layout: Mapping[str, tuple[np.dtype, int]], metadata: Mapping[str, str]
) -> tuple[bytes, list[str]]:
    """Return the header for a layout (name -> dtype, elements), and the order of the arrays."""
    order = sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin = 0
    for name in order:
        dtype, size = layout[name]
        end = begin + size * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": [size], "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"the header has {len(text)} bytes, expected at most {MAX_HEADER_BYTES}")
    return len(text).to_bytes(8, "little") + text, order


def write_tensors(
    folder: Path, stem: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> tuple[Path, dict[str, str]]:
    """Write `folder/{stem}-{hash of the file}.safetensors`; return its path and the tensors'
    hashes.

    The file is written as `{stem}.tmp`, synced and renamed, as its name is known only at the end.
    """
    layout = {name: (tensor.dtype, tensor.size) for name, tensor in tensors.items()}
    header, order = encode_header(layout, metadata)
    temporary = folder / f"{stem}.tmp"
    whole, hashes = xxhash.xxh3_64(header), {}
    with synced_file(temporary) as file:
        file.write(header)
        for name in order:
            content, hasher = tensors[name].view(np.uint8).data, xxhash.xxh3_64()
            for start in range(0, len(content), BLOCK_BYTES):
                block = content[start : start + BLOCK_BYTES]
                hasher.update(block)
                whole.update(block)
                file.write(block)
            hashes[name] = hasher.hexdigest()
    path = folder / f"{stem}-{whole.hexdigest()}.safetensors"
    commit(temporary, path)
    return path, hashes


def open_tensors(path: Path) -> TensorFile:
    """Check the header of a file against its size and map it; ValueError names file and fault."""
    try:
        content = map_file(os.fsencode(path))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    num_bytes, length = content.size, int.from_bytes(content[:8].tobytes(), "little")
    if num_bytes < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, num_bytes - 8):
        raise ValueError(
            f"{path}: {num_bytes} bytes with a header of {length}; "
            "cut short, or not a safetensors file"
        )
    header = _decode_header(path, content[8 : 8 + length].tobytes())
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{path}: __metadata__ is not a map of strings to strings")
    layout = _check_layout(path, header, start=8 + length, num_bytes=num_bytes)
    tensors = {name: content[begin:end].view(dtype) for name, (dtype, begin, end) in layout.items()}
    return TensorFile(path, num_bytes, metadata, tensors)


def take_tensors(
    file: TensorFile,
    expected: Mapping[str, tuple[str, ...]],
    optional: Mapping[str, tuple[str, ...]],
) -> dict[str, np.ndarray]:
    """Return the tensors of `file`; ValueError if one is missing, unknown or of another dtype.

    expected, optional: name -> dtypes that are allowed.
    """
    known = {**expected, **optional}
    if missing := sorted(set(expected) - set(file.tensors)):
        raise ValueError(f"{file.path}: tensor {missing[0]} is missing")
    for name, tensor in file.tensors.items():
        if name not in known:
            raise ValueError(f"{file.path}: unknown tensor {name!r}; expected {', '.join(known)}")
        if NAMES[tensor.dtype] not in known[name]:
            raise ValueError(
                f"{file.path}: {name} is {NAMES[tensor.dtype]}, expected {' or '.join(known[name])}"
            )
    return file.tensors


def _decode_header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = decode_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the header is not a JSON object")
    return header


def _check_layout(
    path: Path, header: dict[str, Any], start: int, num_bytes: int
) -> dict[str, tuple[np.dtype, int, int]]:
    """Return name -> (dtype, begin, end) in bytes; the arrays must fill the file without a gap."""
    layout = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{path}: tensor {name!r} needs dtype, shape and data_offsets")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{path}: {name} has dtype {entry['dtype']!r}, expected one of {', '.join(DTYPES)}"
            )
        if not _is_counts(shape, 1) or not _is_counts(offsets, 2):
            raise ValueError(f"{path}: {name} has shape {shape!r} and offsets {offsets!r}")
        dtype = DTYPES[entry["dtype"]]
        begin, end = start + offsets[0], start + offsets[1]
        if end - begin != shape[0] * dtype.itemsize or begin % dtype.itemsize:
            raise ValueError(
                f"{path}: {name} has {shape[0]} elements of {dtype} at bytes {offsets}"
            )
        layout[name] = (dtype, begin, end)
    end = start
    for name, (_, begin, next_end) in sorted(layout.items(), key=lambda item: item[1][1:]):
        if begin != end:
            raise ValueError(f"{path}: {name} starts at byte {begin}, expected {end}")
        end = next_end
    if end != num_bytes:
        raise ValueError(f"{path}: the header describes {end} bytes, the file holds {num_bytes}")
    return layout


def _is_counts(values: Any, length: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == length
        and all(type(value) is int and value >= 0 for value in values)
    )
