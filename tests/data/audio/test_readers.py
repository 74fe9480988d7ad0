"""Audio of other tools, written as they write it, becomes recordings with the right stretches."""

import gzip
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from tests.support.foreign.audio import audio_bytes, cut, write_cuts, write_moshi, write_tar
from tests.support.processes import ROOT, run
from tests.support.synthetic_audio import SMALL, buzz, write_buzz
from tests.support.workers.slow_tokenizer import Loudness
from tresse.data.audio.readers.any_format import AudioFormat, read_audio
from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import Channel, File, Span, TarMember
from tresse.data.audio.tokenise import tokenise
from tresse.data.audio.waveforms import read_spans
from tresse.data.left_out import LeftOut
from tresse.data.naming import Naming
from tresse.data.store.corpus import Corpus


def read(
    path: Path, format: AudioFormat, root: Path | None = None, *, skip: bool = False, **flags
) -> list[Recording]:
    left_out = LeftOut("skip" if skip else "stop")
    return read_audio([path], format, Naming(**flags), root, left_out)


def times(recording: Recording) -> list[tuple[float, float | None]]:
    return [(span.start, span.end) for span in recording.sentences]


# --- moshi-finetune

SENTENCES = [(0.1, 0.9), (0.9, 2.0), (2.5, 3.0)]


def test_moshis_words_become_sentences_of_the_left_channel(tmp_path):
    path = write_moshi(tmp_path / "d")
    (recording,) = read(path, "moshi", lang="en")
    assert (recording.key, recording.language, recording.where) == ("a", "en", f"{path}:1")
    assert times(recording) == SENTENCES
    source = Channel(File(str(tmp_path / "d" / "data_stereo" / "a.wav")), 0)
    assert {span.source for span in recording.sentences} == {source}
    left = soundfile.read(tmp_path / "d" / "data_stereo" / "a.wav", dtype="float32")[0][:, 0]
    for (start, end), found in zip(SENTENCES, read_spans(recording.sentences, 24_000), strict=True):
        np.testing.assert_array_equal(found, left[round(start * 24_000) : round(end * 24_000)])


def test_moshis_paths_are_beside_the_list_or_in_a_folder_that_is_named(tmp_path):
    path = write_moshi(tmp_path / "d")
    moved = tmp_path / "list.jsonl"
    moved.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"data_stereo/a\.json: cannot be read .*annotate\.py"):
        read(moved, "moshi", lang="en")
    assert times(read(moved, "moshi", tmp_path / "d", lang="en")[0]) == SENTENCES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no words of SPEAKER_MAIN"),
        ([["Hi", [0, 1], "SPEAKER_USER"]], "no words of SPEAKER_MAIN"),
        ([["Hi", [0, "1"], "SPEAKER_MAIN"]], "alignment 0 is .*expected"),
        ([["Hi", [0, float("nan")], "SPEAKER_MAIN"]], "alignment 0 is .*expected"),
        ([["Hi", 3, "SPEAKER_MAIN"]], "expected {.alignments"),
        ([3], "expected {.alignments"),
        ([["Hi.", [0, 0], "SPEAKER_MAIN"]], "all words end at 0 s"),
    ],
)
def test_alignments_without_sentences_are_refused(words, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        read(write_moshi(tmp_path / "d", words), "moshi", lang="en")
    assert f"sonl:1: {tmp_path / 'd' / 'data_stereo' / 'a.json'}: " in str(caught.value)


def test_a_channel_that_is_not_there_is_named(tmp_path):
    path = write_buzz(tmp_path / "mono.wav", 1.0)
    with pytest.raises(ValueError, match=r"mono\.wav channel 1: the file has 1$"):
        list(read_spans([Span(Channel(File(str(path)), 1))], 24_000))
    (tmp_path / "no.wav").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"no\.wav channel 0: .*not an audio file"):
        list(read_spans([Span(Channel(File(str(tmp_path / "no.wav")), 0))], 24_000))


# --- WebDataset


def test_samples_are_members_with_one_name_up_to_its_first_dot(tmp_path):
    path = write_tar(
        tmp_path / "shard-000000.tar",
        [
            ("x/0001.flac", audio_bytes("flac", 1)),
            ("x/0001.json", {"key": "s", "lang": "fr", "sentence": 1, "speaker": 3}),
            ("x/0001.txt", b"Bonjour."),
            ("x/0002.seg.wav", audio_bytes("wav", 2)),
            ("x/0002.json", {"key": "s", "lang": "fr", "sentence": 0}),
            ("y/0001.MP3", audio_bytes("mp3", 3)),
            ("y/0001.cls", b"3"),
            ("z.json", {"sentences": [[0, 0.25], [0.5, 1]], "lang": "en"}),
            ("z.ogg", audio_bytes("ogg", 4)),
        ],
    )
    numbered, mp3, timed = read(path, "webdataset", lang="de")
    assert (numbered.key, numbered.language) == ("s", "fr")
    assert [str(span.source) for span in numbered.sentences] == [
        f"{path}:x/0002.seg.wav",
        f"{path}:x/0001.flac",
    ]
    assert (mp3.key, mp3.language) == ("y/0001", "de")
    assert (timed.key, timed.language, times(timed)) == ("z", "en", [(0, 0.25), (0.5, 1)])
    wav, flac = read_spans(numbered.sentences, 24_000)
    np.testing.assert_allclose(wav, buzz(1.0, seed=2), atol=1e-4)
    np.testing.assert_allclose(flac, buzz(1.0, seed=1), atol=1e-4)


@pytest.mark.parametrize("first", [0, 1])
def test_names_of_members_are_read_by_the_pattern(first, tmp_path):
    second = first + 1
    members = [(f"{k}_{i}.wav", audio_bytes("wav", i)) for i in (second, first) for k in "ba"]
    path = write_tar(tmp_path / "t.tar", members)
    found = read(path, "webdataset", lang="en", key_pattern=r"(?P<key>.)_(?P<sentence>\d)")
    assert [r.key for r in found] == ["b", "a"]
    names = [[Path(str(span.source)).name for span in r.sentences] for r in found]
    assert names == [[f"t.tar:{k}_{i}.wav" for i in (first, second)] for k in "ba"]


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("a.wav")
    info.type, info.linkname = kind, target
    return info


WAV = b"RIFF"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../a.wav", WAV)], r"member '\.\./a\.wav': it leaves the folder"),
        ([("x/../../a.wav", WAV)], "leaves the folder"),
        ([("/etc/a.wav", WAV)], "member '/etc/a.wav': it leaves the folder"),
        ([("", link(tarfile.SYMTYPE, "/etc/passwd"))], "member 'a.wav': it is a link"),
        ([("", link(tarfile.LNKTYPE, "b.wav"))], "member 'a.wav': it is a link"),
        ([("", link(tarfile.GNUTYPE_SPARSE, ""))], "member 'a.wav': it is a link, a device"),
        ([("", link(tarfile.FIFOTYPE, ""))], "member 'a.wav': it is a link, a device"),
        ([("a.json", {})], "a: expected one audio file .*found none"),
        ([("a.wav", WAV), ("a.flac", WAV)], "a: expected one audio file .*found a.wav, a.flac"),
        ([("a.wav", WAV), ("a.json", b"[]")], "member 'a.json': not a JSON object"),
        ([("a.wav", WAV), ("a.json", b"{")], "member 'a.json': Expecting"),
        ([("a.wav", WAV), ("a.json", {"key": 3})], "a: key is 3, expected text"),
        ([("a.wav", WAV), ("a.json", {"sentence": "0"})], "a: sentence is '0'"),
        ([("a.wav", WAV), ("a.json", {"sentences": [[1, 0]]})], "a: sentence 0 is from 1 to 0"),
        ([("a.wav", WAV), ("b.wav", WAV), ("a.wav", WAV)], "a: key 'a' is in en already"),
        (
            [(f"{i}.{e}", c) for i in (0, 2) for e, c in
             (("wav", WAV), ("json", {"key": "k", "sentence": i}))],
            r"document 'k' \(en\): sentence 1 is missing",
        ),
    ],
)  # fmt: skip
def test_members_that_are_no_samples_are_refused_by_name(members, message, tmp_path):
    path = write_tar(tmp_path / "t.tar", members)
    with pytest.raises(ValueError, match=message) as caught:
        read(path, "webdataset", lang="en")
    assert str(caught.value).startswith(str(path))


def test_a_compressed_or_cut_tar_is_refused(tmp_path):
    good = write_tar(tmp_path / "t.tar", [("a.wav", audio_bytes("wav", 1))]).read_bytes()
    for content in (gzip.compress(good), b"x" * 2000, b""):
        (tmp_path / "t.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"t\.tar: cannot be read as an uncompressed tar"):
            read(tmp_path / "t.tar", "webdataset", lang="en", skip=True)
    (tmp_path / "t.tar").write_bytes(good[:700])
    with pytest.raises(ValueError, match=r"t\.tar: byte 700: the tar is cut; its end mark"):
        read(tmp_path / "t.tar", "webdataset", lang="en")


@pytest.fixture
def tars(tmp_path: Path) -> list[bytes]:
    """Two tars of two files each."""
    return [
        write_tar(
            tmp_path / "t.tar", [(f"{name}.wav", audio_bytes("wav", 1)) for name in names]
        ).read_bytes()
        for names in ("ab", "cd")
    ]


def test_joined_tars_are_read_to_the_end(tars, tmp_path):
    (tmp_path / "t.tar").write_bytes(tars[0] + tars[1])
    found = read(tmp_path / "t.tar", "webdataset", lang="en")
    assert [recording.key for recording in found] == ["a", "b", "c", "d"]
    first, last = (next(read_spans(found[i].sentences, 24_000, 9)) for i in (0, 3))
    assert np.array_equal(first, last)


def test_a_tar_that_is_cut_between_two_members_is_not_whole(tars, tmp_path, caplog):
    start = tars[0].index(b"b.wav")
    (tmp_path / "t.tar").write_bytes(tars[0][:start])
    with pytest.raises(ValueError, match=rf"byte {start}: the tar is cut; its end mark is missing"):
        read(tmp_path / "t.tar", "webdataset", lang="en")
    found = read(tmp_path / "t.tar", "webdataset", lang="en", skip=True)
    assert [recording.key for recording in found] == ["a"]
    assert f"byte {start}: the tar is cut" in caplog.text


@pytest.mark.parametrize(("name", "kept"), [("a", ["b", "c", "d"]), ("d", ["a", "b", "c"])])
def test_a_damaged_header_is_no_end_and_no_padding(tars, tmp_path, name, kept):
    content = bytearray(tars[0] + tars[1])
    start = content.index(f"{name}.wav".encode())
    content[start + 148] ^= 1  # in the checksum of the header
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"byte \d+: damaged up to the "):
        read(tmp_path / "t.tar", "webdataset", lang="en")
    found = read(tmp_path / "t.tar", "webdataset", lang="en", skip=True)
    assert [recording.key for recording in found] == kept


def test_hidden_members_and_members_without_audio_do_not_stop_a_job(tmp_path, caplog):
    members = [("._a.wav", b"\0\5\x16\7"), ("a.wav", audio_bytes("wav", 1)), (".DS_Store", b"x")]
    members += [("index.json", b'{"files": 1}'), ("b.json", b"{"), ("b.wav", audio_bytes("wav", 2))]
    path = write_tar(tmp_path / "t.tar", members)
    found = read(path, "webdataset", lang="en", skip=True)
    assert [recording.key for recording in found] == ["a"]
    assert "index: expected one audio file" in caplog.text
    assert "b: member 'b.json': Expecting property name" in caplog.text


def test_incomplete_documents_are_left_out_on_demand(tmp_path, caplog):
    members = [(f"{n}.wav", audio_bytes("wav", 1)) for n in ("a_0", "a_1", "b_1")]
    path = write_tar(tmp_path / "t.tar", members)
    flags: dict[str, Any] = {"lang": "en", "key_pattern": r"(?P<key>.)_(?P<sentence>\d)"}
    with pytest.raises(ValueError, match=r"document 'b' \(en\): sentence 0 is missing"):
        read(path, "webdataset", **flags)
    assert [r.key for r in read(path, "webdataset", skip=True, **flags)] == ["a"]
    assert "document 'b' (en): sentence 0 is missing" in caplog.text


# --- Lhotse


@pytest.mark.parametrize("name", ["c.json", "c.json.gz", "c.yaml", "c.yaml.gz", "c.jsonl"])
def test_cuts_come_as_lines_as_an_array_or_as_yaml(name, tmp_path):
    cuts = [cut("a/0", 0.25, 1.5), cut("a/1", 2.0, 1.75)]
    if "yaml" in name:
        content = yaml.safe_dump(cuts)
    elif "jsonl" in name:
        content = "".join(json.dumps(each) + "\n" for each in cuts)
    else:
        content = json.dumps(cuts, indent=2)
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    found = read(tmp_path / name, "lhotse")
    assert [recording.key for recording in found] == ["a/0", "a/1"]
    assert [times(recording) for recording in found] == [[(0.25, 1.75)], [(2.0, 3.75)]]


def test_the_older_type_and_a_multi_cut_of_one_channel_are_cuts(tmp_path):
    kinds: list[dict[str, Any]] = [{"type": "Cut"}, {"type": "MultiCut", "channel": [0]}]
    cuts = [cut(f"a/{i}", 0.25, 1.5, **changes) for i, changes in enumerate(kinds)]
    assert len(read(write_cuts(tmp_path / "c.jsonl.gz", *cuts), "lhotse")) == 2
    two = cut("a/2", 0.25, 1.5, type="MultiCut", channel=[0, 1])
    with pytest.raises(ValueError, match=r"'MultiCut' of the channels \[0, 1\], expected a cut of"):
        read(write_cuts(tmp_path / "c.jsonl.gz", two), "lhotse")


def test_a_cut_with_bad_supervisions_is_left_out_with_the_reason(tmp_path, caplog):
    overlapping = [{"start": 0, "duration": 1.0}, {"start": 0.5, "duration": 1.0}]
    empty = [{"start": 0.5, "duration": 0}]
    cuts = [
        cut("a/0", 0.25, 1.5, supervisions=overlapping),
        cut("a/1", 0.25, 1.5, supervisions=empty),
        cut("a/2", 0.25, 1.5),
    ]
    path = write_cuts(tmp_path / "c.jsonl.gz", *cuts)
    with pytest.raises(ValueError, match=r"c\.jsonl\.gz:1: sentence 1 is from 0\.5"):
        read(path, "lhotse", lang="en")
    found = read(path, "lhotse", lang="en", skip=True)
    assert [recording.key for recording in found] == ["a/2"]
    assert "gz:2: sentence 0 is from 0.5 to 0.5" in caplog.text


def test_cuts_are_stretches_of_a_recording(tmp_path):
    cuts = [cut("small/100/a_0", 0.25, 1.5), cut("small/100/a_1", 2.0, 1.75)]
    path = write_cuts(tmp_path / "cuts.jsonl.gz", *cuts)
    found = read(path, "lhotse", tmp_path, lang="en")
    assert [(r.key, r.language, times(r)) for r in found] == [
        ("small/100/a_0", "en", [(0.25, 1.75)]),
        ("small/100/a_1", "en", [(2.0, 3.75)]),
    ]
    sound = write_buzz(tmp_path / "download" / "small" / "100" / "a.flac", 4.0, 16_000)
    assert {str(span.source) for r in found for span in r.sentences} == {str(sound)}
    (waveform,) = read_spans(found[1].sentences, 16_000)
    np.testing.assert_allclose(waveform, buzz(4.0, 16_000)[32_000:60_000], atol=1e-4)
    (gathered,) = read(
        path, "lhotse", tmp_path, lang="en", key_pattern=r"(?P<key>.+)_(?P<sentence>\d+)$"
    )
    assert (gathered.key, times(gathered)) == ("small/100/a", [(0.25, 1.75), (2.0, 3.75)])


def test_supervisions_of_a_cut_are_its_sentences(tmp_path):
    own = [{"start": 1.0, "duration": 1.1}, {"start": 0.0, "duration": 1.0004}]
    path = write_cuts(tmp_path / "c.jsonl.gz", cut("a", 0.5, 2.0, supervisions=own))
    assert times(read(path, "lhotse", lang="en")[0]) == [(0.5, 1.5004), (1.5004, 2.5)]
    path = write_cuts(tmp_path / "d.jsonl.gz", cut("a", 0.5, 2.0, supervisions=[]))
    assert times(read(path, "lhotse", lang="en")[0]) == [(0.5, 2.5)]


def test_the_language_is_that_of_the_supervision_unless_a_flag_says_otherwise(tmp_path):
    path = write_cuts(tmp_path / "c.jsonl.gz", cut("a", 0, 1))
    assert read(path, "lhotse")[0].language == "English"
    assert read(path, "lhotse", lang="en")[0].language == "en"


def test_a_channel_of_a_stereo_recording_is_read_alone(tmp_path):
    sources = [{"type": "file", "channels": [3, 4], "source": "s.wav"}]
    record = cut("a", 0, 1, channel=4)
    record["recording"]["sources"] = sources
    path = write_cuts(tmp_path / "c.jsonl.gz", record)
    write_buzz(tmp_path / "s.wav", 1.0, channels=2)
    (recording,) = read(path, "lhotse", tmp_path, lang="en")
    (waveform,) = read_spans(recording.sentences, 24_000)
    np.testing.assert_allclose(waveform, buzz(1.0) / 2, atol=1e-4)


def source(**changes: object) -> dict:
    return {"recording": {"sources": [{"type": "file", "channels": [0], "source": "a"} | changes]}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "MixedCut"}, "type is 'MixedCut', expected a cut of one channel"),
        ({"recording": None}, "has no recording"),
        ({"id": 3}, "id 3, start 0"),
        ({"start": -1}, "start -1"),
        ({"duration": 0}, "duration 0"),
        (source(type="command", source="rm -rf /"), r"sources \['command'\] of channel 0"),
        (source(type="url"), r"sources \['url'\] of channel 0"),
        (source(channels=[1]), r"sources \['file'\] of channel 0, expected one"),
        (source(source=3), "not a cut of Lhotse: TypeError"),
        ({"recording": {}}, "not a cut of Lhotse: KeyError"),
        (
            {"recording": source()["recording"] | {"transforms": [{"name": "Speed"}]}},
            "has transforms, which are not applied",
        ),
        ({"supervisions": [{"start": 0, "duration": None}]}, "a supervision from 0 for None s"),
        (
            {"supervisions": [{"start": 0, "duration": 0.6}, {"start": 0.5, "duration": 0.5}]},
            "sentence 1 is from 0.5 to 1.0, expected a start of at least 0.6 and",
        ),
        (
            {"supervisions": [
                {"start": i / 2, "duration": 0.5, "language": name}
                for i, name in enumerate(("fr", "en"))
            ]},
            r"supervisions in \['en', 'fr'\], expected one",
        ),
    ],
)  # fmt: skip
def test_cuts_that_are_no_stretches_of_files_are_refused(changes, message, tmp_path):
    path = write_cuts(tmp_path / "c.jsonl.gz", cut("ok", 0, 1), cut("a", 0, 1) | changes)
    with pytest.raises(ValueError, match=message) as caught:
        read(path, "lhotse")
    assert str(caught.value).startswith(f"{path}:2: ")


# --- all


def test_flags_of_names_are_refused_for_a_manifest(tmp_path):
    with pytest.raises(ValueError, match="leave --lang, --key-pattern and --root out"):
        read(tmp_path / "m.jsonl", "manifest", lang="en")
    with pytest.raises(ValueError, match="--split-long is for units"):
        read(tmp_path / "m.jsonl", "moshi", split_long=True)


@pytest.mark.parametrize("format", ["moshi", "webdataset", "lhotse"])
def test_the_recordings_become_a_corpus(format, tmp_path):
    if format == "moshi":
        path = write_moshi(tmp_path / "d")
    elif format == "webdataset":
        path = write_tar(tmp_path / "t.tar", [("a.flac", audio_bytes("flac", 1))])
    else:
        path = write_cuts(tmp_path / "c.jsonl.gz", cut("a", 0.5, 2.0))
        write_buzz(tmp_path / "download" / "small" / "100" / "a.flac", 4.0, 16_000)
    root = tmp_path if format == "lhotse" else None
    recordings = read(path, format, root, lang="en")
    prepared = tokenise(recordings, Loudness(), tmp_path / "c", SMALL)
    corpus = prepared.corpus
    assert corpus is not None
    waveforms = list(read_spans(recordings[0].sentences, 8_000))
    found = corpus.document("en", corpus.find("en", "a"))
    assert len(found) == len(waveforms) == (3 if format == "moshi" else 1)
    for units, waveform in zip(found, waveforms, strict=True):
        np.testing.assert_array_equal(units, Loudness().encode([waveform])[0])


@pytest.mark.slow
def test_one_command_takes_the_format_and_the_names(tmp_path):
    members = [(f"s_{i}.wav", audio_bytes("wav", i)) for i in (1, 0)]
    path = write_tar(tmp_path / "t.tar", members)
    tokenizer = ["--tokenizer", "tests.support.workers.slow_tokenizer:build"]
    names = ["--lang", "en", "--key-pattern", r"(?P<key>.)_(?P<sentence>\d)"]
    command = ["audio", str(path), "--format", "webdataset", "--out", str(tmp_path / "c")]
    run(sys.executable, str(ROOT / "data" / "prepare.py"), *command, *names, *tokenizer)
    corpus = Corpus.open(tmp_path / "c")
    assert (corpus.num_documents("en"), corpus.num_sentences("en")) == (1, 2)


def test_members_are_found_once_and_never_unpacked(tmp_path):
    path = write_tar(tmp_path / "t.tar", [("d/a.wav", audio_bytes("wav", 1))])
    (recording,) = read(path, "webdataset", lang="en")
    member = recording.sentences[0].source
    assert isinstance(member, TarMember)
    assert [p.name for p in tmp_path.iterdir()] == ["t.tar"]
