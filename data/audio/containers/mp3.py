"""Frames of MP3 files (ISO 11172-3 and 13818-3, layers 1 to 3), with the headers of encoders.

The first frame of most files holds no sound but a header by Xing, LAME or Fraunhofer: the number of
frames and, by LAME, of samples to drop at both ends. Where it disagrees with the frames that are
there, the file was cut or joined.
"""

from typing import NamedTuple

from tresse.data.audio.containers.link import Link, is_appendix, skip_id3

# kbit/s by version (MPEG 1, or 2 and 2.5) and layer
BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
NO_CHECKSUM, BITRATE = 1 << 16, 15 << 12  # bits of a header
XING_BYTES = 12  # of the mark, the flags and the number of frames
MAX_MISCOUNT = 1  # frames: some encoders count the header, and a last frame may be cut
MAX_TAIL_BYTES = 4096  # of unknown bytes after the last frame


class Header(NamedTuple):
    """The header of a frame."""

    size: int
    """Bytes of the frame."""
    num_samples: int
    rate: int
    side_bytes: int
    """Bytes between the header and the sound, in layer 3."""
    word: int
    """The header itself, 32 bits."""


class _Encoded(NamedTuple):
    """The header of an encoder."""

    num_frames: int | None
    num_dropped: int | None
    """Samples that are dropped at both ends; None when LAME's part is missing."""


def read_header(content: bytes, place: int) -> Header | None:
    """Return the header of the frame at `place`; None when no frame begins there."""
    word = int.from_bytes(content[place : place + 4], "big")
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    bitrate, rate = word >> 12 & 15, word >> 10 & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or rate == 3 or bitrate in (0, 15):
        return None
    is_mpeg1 = version == 3
    bits_per_s = 1000 * BITRATES[is_mpeg1, layer][bitrate - 1]
    rate = RATES[version][rate]
    num_samples = 384 if layer == 1 else 576 if layer == 3 and not is_mpeg1 else 1152
    slot = 4 if layer == 1 else 1
    size = (num_samples // 8 * bits_per_s // rate // slot + (word >> 9 & 1)) * slot
    is_mono = word >> 6 & 3 == 3
    side = (17 if is_mono else 32) if is_mpeg1 else 9 if is_mono else 17
    return Header(size, num_samples, rate, side, word)


def find_links(content: bytes, start: int) -> list[Link]:
    """Return a link for each run of frames that begins with a header of an encoder, or the file.

    start: offset of the first frame. ValueError for bytes within the frames that are no frame, and
    for fewer frames than a header says.
    """
    runs = _find_runs(content, start)
    ends = [*(run.start for run in runs[1:]), runs[-1].end]
    return [_make_link(run, end) for run, end in zip(runs, ends, strict=True)]


class _Run(NamedTuple):
    start: int
    sound: int
    """Offset of the first frame with sound."""
    end: int
    num_frames: int
    """Frames with sound."""
    header: Header
    encoded: _Encoded | None


def _find_runs(content: bytes, start: int) -> list[_Run]:
    runs: list[_Run] = []
    place, rate = start, None
    first = 0
    encoded, header, sound, count = None, None, 0, 0

    def finish(end: int) -> None:
        if header is not None:
            runs.append(_Run(first, sound, end, count, header, encoded))

    while place < len(content):
        found = read_header(content, place)
        if found is None:
            following = skip_id3(content, place)
            if following == place:
                if not _is_tail(content, place):
                    raise ValueError(f"damaged: no frame of MP3 at byte {place}")
                break
            place = following
            continue
        if rate is not None and found.rate != rate:
            raise ValueError(f"the sample rate changes from {rate} to {found.rate} at byte {place}")
        rate = found.rate
        if place + found.size > len(content):
            break  # the last frame is cut: it would have 72 ms at most
        mark = _read_encoded(content, place, found)
        if header is None or mark is not None:
            if header is not None:
                finish(place)
                first = place
            encoded, header, count = mark, found, 0
            sound = place + found.size if mark is not None else first
        count += mark is None
        place += found.size
    finish(place)
    if not runs:
        raise ValueError("it has no whole frame of MP3")
    return runs


def _is_tail(content: bytes, place: int) -> bool:
    """Return whether no frame follows, and the rest is tags, zeros or a few bytes."""
    if is_appendix(content, place):
        return True
    return len(content) - place <= MAX_TAIL_BYTES and not _frames_follow(content, place)


def _frames_follow(content: bytes, place: int) -> bool:
    """Return whether two frames, one after the other, begin anywhere later."""
    while (place := content.find(b"\xff", place + 1)) >= 0:
        first = read_header(content, place)
        if first is not None and read_header(content, place + first.size) is not None:
            return True
    return False


def _read_encoded(content: bytes, place: int, header: Header) -> _Encoded | None:
    """Return what an encoder says in a frame without sound; None for a frame of sound."""
    if content[place + 36 : place + 40] == b"VBRI":
        return _Encoded(int.from_bytes(content[place + 50 : place + 54], "big"), None)
    mark = place + 4 + header.side_bytes
    if content[mark : mark + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(content[mark + 4 : mark + 8], "big")
    count = int.from_bytes(content[mark + 8 : mark + 12], "big") if flags & 1 else None
    lame = mark + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1)
    lame += 4 * (flags >> 3 & 1)
    if not any(content[lame : lame + 4]) or lame + 24 > place + header.size:
        return _Encoded(count, None)
    both = int.from_bytes(content[lame + 21 : lame + 24], "big")
    return _Encoded(count, (both >> 12) + (both & 0xFFF))


def _make_link(run: _Run, end: int) -> Link:
    size, encoded = run.header.num_samples, run.encoded
    total = run.num_frames * size
    said = run.num_frames if encoded is None or encoded.num_frames is None else encoded.num_frames
    if run.num_frames < said - MAX_MISCOUNT:
        raise ValueError(f"cut short: {run.num_frames} frames of MP3, the header says {said}")
    if encoded is None or run.num_frames > said + MAX_MISCOUNT:
        # libsndfile would stop at the number that it estimates, or at that of the first part.
        return Link(run.sound, end, _xing_frame(run), frames=total, tolerance=2 * size)
    if encoded.num_dropped is None:
        return Link(run.start, end, frames=total, tolerance=4 * size)
    return Link(run.start, end, frames=total - encoded.num_dropped, tolerance=2 * size)


def _xing_frame(run: _Run) -> bytes:
    """Return a frame without sound that gives the number of frames that follow it."""
    for bitrate in range(1, 15):
        word = (run.header.word & ~BITRATE | NO_CHECKSUM | bitrate << 12).to_bytes(4, "big")
        header = read_header(word, 0)
        if header is not None and header.size >= len(word) + header.side_bytes + XING_BYTES:
            break
    else:
        raise AssertionError("the largest frames have room for a number")
    frame = word + bytes(header.side_bytes)
    frame += b"Xing" + (1).to_bytes(4, "big") + run.num_frames.to_bytes(4, "big")
    return frame.ljust(header.size, b"\0")
