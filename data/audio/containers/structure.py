"""The structure of an audio file of any format, read without decoding it."""

from tresse.data.audio.containers import flac, mp3, ogg, stated, wav
from tresse.data.audio.containers.link import Link, skip_id3


def find_links(content: bytes) -> list[Link]:
    """Return the links of a file, in order; a file of a format without links is one link.

    content: bytes or an mmap. ValueError gives the reason why the sound is not whole: cut short,
    damaged, or followed by bytes that are no sound.
    """
    start = skip_id3(content, 0)
    if content[:4] == b"OggS":
        return ogg.find_links(content)
    if content[start : start + 4] == b"fLaC":
        return flac.find_links(content, start)
    if content[:4] in wav.RIFFS and content[8:12] == b"WAVE":
        return wav.find_links(content)
    if content[:7] == b"NIST_1A":
        return stated.read_nist(content)
    if content[:4] == b".snd":
        return stated.read_au(content)
    if content[:4] == b"caff":
        return stated.read_caf(content)
    if mp3.read_header(content, start) is not None:
        return mp3.find_links(content, start)
    return [Link(0, len(content))]
