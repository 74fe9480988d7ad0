"""Pages of Ogg files (RFC 3533), which hold Vorbis, Opus or FLAC."""

import zlib

from tresse.data.audio.containers.link import Link, is_appendix

MAGIC, HEADER_BYTES = b"OggS", 27
CONTINUED, FIRST, LAST = 1, 2, 4
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def find_links(content: bytes) -> list[Link]:
    """Return a link for each group of streams that begin together.

    ValueError for a page that is damaged, missing or cut, and for a stream without its last page.
    """
    links: list[Link] = []
    place = start = 0
    numbers: dict[bytes, int] = {}  # of the last page, by the serial number of the stream
    unfinished: set[bytes] = set()
    begins = True
    while place < len(content):
        if content[place : place + 4] != MAGIC:
            if content.find(MAGIC, place) < 0 and (is_appendix(content, place) or not unfinished):
                break
            raise ValueError(f"damaged: no Ogg page at byte {place}")
        end = _end_of_page(content, place)
        flags, serial = content[place + 5], bytes(content[place + 14 : place + 18])
        number = int.from_bytes(content[place + 18 : place + 22], "little")
        if _checksum(content[place:end]) != content[place + 22 : place + 26]:
            raise ValueError(f"damaged: the Ogg page at byte {place} has a wrong checksum")
        if flags & FIRST:
            if not begins:
                _check_finished(unfinished, place)
                links.append(Link(start, place))
                start, numbers, unfinished = place, {}, set()
            unfinished.add(serial)
        elif serial not in numbers or number != numbers[serial] + 1:
            raise ValueError(f"damaged: pages are missing before byte {place}")
        begins = bool(flags & FIRST)
        numbers[serial] = number
        if flags & LAST:
            unfinished.discard(serial)
        place = end
    _check_finished(unfinished, place)
    return [*links, Link(start, place)]


def _end_of_page(content: bytes, place: int) -> int:
    header = content[place : place + HEADER_BYTES]
    if len(header) < HEADER_BYTES:
        raise ValueError(f"cut short within the Ogg page at byte {place}")
    body = place + HEADER_BYTES + header[26]
    end = body + sum(content[place + HEADER_BYTES : body])
    if end > len(content):
        raise ValueError(f"cut short within the Ogg page at byte {place}")
    return end


def _check_finished(unfinished: set[bytes], place: int) -> None:
    if unfinished:
        raise ValueError(f"cut short: the stream that ends at byte {place} has no last Ogg page")


def _checksum(page: bytes) -> bytes:
    """Return the CRC of a page, little-endian: zlib's with all bits reversed, from 0."""
    page = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "little").translate(REVERSED)[::-1]
