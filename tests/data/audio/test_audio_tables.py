"""Tables of audio, written by the package `datasets`, become the units of the same sounds."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.foreign.audio import audio_bytes
from tests.support.foreign.audio_tables import (
    Line,
    dataset,
    sound,
    splits_to_disk,
    to_disk,
    to_parquet,
)
from tests.support.processes import ROOT, environment
from tests.support.synthetic_audio import SMALL, write_buzz
from tests.support.workers.slow_tokenizer import Loudness
from tresse.data.audio.readers.any_format import read_audio
from tresse.data.audio.readers.audio_table import AudioColumns
from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import File, Span
from tresse.data.audio.table_sounds import LINES
from tresse.data.audio.tokenise import tokenise
from tresse.data.audio.waveforms import read_spans
from tresse.data.left_out import LeftOut
from tresse.data.naming import Naming
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus, verify_corpus

SLOW = "tests.support.workers.slow_tokenizer:build"
Writer = Callable[..., Path]


def read(
    *paths: Path,
    columns: AudioColumns | None = None,
    root: Path | None = None,
    split: str = "",
    left_out: LeftOut | None = None,
    **names: str,
) -> list[Recording]:
    """Read tables; without names of languages all are English."""
    columns = columns or AudioColumns()
    naming = Naming(**{"lang": "" if columns.lang else "en"} | names)  # type: ignore[arg-type]
    return read_audio(paths, "table", naming, root, left_out or LeftOut(), columns, split)


def lines(count: int = 5, **cells: Callable[[int], object]) -> list[Line]:
    """Lines with a sound of their own and further cells, given by their number."""
    return [
        {"audio": sound(f"s{i}.flac", i, 0.5 + i / 10), **{n: make(i) for n, make in cells.items()}}
        for i in range(count)
    ]


def assert_sound(recording: Recording, seed: int, kind: str = "flac") -> None:
    """Check that a recording of one span has the samples of the sound of that seed."""
    (found,) = read_spans(recording.sentences, 24_000)
    (expected,) = read_spans([Span(Memory(audio_bytes(kind, seed, 0.5 + seed / 10)))], 24_000)
    np.testing.assert_array_equal(found, expected)


class Memory:
    """A source in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def num_bytes(self) -> int:
        return len(self._content)

    def open(self) -> Any:
        from io import BytesIO

        return BytesIO(self._content)


@pytest.mark.parametrize("write", [to_parquet, to_disk])
def test_sounds_are_found_by_their_place_and_named_by_their_paths(
    write: Writer, tmp_path: Path
) -> None:
    path = write(tmp_path / "t.parquet", dataset(lines()))
    found = read(path)
    assert [(r.language, r.key) for r in found] == [("en", f"s{i}") for i in range(5)]
    for order in (range(5), (4, 0, 3, 3, 1)):  # groups are opened again where it goes back
        for i in order:
            assert_sound(found[i], i)


def test_units_are_those_of_the_same_sounds_as_files(tmp_path: Path) -> None:
    paths = [
        to_parquet(tmp_path / f"{name}.parquet", dataset(own))
        for name, own in (("a", lines()[:3]), ("b", lines()[3:]))
    ]
    corpora = []
    for name, recordings in (("table", read(*paths)), ("files", _as_files(tmp_path / "audio"))):
        prepared = tokenise(recordings, Loudness(), tmp_path / name, SMALL)
        assert prepared.corpus is not None
        corpora.append(verify_corpus(tmp_path / name).id)
    assert corpora[0] == corpora[1]


def _as_files(folder: Path) -> list[Recording]:
    folder.mkdir()
    recordings = []
    for i, line in enumerate(lines()):
        (folder / f"s{i}.flac").write_bytes(line["audio"]["bytes"])
        recordings.append(Recording(f"s{i}", "en", (Span(File(str(folder / f"s{i}.flac"))),)))
    return recordings


def test_each_group_is_opened_once_and_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = to_parquet(tmp_path / "t.parquet", dataset(lines(7)))
    assert pq.ParquetFile(path).num_row_groups == 4
    read_groups: list[list[int]] = []
    whole = pq.ParquetFile.iter_batches

    def note(self: Any, size: int, groups: list[int], columns: list[str]) -> Any:
        read_groups.append(groups)
        return whole(self, size, groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    recordings = read(path)
    assert read_groups == [[0], [1], [2], [3]], "the listing, which reads no bytes"
    before = LINES.num_opened
    for recording in recordings:
        list(read_spans(recording.sentences, 24_000))
        assert len(LINES._columns) == 1
    assert LINES.num_opened - before == 4
    assert read_groups[4:] == [[0], [1], [2], [3]]


@pytest.mark.parametrize("write", [to_parquet, to_disk])
def test_a_long_group_is_read_forward_with_two_batches_at_hand(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tresse.data.audio.table_sounds.BATCH_LINES", 2)
    path = write(tmp_path / "t", dataset(lines(9)), 9 if write is to_parquet else 1)
    recordings, before = read(path), LINES.num_opened
    for i, num_opened in ((0, 1), (5, 1), (2, 1), (3, 1), (1, 2), (8, 2), (6, 2), (5, 3)):
        assert_sound(recordings[i], i)
        assert LINES.num_opened - before == num_opened
        (column,) = LINES._columns.values()
        assert len(column._held) <= 2


def test_the_listing_reads_no_bytes_of_sounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = to_parquet(tmp_path / "t.parquet", dataset(lines(id=str)))
    asked: list[list[str]] = []
    whole = pq.ParquetFile.iter_batches

    def note(self: Any, size: int, groups: list[int], columns: list[str]) -> Any:
        asked.append(columns)
        return whole(self, size, groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    found = read(path, columns=AudioColumns(key="id"))
    assert {tuple(columns) for columns in asked} == {("id", "audio.path")}
    size = found[0].sentences[0].source.num_bytes()
    real = np.mean([len(line["audio"]["bytes"]) for line in lines()[:2]])
    assert abs(size - real) < 100, "the mean of the row group, by its metadata"


@pytest.mark.parametrize("write", [to_parquet, to_disk])
def test_languages_and_keys_come_from_columns(write: Writer, tmp_path: Path) -> None:
    own = lines(4, id=lambda i: i // 2, language=lambda i: i % 2, locale=lambda i: "xy"[i % 2])
    path = write(tmp_path / "t", dataset(own, classes={"language": ["en", "fr"]}))
    named = read(path, columns=AudioColumns(key="id", lang="language"))
    assert [(r.key, r.language) for r in named] == [
        ("0", "en"), ("0", "fr"), ("1", "en"), ("1", "fr"),
    ]  # fmt: skip
    texts = read(path, columns=AudioColumns(key="id", lang="locale"))
    assert [r.language for r in texts] == ["x", "y", "x", "y"]


def test_numbered_lines_are_sentences_of_a_document_in_any_order(tmp_path: Path) -> None:
    own = lines(5, doc=lambda i: "ab"[i % 2], number=lambda i: 2 - i // 2)
    path = to_parquet(tmp_path / "t.parquet", dataset(own[:4]))
    columns = AudioColumns(key="doc", sentence="number")
    a, b = read(path, columns=columns)
    assert [source(a, k) for k in range(2)] == ["s2.flac", "s0.flac"]
    assert [source(b, k) for k in range(2)] == ["s3.flac", "s1.flac"]
    path = to_parquet(tmp_path / "u.parquet", dataset([own[0], own[4]]))
    with pytest.raises(ValueError, match=r"document 'a' \(en\): sentence 1 is missing"):
        read(path, columns=columns)
    (gaps,) = read(path, columns=AudioColumns(key="doc", order="number"))
    assert [source(gaps, k) for k in range(2)] == ["s4.flac", "s0.flac"]


def test_a_document_in_order_is_left_out_whole_with_a_line(tmp_path: Path) -> None:
    own = lines(5, doc=lambda i: i % 2, at=lambda i: None if i == 2 else i / 10)
    path = to_parquet(tmp_path / "t.parquet", dataset(own))
    left_out = LeftOut("skip")
    (found,) = read(path, columns=AudioColumns(key="doc", order="at"), left_out=left_out)
    assert (found.key, len(found.sentences)) == ("1", 2)
    assert [(fault.where, fault.reason) for fault in left_out.faults] == [
        (f"{path}: line 2", "column 'at' is null"),
        (f"{path}: line 0", f"document '0' (en): its line {path}: line 2 cannot be used"),
    ]


def source(recording: Recording, sentence: int) -> str:
    """Return the name of the sound of a sentence."""
    return str(recording.sentences[sentence].source).rpartition(" ")[2]


def test_a_pattern_is_searched_in_the_key_or_the_path(tmp_path: Path) -> None:
    own = [{"audio": sound(f"fr/d_{i}.flac", i), "id": f"en-k-{i}"} for i in range(2)]
    path = to_parquet(tmp_path / "t.parquet", dataset(own))
    pattern = r"^(?P<lang>en|fr)[/-](?P<key>.)[_-](?P<sentence>\d)"
    (by_path,) = read(path, lang="", key_pattern=pattern)
    (by_key,) = read(path, columns=AudioColumns(key="id"), lang="", key_pattern=pattern)
    assert (by_path.language, by_path.key, len(by_path.sentences)) == ("fr", "d", 2)
    assert (by_key.language, by_key.key, len(by_key.sentences)) == ("en", "k", 2)


def test_lines_that_repeat_a_key_are_numbered_on_demand(tmp_path: Path) -> None:
    own = lines(4, id=lambda _: 7, lang=lambda i: "en" if i < 3 else "fr")
    path = to_parquet(tmp_path / "t.parquet", dataset(own))
    with pytest.raises(ValueError, match=r"line 1: key '7' is in en already .*or a column"):
        read(path, columns=AudioColumns(key="id", lang="lang"))
    found = read(path, columns=AudioColumns(key="id", lang="lang", number_repeats=True))
    assert [f"{r}" for r in found] == ["en/7", "en/7/2", "en/7/3", "fr/7"]


@pytest.mark.parametrize("structs", [True, False])
def test_times_cut_a_sound_into_sentences(structs: bool, tmp_path: Path) -> None:
    pairs = [[0.0, 0.25], [0.3, 0.5]]
    times = [{"start": a, "end": b} for a, b in pairs] if structs else pairs
    own = lines(1, times=lambda _: times, text=lambda _: ["Un.", "Deux."])
    path = to_parquet(tmp_path / "t.parquet", dataset(own))
    (found,) = read(path, columns=AudioColumns(times="times", text="text"))
    assert [(span.start, span.end) for span in found.sentences] == [tuple(p) for p in pairs]
    assert found.texts == ("Un.", "Deux.")


def test_without_bytes_the_path_is_read_beside_the_table_or_in_a_root(tmp_path: Path) -> None:
    write_buzz(tmp_path / "data" / "audio" / "a.wav", 1.0, seed=1)
    absolute = write_buzz(tmp_path / "elsewhere" / "b.wav", 1.0, seed=2)
    cells = [
        {"bytes": None, "path": "audio/a.wav"},
        {"bytes": None, "path": str(absolute)},
        sound("c.flac", 3),
    ]
    own = dataset([{"audio": cell} for cell in cells])
    path = to_parquet(tmp_path / "data" / "t.parquet", own, group_lines=5)
    moved = to_parquet(tmp_path / "moved" / "t.parquet", own, group_lines=5)
    for recordings in (read(path), read(moved, root=tmp_path / "data")):
        assert [recording.key for recording in recordings] == ["a", "b", "c"]
        sizes = [len(next(read_spans(r.sentences, 24_000))) for r in recordings]
        assert sizes == [24_000] * 3
    (only,) = read(to_parquet(tmp_path / "data" / "u.parquet", dataset([{"audio": cells[0]}])))
    assert only.sentences[0].source.num_bytes() == (tmp_path / "data/audio/a.wav").stat().st_size


def test_sounds_without_a_path_are_named_by_folder_file_and_line(tmp_path: Path) -> None:
    own = dataset([{"audio": sound(None, i)} for i in range(2)])
    found = read(to_parquet(tmp_path / "fr" / "train-0.parquet", own))
    assert [recording.key for recording in found] == ["fr/train-0/0", "fr/train-0/1"]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_arrays_of_samples_and_bytes_alone_are_sounds(kind: pa.DataType, tmp_path: Path) -> None:
    (samples,) = read_spans([Span(Memory(audio_bytes("wav", 0, 0.5)))], 24_000)
    struct = pa.struct(
        [("array", pa.list_(kind)), ("path", pa.string()), ("sampling_rate", pa.int64())]
    )
    cell = {"array": samples.tolist(), "path": "s0.wav", "sampling_rate": 24_000}
    table = pa.table(
        {
            "audio": pa.array([cell], struct),
            "wav": pa.array([audio_bytes("wav", 0, 0.5)], pa.large_binary()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    for column in ("audio", "wav"):
        (found,) = read(tmp_path / "t.parquet", columns=AudioColumns(audio=column))
        (waveform,) = read_spans(found.sentences, 24_000)
        np.testing.assert_array_equal(waveform, samples)


def test_folders_have_splits(tmp_path: Path) -> None:
    first, rest = dataset(lines()[:2]), dataset(lines()[2:])
    disk = splits_to_disk(tmp_path / "disk", train=first, test=rest)
    hub = tmp_path / "hub"
    to_parquet(hub / "train-00000-of-00002.parquet", dataset(lines()[:1]))
    to_parquet(hub / "train-00001-of-00002.parquet", dataset(lines()[1:2]))
    to_parquet(hub / "test-00000-of-00001.parquet", rest)
    for folder in (disk, hub):
        assert [r.key for r in read(folder, split="train")] == ["s0", "s1"]
        assert [r.key for r in read(folder, split="test")] == ["s2", "s3", "s4"]
        with pytest.raises(ValueError, match=r"has the splits .*; choose one by --split"):
            read(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="and no Parquet files in it; give the folder"):
        read(tmp_path / "empty")


# --- Faults


def prepare(path: Path, out: Path, *flags: str) -> int:
    """Run `prepare audio --format table`."""
    words = ["audio", str(path), "--format", "table", "--tokenizer", SLOW, "--out", str(out)]
    return main([*words, "--batch-seconds", "1", *flags])


def skipped(out: Path) -> list[tuple[str, str]]:
    """Return place and reason of what was left out."""
    records = map(json.loads, (out / "skipped.jsonl").read_text().splitlines())
    return [(record["where"], record["reason"]) for record in records]


@pytest.mark.parametrize("write", [to_parquet, to_disk])
def test_a_broken_sound_is_left_out_with_its_file_and_line(write: Writer, tmp_path: Path) -> None:
    own = lines(5, id=lambda i: None if i == 3 else str(i))
    own[1]["audio"]["bytes"] = own[1]["audio"]["bytes"][:5000]
    own[2]["audio"] = None
    path = write(tmp_path / "t", dataset(own))
    assert prepare(path, tmp_path / "c", "--lang", "en", "--columns.key", "id") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert [corpus.key("en", i) for i in range(corpus.num_documents("en"))] == ["0", "4"]
    (null, cut, none) = skipped(tmp_path / "c")
    assert "column 'id' is null" in null[1]
    assert "s1.flac: cannot be decoded" in cut[1] or "s1.flac: cut short" in cut[1]
    assert "column 'audio' has neither bytes nor a path" in none[1]
    if write is to_parquet:
        assert [null[0], cut[0], none[0]] == [f"{path}: line {i}" for i in (3, 1, 2)]


def test_with_on_fault_stop_the_first_fault_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = lines(3)
    own[1]["audio"]["bytes"] = b"no sound"
    path = to_parquet(tmp_path / "t.parquet", dataset(own))
    assert prepare(path, tmp_path / "c", "--lang", "en", "--on-fault", "stop") == 1
    assert f"{path}: line 1, audio s1.flac: not an audio file" in capsys.readouterr().err


def test_texts_of_the_documents_are_written_beside_the_corpus(tmp_path: Path) -> None:
    own = lines(3, text=lambda i: f"Été {i}.")
    own[1]["audio"]["bytes"] = b"no sound"
    path = to_parquet(tmp_path / "t.parquet", dataset(own))
    assert prepare(path, tmp_path / "c", "--lang", "fr", "--columns.text", "text") == 0
    records = map(json.loads, (tmp_path / "c" / "texts.jsonl").read_text().splitlines())
    assert list(records) == [
        {"key": f"s{i}", "lang": "fr", "sentences": [f"Été {i}."]} for i in (0, 2)
    ]
    assert prepare(path, tmp_path / "c", "--lang", "fr") == 1, "without texts it is another job"
    assert prepare(path, tmp_path / "d", "--lang", "fr") == 0
    assert not (tmp_path / "d" / "texts.jsonl").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (AudioColumns(audio="sound"), "no column 'sound'; it has audio, id, n, text"),
        (AudioColumns(key="speaker"), "no column 'speaker'; it has audio, id, n, text"),
        (AudioColumns(audio="text"), "column 'text' is string, expected a struct of bytes"),
        (AudioColumns(key="n"), r"line 0: column 'n' is 0\.5, expected text or an integer"),
        (AudioColumns(key="id", sentence="n"), r"column 'n' is 0\.5, expected an integer of"),
        (AudioColumns(key="id", order="text"), "column 'text' is 't', expected a number"),
        (AudioColumns(text="n"), r"column 'n' is 0\.5, expected text or a list of texts"),
        (AudioColumns(key="id", text="id"), "column 'id' has two flags"),
        (AudioColumns(sentence="id"), "need the column of the documents' keys, --columns.key"),
        (AudioColumns(key="id", sentence="n", times="text"), "give one of --columns.sentence"),
        (AudioColumns(key="id", order="n", number_repeats=True), "is for documents of one line"),
    ],
)
def test_columns_that_cannot_be_read_are_named(
    columns: AudioColumns, message: str, tmp_path: Path
) -> None:
    own = lines(2, id=str, n=lambda i: i + 0.5, text=lambda _: "t")
    path = to_parquet(tmp_path / "t.parquet", dataset(own))
    with pytest.raises(ValueError, match=message):
        read(path, columns=columns)


def test_flags_of_tables_are_refused_for_other_formats(tmp_path: Path) -> None:
    columns = AudioColumns(key="id")
    with pytest.raises(ValueError, match="--columns and --split are for --format table"):
        read_audio([tmp_path / "m"], "moshi", Naming(), None, LeftOut(), columns)
    path = to_parquet(tmp_path / "t.parquet", dataset(lines(1, l=lambda _: "en")))
    with pytest.raises(ValueError, match=r"--columns\.lang is given, and --lang"):
        read(path, columns=AudioColumns(lang="l"), lang="en")


def test_a_damaged_table_is_named_and_leaves_out_its_lines(tmp_path: Path) -> None:
    path = to_parquet(tmp_path / "t.parquet", dataset(lines(6)))
    recordings = read(path)
    whole = path.read_bytes()
    at = whole.index(lines()[2]["audio"]["bytes"][:64])
    path.write_bytes(whole[: at - 12] + b"\xff" * 12 + whole[at:])  # its length, a page's header
    prepared = tokenise(recordings, Loudness(), tmp_path / "c", SMALL)
    assert prepared.corpus is not None
    assert prepared.corpus.num_documents("en") == 4
    places = [where for where, _ in skipped(tmp_path / "c")]
    assert places == [f"{path}: line {i}" for i in (2, 3)], "the other groups are whole"
    path.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"t\.parquet: cannot be read"):
        read(path)


@pytest.mark.parametrize("write", [to_parquet, to_disk])
def test_a_damaged_table_is_refused_or_read_but_never_crashes(
    write: Writer, tmp_path: Path
) -> None:
    own = [{"audio": sound(f"{i}.wav", i, 0.1, "wav"), "id": i} for i in range(3)]
    path = write(tmp_path / "t", dataset(own))
    (file, *_) = sorted(path.glob("*.arrow")) if path.is_dir() else [path]
    whole = file.read_bytes()
    places = range(0, len(whole), 211)
    if path.is_dir():  # lengths and offsets of a record batch: Arrow trusts them
        places = range(0, 1600, 3)
    for place in (*places, *range(len(whole) - 2500, len(whole), 23)):  # the footer of Parquet
        bad = bytearray(whole)
        bad[place] ^= 0xFF
        file.write_bytes(bad)
        with suppress(ValueError):
            for recording in read(path, columns=AudioColumns(key="id")):
                with suppress(ValueError):
                    list(read_spans(recording.sentences, 24_000))


@pytest.mark.slow
def test_a_killed_job_resumes_and_reads_the_rest_from_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = to_parquet(tmp_path / "t.parquet", dataset(lines(24)))
    whole = tokenise(read(path), Loudness(), tmp_path / "whole", SMALL).corpus
    words = ["audio", str(path), "--format", "table", "--lang", "en", "--tokenizer", SLOW]
    words += ["--out", str(tmp_path / "c"), "--batch-seconds", "1", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "data" / "prepare.py"), *words],
        env=environment() | {"SLOW_BATCH_S": "0.1"},
    )
    while process.poll() is None and not finished_groups(tmp_path / "c.parts"):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert finished_groups(tmp_path / "c.parts") >= 1
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        resumed = tokenise(read(path), Loudness(), tmp_path / "c", SMALL).corpus
    assert whole is not None
    assert resumed is not None
    assert resumed.id == whole.id


def finished_groups(parts: Path) -> int:
    """Return the number of whole lines in the journal of a job."""
    return sum(path.read_bytes().count(b"\n") for path in parts.glob("*.jsonl"))
