"""The sound of a file, read forward through all of its links by libsndfile."""

import io
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from tresse.data.audio.containers.link import Link
from tresse.data.audio.containers.structure import find_links

# Formats whose length we know by their structure, or by what libsndfile notes of it.
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3")
# libsndfile decodes as far as it can, but notes sizes that differ: "data : 128000 (should be 9)".
SIZES = re.compile(
    r"(?m)^\s*(data|riff|Riff size|FORM|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)"
)
RAW = ".raw"  # soundfile asks for the settings of raw samples by this ending, and cannot have them
FAULTS = re.compile(r"(?im)^.*(?:synchronisation error|lost sync).*$")


class SoundError(ValueError):
    """The reason why a file cannot be decoded, without its name."""


class Sound:
    """All sound of a file as float32 frames, in order.

    content: a path or the bytes of a file. SoundError when it is no audio file, or not whole.
    """

    def __init__(self, content: str | BinaryIO) -> None:
        self._content = content
        self._links = _find_links(content)
        self._index, self._position, self._taken = -1, 0, 0
        self._open_next()
        self.sample_rate, self.num_channels = self._file.samplerate, self._file.channels
        self.num_frames = self._count_frames()
        """Number of frames, which some formats only estimate."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if isinstance(self._opened, _Section):
            self._opened.close()

    def read(self, frames: int) -> np.ndarray:
        """Return the next frames, float32 [at most `frames`, channels]; none at the end."""
        while True:
            with _named():
                block = self._file.read(frames, dtype="float32", always_2d=True)
            self._taken += len(block)
            self._position += len(block)
            if len(block) or frames == 0:
                return block
            self._check_link()
            if self._index == len(self._links) - 1:
                return block
            self._open_next()

    def go_to(self, frame: int) -> None:
        """Seek to a frame, or decode up to it where a seek is not exact."""
        if len(self._links) == 1 and self._is_seekable():
            with _named():
                self._position = self._taken = self._file.seek(min(frame, self._file.frames))
            return
        if frame < self._position:
            self.close()
            self._index, self._position = -1, 0
            self._open_next()
        while self._position < frame and len(self.read(min(frame - self._position, 1 << 16))):
            pass

    @property
    def position(self) -> int:
        """Number of the next frame."""
        return self._position

    def _is_seekable(self) -> bool:
        # In an MP3 the next frame needs bits of the one before, so after a seek hundreds of samples
        # are wrong.
        return self._file.format != "MP3" and self._file.seekable()

    def _count_frames(self) -> int:
        counts = [link.frames for link in self._links]
        if len(counts) == 1 or None in counts:
            return counts[0] or self._file.frames
        return sum(count or 0 for count in counts)

    def _open_next(self) -> None:
        if self._index >= 0:
            self.close()
        self._index, self._taken = self._index + 1, 0
        link = self._links[self._index]
        try:
            self._opened = _section(self._content, link, only=len(self._links) == 1)
            self._file = _SoundFile(self._opened)  # pyright: ignore[reportArgumentType]
        except soundfile.LibsndfileError as error:
            raise SoundError(f"not an audio file we know ({_reason(error)})") from None
        _check_header(self._file)
        found = self._file.samplerate, self._file.channels
        if self._index and found != (self.sample_rate, self.num_channels):
            raise SoundError(
                f"joined of {self.num_channels} channels at {self.sample_rate} Hz and "
                f"{found[1]} at {found[0]} Hz; write them as separate files"
            )

    def _check_link(self) -> None:
        """Compare the frames that were read from the start of a link with what it should hold."""
        link = self._links[self._index]
        expected = self._file.frames if link.frames is None else link.frames
        if abs(self._taken - expected) > link.tolerance:
            what = "cut short" if self._taken < expected else "longer than it says"
            raise SoundError(f"{what}: {self._taken} samples decoded, the header says {expected}")
        if fault := FAULTS.search(self._file.extra_info):
            raise SoundError(f"damaged: {fault[0].strip()}")


class _SoundFile(soundfile.SoundFile):
    """A sound file that soundfile does not seek in when it is an MP3.

    soundfile seeks to the current place after every read.
    """

    def seekable(self) -> bool:
        """Return whether the samples after a seek are right."""
        return self.format != "MP3" and super().seekable()


class _Section(io.RawIOBase):
    """A link of a file as a file, after its header."""

    _owned: BinaryIO | None = None

    def __init__(self, content: str | BinaryIO, link: Link) -> None:
        if isinstance(content, str):
            content = self._owned = Path(content).open("rb")  # noqa: SIM115
        self._file: BinaryIO = content
        self._link, self._place = link, 0
        self._size = len(link.header) + link.end - link.start

    def close(self) -> None:
        if self._owned is not None:
            self._owned.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = (0, self._place, self._size)[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        header, start = self._link.header, self._link.start - len(self._link.header)
        found = header[self._place : self._place + len(buffer)]
        if not found:
            self._file.seek(start + self._place)
            found = self._file.read(min(len(buffer), max(self._size - self._place, 0)))
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)


@contextmanager
def _named() -> Iterator[None]:
    """Turn an error of libsndfile into SoundError."""
    try:
        yield
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise SoundError(f"cannot be decoded ({_reason(error)})") from None


def _find_links(content: str | BinaryIO) -> list[Link]:
    try:
        if not isinstance(content, str):
            return find_links(content.read())
        with Path(content).open("rb") as file:
            if file.seek(0, io.SEEK_END) == 0:
                raise SoundError("not an audio file we know (it is empty)")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return find_links(mapped)  # type: ignore[arg-type]
    except SoundError:
        raise
    except ValueError as error:
        raise SoundError(str(error)) from None


def _section(content: str | BinaryIO, link: Link, only: bool) -> str | BinaryIO | _Section:
    """Return what libsndfile is to open; it reads a whole file without Python in between."""
    is_raw = isinstance(content, str) and content.lower().endswith(RAW)
    if only and not link.header and link.start == 0 and not is_raw:
        if not isinstance(content, str):
            content.seek(0)
        return content
    return _Section(content, link)


def _check_header(file: soundfile.SoundFile) -> None:
    """Raise SoundError when the sizes that libsndfile notes differ, or nobody can tell them."""
    if file.format not in FORMATS:
        raise SoundError(
            f"format {file.format}, whose length cannot be checked; convert it to WAV or FLAC"
        )
    notes = file.extra_info
    for name, said, found in SIZES.findall(notes):
        if file.format in ("WAV", "WAVEX"):
            continue  # checked by wav.py, which knows more
        if int(found) != int(said):
            fault = "cut short" if int(found) < int(said) else "bytes follow the sound"
            raise SoundError(f"{fault}: {name} has {found} bytes, the header says {said}")


def _reason(error: Exception) -> str:
    """Return the short reason of an error of libsndfile."""
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return text.removeprefix("Error : ").rstrip(".")
