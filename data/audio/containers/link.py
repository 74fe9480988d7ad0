"""Links of an audio file: stretches of its bytes that are audio files by themselves.

`cat a.ogg b.ogg` is a valid file of two links, and joined FLAC, MP3 and WAV files are common too.
libsndfile decodes the first link and says nothing of the others. It also trusts headers whose
writers did not know the length, and skips what is damaged. So the structure of a file is read
before it is decoded, without decoding it.
"""

from typing import NamedTuple

ID3, ID3_HEADER_BYTES = b"ID3", 10
# What other tools append to sound: ID3v1, APE, Lyrics3, and zeros that fill a block.
TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", ID3)


class Link(NamedTuple):
    """A stretch of a file that libsndfile can decode by itself."""

    start: int
    """Offset of its first byte."""
    end: int
    """Offset after its last byte."""
    header: bytes = b""
    """Bytes to put before it: the header of a file whose own one has a wrong length, or none."""
    frames: int | None = None
    """Number of frames of sound by its structure; None where libsndfile's own is right."""
    tolerance: int = 0
    """Largest difference in frames that is no fault."""


def skip_id3(content: bytes, start: int) -> int:
    """Return the offset after the ID3v2 tags that begin at `start`."""
    while content[start : start + 3] == ID3 and len(content) >= start + ID3_HEADER_BYTES:
        size = 0
        for byte in content[start + 6 : start + ID3_HEADER_BYTES]:
            size = size << 7 | byte & 0x7F
        footer = ID3_HEADER_BYTES if content[start + 5] & 0x10 else 0
        start += ID3_HEADER_BYTES + size + footer
    return start


def is_appendix(content: bytes, start: int) -> bool:
    """Return whether the bytes from `start` to the end are tags or zeros, so no sound."""
    rest = content[start:]
    return rest.startswith(TAGS) or not rest.strip(b"\0")
