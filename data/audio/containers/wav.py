"""Chunks of WAV files (RIFF), also joined ones and those that were written to a pipe."""

from dataclasses import dataclass
from typing import Literal

from tresse.data.audio.containers.link import Link, is_appendix

RIFFS = (b"RIFF", b"RIFX")
# A writer to a pipe cannot go back to write the sizes. SoX writes 0x7FFFF000, FFmpeg 0xFFFFFFFF,
# others 0 or a number between.
LEAST_UNKNOWN = 0x7FFF_F000
MAX_PADDING = 1


@dataclass(frozen=True)
class _Chunk:
    name: bytes
    start: int
    """Of the content, after name and size."""
    size: int


def find_links(content: bytes) -> list[Link]:
    """Return a link for each WAV file; its sizes are corrected where its writer did not know them.

    ValueError for a file that is cut short, and for bytes after the sound that are no chunk.
    """
    links, place = [], 0
    while content[place : place + 4] in RIFFS:
        link = _read_file(content, place)
        links.append(link)
        place = link.end
    if not is_appendix(content, place):
        raise ValueError(
            f"{len(content) - place} bytes after the sound are no chunk of WAV; if they are sound, "
            "the size in the header is wrong"
        )
    return links


def _read_file(content: bytes, start: int) -> Link:
    order: Literal["little", "big"] = "little" if content[start : start + 4] == b"RIFF" else "big"
    place, data = start + 12, None
    while data is None:
        chunk = _read_chunk(content, place, order)
        if chunk is None:
            raise ValueError("cut short: it has no chunk of sound")
        if chunk.name == b"data":
            data = chunk
        place = chunk.start + chunk.size + chunk.size % 2
    left = len(content) - data.start
    is_unknown = data.size >= LEAST_UNKNOWN and data.size > left
    if is_unknown or _is_unknown_zero(content, data, order):
        sizes = [min(size, 0xFFFF_FFFF) for size in (len(content) - start - 8, left)]
        whole, sound = (size.to_bytes(4, order) for size in sizes)
        header = content[start : start + 4] + whole + content[start + 8 : data.start - 4] + sound
        return Link(data.start, len(content), bytes(header))
    if data.size > left:
        raise ValueError(f"cut short: {left} bytes of sound, the header says {data.size}")
    return Link(start, _end_of_chunks(content, data, order))


def _is_unknown_zero(content: bytes, data: _Chunk, order: Literal["little", "big"]) -> bool:
    """Return whether a size of 0 stands for unknown: what follows is neither chunks nor an end."""
    if data.size or data.start == len(content):
        return False
    end = _end_of_chunks(content, data, order)
    return end == data.start and content[end : end + 4] not in RIFFS


def _end_of_chunks(content: bytes, data: _Chunk, order: Literal["little", "big"]) -> int:
    """Return the offset after the last chunk that follows the sound."""
    end = data.start + data.size
    while True:
        for place in (end + end % 2, end):  # not every writer pads
            chunk = _read_chunk(content, place, order)
            if chunk is not None and chunk.name not in RIFFS:
                break
        else:
            padding = end + MAX_PADDING
            return padding if content[end:padding] == b"\0" else end
        if chunk.start + chunk.size > len(content):
            return end
        end = chunk.start + chunk.size


def _read_chunk(content: bytes, place: int, order: Literal["little", "big"]) -> _Chunk | None:
    name = bytes(content[place : place + 4])
    if len(content) < place + 8 or not all(0x20 <= byte < 0x7F for byte in name):
        return None
    return _Chunk(name, place + 8, int.from_bytes(content[place + 4 : place + 8], order))
