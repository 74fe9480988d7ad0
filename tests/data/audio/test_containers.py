"""Files that are joined, cut, damaged or streamed are decoded whole, or refused with the reason."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.synthetic_audio import buzz
from tresse.data.audio.containers.structure import find_links
from tresse.data.audio.sources import Channel, File, Span
from tresse.data.audio.waveforms import read_spans

RATE = 24_000
ONE, TWO = 2 * RATE, 3 * RATE  # frames
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "gsm.wav": ("WAV", "GSM610"),
    "adpcm.wav": ("WAV", "MS_ADPCM"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
PADDED = {"gsm.wav": 320, "adpcm.wav": 2048, "opus.ogg": 1}  # frames by which a block is filled
ID3V1 = b"TAG" + b"a title".ljust(125, b"\0")


def id3v2(size: int) -> bytes:
    return (
        b"ID3\x04\0\0"
        + bytes([size >> 21, size >> 14 & 127, size >> 7 & 127, size & 127])
        + bytes(size)
    )


def encode(kind: str, seconds: float, seed: int = 1) -> bytes:
    content = io.BytesIO()
    container, subtype = KINDS[kind]
    soundfile.write(
        content, buzz(seconds, RATE, seed=seed), RATE, format=container, subtype=subtype
    )
    return content.getvalue()


def decode(content: bytes, folder: Path, name: str = "a.bin") -> np.ndarray:
    path = folder / name
    path.write_bytes(content)
    (found,) = read_spans([Span(File(str(path)))], RATE)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_file_is_what_libsndfile_decodes(kind: str, tmp_path: Path) -> None:
    content = encode(kind, 2)
    found = decode(content, tmp_path)
    expected = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 if kind == "mp3" else 0)
    assert ONE <= found.size <= ONE + PADDED.get(kind, 0)


@pytest.mark.parametrize("kind", ["wav", "gsm.wav", "flac", "vorbis.ogg", "opus.ogg", "mp3"])
def test_joined_files_are_decoded_one_after_the_other(kind: str, tmp_path: Path) -> None:
    parts = [encode(kind, 2), encode(kind, 3, seed=2), encode(kind, 2, seed=3)]
    whole = np.concatenate([decode(part, tmp_path) for part in parts])
    np.testing.assert_array_equal(decode(b"".join(parts), tmp_path), whole)
    first, last = round(1.5 * RATE), round(5.5 * RATE)
    source = File(str(tmp_path / "a.bin"))
    spans = [Span(source, 1.5, 5.5), Span(source, 0, 1), Span(source, 6, None)]
    found = list(read_spans(spans, RATE))
    np.testing.assert_array_equal(found[0], whole[first:last])
    np.testing.assert_array_equal(found[1], whole[:RATE])
    np.testing.assert_array_equal(found[2], whole[6 * RATE :])


@pytest.mark.parametrize("kind", ["aiff", "au", "caf", "sph", "rf64", "w64"])
def test_joined_files_of_other_formats_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.bin: \D*(marker|\d+ (bytes|samples))"):
        decode(encode(kind, 2) + encode(kind, 3), tmp_path)


def test_parts_at_different_rates_are_refused(tmp_path: Path) -> None:
    other = io.BytesIO()
    soundfile.write(other, buzz(1, 16_000), 16_000, format="FLAC")
    with pytest.raises(ValueError, match="joined of 1 channels at 24000 Hz and 1 at 16000 Hz"):
        decode(encode("flac", 1) + other.getvalue(), tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    content = encode(kind, 3)
    with pytest.raises(ValueError, match=r"a\.bin: .*(cut short|lost sync|malformed|cannot be)"):
        decode(content[: int(len(content) * share)], tmp_path)


@pytest.mark.parametrize("kind", ["flac", "vorbis.ogg", "opus.ogg", "mp3"])
def test_a_damaged_middle_is_refused(kind: str, tmp_path: Path) -> None:
    content = bytearray(encode(kind, 3))
    middle = len(content) // 2
    content[middle : middle + 700] = np.random.default_rng(0).integers(0, 256, 700, "u1").tobytes()
    with pytest.raises(ValueError, match=r"a\.bin: (damaged|cannot be decoded)"):
        decode(bytes(content), tmp_path)


def test_an_ogg_without_one_of_its_pages_is_refused(tmp_path: Path) -> None:
    content = encode("vorbis.ogg", 6)
    pages = [content.index(b"OggS", 1)]
    while (place := content.find(b"OggS", pages[-1] + 1)) >= 0:
        pages.append(place)
    assert len(pages) >= 4
    middle = len(pages) // 2
    with pytest.raises(ValueError, match="pages are missing before byte"):
        decode(content[: pages[middle]] + content[pages[middle + 1] :], tmp_path)
    with pytest.raises(ValueError, match=r"cut short: the stream .* has no last Ogg page"):
        decode(content[: pages[-1]], tmp_path)


@pytest.mark.parametrize("riff", [None, 0, 36, 0x7FFF_F024, 0xFFFF_FFFF])
@pytest.mark.parametrize("data", [0, 0x7FFF_F000, 0x8000_0000, 0xFFFF_FFFF])
@pytest.mark.parametrize("kind", ["wav", "gsm.wav"])
def test_a_wav_from_a_pipe_is_whole(kind: str, data: int, riff: int | None, tmp_path: Path) -> None:
    content = bytearray(encode(kind, 2))
    expected = decode(bytes(content), tmp_path)
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", data)
    if riff is not None:
        content[4:8] = struct.pack("<I", riff)
    np.testing.assert_array_equal(decode(bytes(content), tmp_path), expected)


def test_chunks_and_tags_around_the_sound_of_a_wav_are_no_sound(tmp_path: Path) -> None:
    content = encode("wav", 2)
    expected = decode(content, tmp_path)
    chunk = b"LIST" + struct.pack("<I", 5) + b"abcde"
    for after in (chunk, chunk + b"\0", chunk + chunk, ID3V1, bytes(512)):
        np.testing.assert_array_equal(decode(content + after, tmp_path), expected)
    empty = bytearray(content[: content.index(b"data") + 8])
    empty[-4:] = bytes(4)
    assert decode(bytes(empty) + chunk, tmp_path).size == 0  # chunks follow: the size is meant
    short = bytearray(content)
    place = content.index(b"data") + 4
    short[place : place + 4] = struct.pack("<I", 100)
    with pytest.raises(ValueError, match="bytes after the sound are no chunk of WAV"):
        decode(bytes(short), tmp_path)


def test_a_flac_whose_writer_did_not_know_its_length_is_whole(tmp_path: Path) -> None:
    content = encode("flac", 2.01)
    expected = decode(content, tmp_path)
    streamed = bytearray(content)
    streamed[21] &= 0xF0
    streamed[22:26] = bytes(4)
    for whole in (streamed, id3v2(300) + streamed):
        np.testing.assert_array_equal(decode(bytes(whole), tmp_path), expected)
    twice = decode(bytes(streamed) * 2, tmp_path)
    np.testing.assert_array_equal(twice, np.tile(expected, 2))


@pytest.mark.parametrize("before", [b"", id3v2(1000)], ids=["plain", "id3v2"])
@pytest.mark.parametrize("after", [b"", ID3V1, b"APETAGEX" + bytes(300), bytes(2000)])
def test_tags_of_an_mp3_are_no_sound(before: bytes, after: bytes, tmp_path: Path) -> None:
    content = encode("mp3", 2)
    np.testing.assert_array_equal(
        decode(before + content + after, tmp_path), decode(content, tmp_path)
    )


def without_header(content: bytes) -> bytes:
    """An MP3 without the frame in which the encoder says how long it is."""
    second = content.index(content[:2], 4)
    assert b"Info" in content[:second] or b"Xing" in content[:second]
    return content[second:]


def test_an_mp3_without_a_header_or_with_that_of_its_first_part_is_whole(tmp_path: Path) -> None:
    content, bare = encode("mp3", 2), without_header(encode("mp3", 3, seed=2))
    frame = 576
    found = decode(bare, tmp_path)
    assert abs(found.size - TWO) <= 4 * frame
    both = decode(content + bare, tmp_path)
    assert abs(both.size - ONE - TWO) <= 6 * frame
    # The second part is there, from its beginning to its end.
    np.testing.assert_allclose(both[-RATE:], found[-RATE:], atol=1e-4)


def test_frames_of_an_mp3_are_counted() -> None:
    content = encode("mp3", 3)
    (link,) = find_links(content)
    assert link.frames == TWO
    frame = content.index(content[:2], 4)
    with pytest.raises(ValueError, match=r"cut short: \d+ frames of MP3, the header says \d+"):
        find_links(content[: len(content) - 5 * frame])


@pytest.mark.parametrize("name", ["a.raw", "a.wav", "a.txt", "a.mp3", "a"])
@pytest.mark.parametrize("content", [b"", b"text, not sound " * 99, bytes(4000)])
def test_what_is_no_sound_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}: not an audio file we know"):
        decode(content, tmp_path, name)


def test_a_format_without_a_length_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.voc", buzz(1, RATE), RATE, format="VOC", subtype="PCM_16")
    with pytest.raises(ValueError, match=r"a\.voc: format VOC, whose length cannot be checked"):
        decode((tmp_path / "a.voc").read_bytes(), tmp_path, "a.voc")


def test_a_channel_of_a_joined_file_is_whole(tmp_path: Path) -> None:
    sound = np.stack([buzz(1, RATE, seed=1), buzz(1, RATE, seed=2)], axis=1)
    path = tmp_path / "a.flac"
    soundfile.write(path, sound, RATE)
    path.write_bytes(path.read_bytes() * 2)
    (found,) = read_spans([Span(Channel(File(str(path)), 1))], RATE)
    np.testing.assert_allclose(found, np.tile(sound[:, 1], 2), atol=1e-4)
    with pytest.raises(ValueError, match=r"channel 2: the file has 2$"):
        list(read_spans([Span(Channel(File(str(path)), 2))], RATE))
