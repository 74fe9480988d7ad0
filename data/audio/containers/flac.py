"""FLAC streams (RFC 9639), also joined ones and those whose writer did not know the length."""

from typing import NamedTuple

from tresse.data.audio.containers.link import Link

# The mark of a stream, then type and size of STREAMINFO, which may be the last block.
STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
INFO, INFO_END = 8, 42  # of STREAMINFO after the mark of the stream
COUNT = INFO + 13  # of its number of samples, 36 bits
SEARCHED_BYTES = 1 << 24  # the largest frame that a header can describe
SIZES = {
    1: 192,
    **{k: 576 << k - 2 for k in range(2, 6)},
    **{k: 256 << k - 8 for k in range(8, 16)},
}


class _Info(NamedTuple):
    fixed_size: int
    """Number of samples of every frame but the last; 0 if it varies."""
    num_samples: int
    """0 if unknown."""


def find_links(content: bytes, start: int) -> list[Link]:
    """Return a link for each stream; one without a number of samples gets that of its frames.

    start: offset of the first stream. ValueError when no frame of such a stream is found.
    """
    starts = [start, *_later_starts(content, start + INFO)]
    ends = [*starts[1:], len(content)]
    links = []
    for begin, end in zip(starts, ends, strict=True):
        header = bytes(content[begin : begin + INFO_END])
        if len(header) < INFO_END:
            raise ValueError(f"cut short within the header at byte {begin}")
        info = _Info(_fixed_size(header), _count(header))
        if info.num_samples:
            links.append(Link(begin if links else 0, end, frames=info.num_samples))
            continue
        count = _count_by_last_frame(content, begin, end, info)
        header = header[:COUNT] + bytes([header[COUNT] & 0xF0 | count >> 32])
        header += (count & 0xFFFFFFFF).to_bytes(4, "big")
        links.append(Link(begin + COUNT + 5, end, header, frames=count))
    return links


def _later_starts(content: bytes, after: int) -> list[int]:
    found, place = [], after
    while (place := content.find(b"fLaC", place)) >= 0:
        if content[place : place + INFO] in STARTS:
            found.append(place)
        place += INFO
    return found


def _fixed_size(header: bytes) -> int:
    least, most = (int.from_bytes(header[i : i + 2], "big") for i in (INFO, INFO + 2))
    return least if least == most else 0


def _count(header: bytes) -> int:
    return int.from_bytes(header[COUNT : COUNT + 5], "big") & (1 << 36) - 1


def _count_by_last_frame(content: bytes, begin: int, end: int, info: _Info) -> int:
    """Return the number of samples to the end of the last frame, by the number in its header."""
    place, least = end, max(begin + INFO_END, end - SEARCHED_BYTES)
    while (place := content.rfind(b"\xff", least, place)) >= 0:
        frame = _read_frame_header(bytes(content[place : place + 16]))
        if frame is not None:
            number, size = frame
            return number + size if content[place + 1] & 1 else number * info.fixed_size + size
    raise ValueError("the header gives no number of samples, and no frame was found")


def _read_frame_header(header: bytes) -> tuple[int, int] | None:
    """Return the number of a frame, or of its first sample, and its size; None for other bytes."""
    if len(header) < 6 or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    size_code, rate_code = header[2] >> 4, header[2] & 15
    length = 8 - (header[4] ^ 0xFF).bit_length()  # leading ones, as in UTF-8
    if length in (1, 8) or size_code == 0 or rate_code == 15:
        return None
    end = 4 + max(length, 1)
    number = header[4] & (0x7F >> length)
    for byte in header[5:end]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    extra = {6: 1, 7: 2}.get(size_code, 0)
    size = int.from_bytes(header[end : end + extra], "big") + 1 if extra else SIZES[size_code]
    end += extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if end >= len(header) or _crc8(header[:end]) != header[end]:
        return None
    return number, size


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
