"""Formats that state their length once: NIST SPHERE, Sun's AU and Apple's CAF."""

import re

from tresse.data.audio.containers.link import Link, is_appendix

SAMPLE_COUNT = re.compile(rb"(?m)^sample_count -i (\d+)")
CAF_HEADER, CAF_CHUNK = 8, 12  # bytes; a chunk begins with its name and its size in 8 bytes


def read_nist(content: bytes) -> list[Link]:
    """Return the file as a link with the number of frames in its header."""
    count = SAMPLE_COUNT.search(content[:1024])
    return [Link(0, len(content), frames=int(count[1]) if count else None)]


def read_au(content: bytes) -> list[Link]:
    """Return the file as a link; ValueError for other bytes after the sound."""
    start, size = (int.from_bytes(content[i : i + 4], "big") for i in (4, 8))
    if size != 0xFFFF_FFFF:  # unknown: the sound goes on to the end
        _check_end(content, start + size)
    return [Link(0, len(content))]


def read_caf(content: bytes) -> list[Link]:
    """Return the file as a link; ValueError for other bytes after the last chunk."""
    place = CAF_HEADER
    while place + CAF_CHUNK <= len(content) and content[place : place + 4].strip(b"\0"):
        size = int.from_bytes(content[place + 4 : place + CAF_CHUNK], "big", signed=True)
        if size < 0 or place + CAF_CHUNK + size > len(content):
            break
        place += CAF_CHUNK + size
        if content[place : place + 4] == b"caff":
            _check_end(content, place)
    return [Link(0, len(content))]


def _check_end(content: bytes, end: int) -> None:
    if end < len(content) and not is_appendix(content, end):
        raise ValueError(
            f"{len(content) - end} bytes follow the {end} that its header tells of; if they are "
            "sound, split the file"
        )
