"""From recordings to a corpus: the same one on any number of ranks, interrupted or not."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.processes import ROOT, environment, finish, torchrun
from tests.support.synthetic_audio import SMALL, buzz, write_buzz
from tests.support.workers.slow_tokenizer import Loudness
from tresse.data.audio.encoder import cut_units
from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.recordings import Recording, read_recordings
from tresse.data.audio.sources import File, Span
from tresse.data.audio.tokenise import Prepared, tokenise
from tresse.data.audio.waveforms import read_spans
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus, verify_corpus

PREPARE = str(ROOT / "data" / "prepare.py")
SLOW = "tests.support.workers.slow_tokenizer:build"
KINDS = ("wav", "flac", "ogg", "mp3")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 recordings in two languages: long ones with times, and a file per sentence."""
    folder = tmp_path_factory.mktemp("recordings")
    records = []
    for i, language in itertools.product(range(12), ("en", "fr")):
        seed, rate = 2 * i + (language == "fr"), (24_000, 16_000, 44_100)[i % 3]
        kind, base = KINDS[i % 4], {"key": f"{i:02d}", "lang": language}
        if i % 3:
            path = write_buzz(folder / language / f"{i}.{kind}", 3 + i / 8, rate, seed, 1 + i % 2)
            times = [[0, 1.1], [1.25, 2], [2, 3]][: 1 + i % 3]
            records.append(base | {"path": str(path.relative_to(folder)), "sentences": times})
        else:
            for k in range(2):
                path = write_buzz(folder / language / f"{i}-{k}.{kind}", 1 + k, rate, 50 * k + seed)
                records.append(base | {"path": str(path.relative_to(folder)), "sentence": k})
    (folder / "m.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "m.jsonl"


@pytest.fixture(scope="module")
def expected(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The corpus of one process without accident."""
    out = tmp_path_factory.mktemp("expected") / "corpus"
    prepared = tokenise(read_recordings([manifest]), Loudness(), out, SMALL)
    assert prepared.corpus is not None
    return verify_corpus(out)


def prepare_as_ranks(
    manifest: Path, out: Path, world_size: int, patch: pytest.MonkeyPatch
) -> list[Prepared]:
    """One rank after the other, the last first."""
    found = []
    for rank in reversed(range(world_size)):
        patch.setenv("RANK", str(rank))
        patch.setenv("WORLD_SIZE", str(world_size))
        found.append(tokenise(read_recordings([manifest]), Loudness(), out, SMALL))
    return found


def test_units_are_those_of_each_sentence_by_itself(manifest: Path, expected: Corpus) -> None:
    tokenizer, count = Loudness(), 0
    for recording in read_recordings([manifest]):
        document = expected.find(recording.language, recording.key)
        assert document == int(recording.key), "documents are in the manifest's order"
        waveforms = read_spans(recording.sentences, 8_000)
        for found, waveform in zip(
            expected.document(recording.language, document), waveforms, strict=True
        ):
            np.testing.assert_array_equal(found, tokenizer.encode([waveform])[0])
            count += 1
    assert count == expected.num_sentences("en") + expected.num_sentences("fr") == 56
    assert expected.tokenizers == (Loudness.identity,)


@pytest.mark.parametrize(("batch_seconds", "workers"), [(5, 1), (1000, 7)])
def test_batches_of_any_size_return_to_their_sentences(
    batch_seconds: float, workers: int, manifest: Path, expected: Corpus, tmp_path: Path
) -> None:
    settings = JobSettings(batch_seconds=batch_seconds, workers=workers)
    prepared = tokenise(read_recordings([manifest]), Loudness(), tmp_path / "c", settings)
    assert prepared.corpus is not None
    assert prepared.corpus.id == expected.id


def test_what_was_done_is_written_beside_the_corpus(manifest: Path, expected: Corpus) -> None:
    prepared = json.loads((expected.path / "prepared.json").read_text())
    assert prepared["job"]["settings"]["batch_seconds"] == 1.0
    for language in ("en", "fr"):
        own = [r for r in read_recordings([manifest]) if r.language == language]
        waveforms = itertools.chain(*(read_spans(r.sentences, 8_000) for r in own))
        hours = sum(waveform.size for waveform in waveforms) / 8_000 / 3600
        assert prepared["languages"][language] == {
            "documents": 12,
            "hours": pytest.approx(hours, abs=1e-4),
            "tokens": expected.num_tokens(language),
            "skipped": 0,
        }
    assert not (expected.path / "skipped.jsonl").exists(), "nothing was left out"
    assert not expected.path.with_name("corpus.parts").exists()


@pytest.mark.parametrize("world_size", [2, 3, 40])
def test_ranks_come_to_the_same_corpus(
    world_size: int,
    manifest: Path,
    expected: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = prepare_as_ranks(manifest, tmp_path / "c", world_size, monkeypatch)
    complete = [prepared.corpus for prepared in found if prepared.corpus is not None]
    assert {corpus.id for corpus in complete} == {expected.id}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    if world_size < 10:
        assert len(complete) == 1
        assert [prepared.report for prepared in found[:-1]] == [
            f"done; other ranks have not finished {missing} of 9 groups"
            for missing in ((5,), (6, 3))[world_size - 2]
        ]


def test_the_same_command_again_changes_nothing_and_another_is_refused(
    manifest: Path, tmp_path: Path
) -> None:
    recordings, out = read_recordings([manifest])[:3], tmp_path / "c"
    first = tokenise(recordings, Loudness(), out, SMALL)
    again = tokenise(recordings, Loudness(), out, SMALL)
    assert again.times.audio == 0
    assert (first.found, again.found) == (False, True)
    assert again.report == f"{out} was finished before, of the same recordings\n\n{first.report}"
    assert again.corpus is not None
    assert first.corpus is not None
    assert again.corpus.id == first.corpus.id
    with pytest.raises(ValueError, match="c exists and is not an empty folder"):
        tokenise(recordings[:2], Loudness(), out, SMALL)


def command(manifest: Path, out: Path, *flags: str) -> list[str]:
    """`prepare audio` with the slow tokenizer, in the small groups of SMALL."""
    words = ["audio", str(manifest), "--tokenizer", SLOW, "--out", str(out)]
    return [PREPARE, *words, "--batch-seconds", "1", "--workers", "2", *flags]


def start_slowly(manifest: Path, out: Path, num_groups: int) -> subprocess.Popen[str]:
    """Start a process that takes a while, and wait until it has finished some groups."""
    process = subprocess.Popen(
        [sys.executable, *command(manifest, out)],
        env=environment() | {"SLOW_BATCH_S": "0.05"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and these tests with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    parts = out.with_name(f"{out.name}.parts")
    while process.poll() is None and len(lines(parts)) < num_groups:
        time.sleep(0.005)
    return process


def lines(parts: Path) -> list[bytes]:
    """Return the finished lines of the journal."""
    return b"".join(path.read_bytes() for path in parts.glob("*.jsonl")).splitlines()


@pytest.mark.slow
def test_a_killed_run_resumes_with_other_ranks_to_the_same_corpus(
    manifest: Path, expected: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, parts = tmp_path / "c", tmp_path / "c.parts"
    process = start_slowly(manifest, out, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = lines(parts)
    assert 2 <= len(kept) < 9
    (journal,) = parts.glob("*.jsonl")
    journal.write_bytes(journal.read_bytes()[:-20])  # as if the last line had not been whole
    encoded = []
    encode = Loudness.encode

    def count(self: Loudness, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        encoded.extend(waveforms)
        return encode(self, waveforms)

    monkeypatch.setattr(Loudness, "encode", count)
    prepare_as_ranks(manifest, out, 3, monkeypatch)
    done = sum(
        len(record["units"]) for line in kept[:-1] for record in json.loads(line)[2]["recordings"]
    )
    assert len(encoded) == 56 - done, "nothing is encoded twice, nothing is lost"
    assert verify_corpus(out).id == expected.id


def test_a_run_that_died_while_it_wrote_the_corpus_writes_it_again(
    manifest: Path, expected: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, parts = tmp_path / "c", tmp_path / "c.parts"
    monkeypatch.setattr("tresse.data.jobs.commit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tokenise(read_recordings([manifest]), Loudness(), out, SMALL)
    assert (parts / "output" / "corpus.json").exists()
    (parts / "output.0123.tmp").mkdir()
    monkeypatch.undo()
    prepared = tokenise(read_recordings([manifest]), Loudness(), out, SMALL)
    assert prepared.corpus is not None
    assert (prepared.corpus.id, prepared.times.audio) == (expected.id, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
@pytest.mark.slow
def test_a_signal_stops_after_the_batch_and_says_how_to_resume(
    number: signal.Signals, manifest: Path, expected: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "c"
    process = start_slowly(manifest, out, 1)
    process.send_signal(number)
    done = finish(process)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip().endswith("is kept, and the same command resumes from there")
    assert not out.exists()
    assert 1 <= len(lines(tmp_path / "c.parts")) < 9
    prepared = tokenise(read_recordings([manifest]), Loudness(), out, SMALL)
    assert prepared.corpus is not None
    assert prepared.corpus.id == expected.id


@pytest.mark.slow
def test_torchrun_shares_the_work(manifest: Path, expected: Corpus, tmp_path: Path) -> None:
    _, *words = command(manifest, tmp_path / "c")
    done = torchrun(2, "data/prepare.py", *words)
    assert Corpus.open(tmp_path / "c").id == expected.id
    assert expected.id in done.stdout
    assert re.search(r"^done; |^language", done.stdout, re.MULTILINE)


def test_another_manifest_tokenizer_or_setting_cannot_resume_the_parts(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings, out = read_recordings([manifest]), tmp_path / "c"
    monkeypatch.setenv("WORLD_SIZE", "2")
    tokenise(recordings, Loudness(), out, SMALL)
    with pytest.raises(ValueError, match=r"c\.parts holds .* recordings was \w+, is now \w+;"):
        tokenise(recordings[2:], Loudness(), out, SMALL)
    with pytest.raises(ValueError, match=r"settings was .*'joint': False.*, is .*'joint': True"):
        tokenise(recordings, Loudness(), out, JobSettings(batch_seconds=1.0, joint=True))
    other = Loudness()
    other.identity = type(other.identity)("loudness", "2", "25/2", 512)
    with pytest.raises(ValueError, match=r"tokenizer was .*'hash': '1'.*, is .*'hash': '2'"):
        tokenise(recordings, other, out, SMALL)


@pytest.fixture
def troubled(tmp_path: Path) -> list[Recording]:
    """One good recording among the bad."""
    write_buzz(tmp_path / "good.wav", 2)
    whole = write_buzz(tmp_path / "cut.flac", 4).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp3").write_bytes(b"no sound " * 50)
    half = np.concatenate([buzz(1), np.zeros(24_000, np.float32)])
    soundfile.write(tmp_path / "silent.wav", half, 24_000)
    soundfile.write(tmp_path / "quiet.wav", 0.002 * buzz(1), 24_000, subtype="FLOAT")

    def spans(name: str, *times: tuple[float, float | None]) -> tuple[Span, ...]:
        return tuple(Span(File(str(tmp_path / name)), *pair) for pair in times)

    return [
        Recording("cut", "en", spans("cut.flac", (0, 0.5), (3, 3.9)), "m:1"),
        Recording("good", "en", spans("good.wav", (0, 1), (1, None)), "m:2"),
        Recording("text", "en", spans("text.mp3", (0, None)), "m:3"),
        Recording("silent", "en", spans("silent.wav", (0, 1), (1, 2)), "m:4"),
        Recording("quiet", "en", spans("quiet.wav", (0, None)), "m:5"),
        Recording("none", "fr", spans("none.wav", (0, None)), "m:6"),
        Recording("short", "fr", spans("good.wav", (0, 1), (1.5, 1.55)), "m:7"),
        Recording("long", "fr", spans("good.wav", (0, 1), (0, 1.9)), "m:8"),
        Recording("late", "fr", spans("good.wav", (0, 1), (1, 5)), "m:9"),
    ]


REASONS = {
    "cut": r"cut\.flac: cannot be decoded",
    "text": r"text\.mp3: not an audio file we know",
    "silent": r"silent\.wav: a silent sentence \(all zero",
    "quiet": r"quiet\.wav: a silent sentence \(-\d\d dB at most",
    "none": r"none\.wav: cannot be read \(No such file",
    "short": r"good\.wav: a sentence of 0\.050 s, expected at least 0\.08 s",
    "long": r"good\.wav: 1\.90 s after 0 s, expected at most 1\.5 s",
    "late": r"good\.wav: (4\.00 s after|ends at 2\.00 s, a sentence at 5 s)",
}


@pytest.mark.parametrize("batch_seconds", [0.1, 100.0])
def test_a_recording_that_cannot_be_used_is_left_out_whole_and_listed(
    batch_seconds: float, troubled: list[Recording], tmp_path: Path
) -> None:
    settings = JobSettings(max_seconds=1.5, batch_seconds=batch_seconds)
    prepared = tokenise(troubled, Loudness(), tmp_path / "c", settings)
    corpus = verify_corpus(tmp_path / "c")
    assert corpus.languages == ("en",)
    assert [corpus.key("en", i) for i in range(corpus.num_documents("en"))] == ["good"]
    assert corpus.num_sentences("en") == 2
    text = (tmp_path / "c" / "skipped.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["key"] for record in records] == list(REASONS)
    assert [record["where"] for record in records] == ["m:1", *(f"m:{i}" for i in range(3, 10))]
    for record in records:
        assert re.search(REASONS[record["key"]], record["reason"]), record
    *table, last = [line.split() for line in prepared.report.splitlines()]
    assert " ".join(last) == f"why they were left out: {tmp_path / 'c' / 'skipped.jsonl'}"
    assert table[1:] == [["en", "1", "0.00", "26", "4"], ["fr", "0", "0.00", "0", "4"]]


@pytest.mark.parametrize("key", REASONS)
def test_strict_stops_at_the_first(key: str, troubled: list[Recording], tmp_path: Path) -> None:
    settings = JobSettings(max_seconds=1.5, on_fault="stop")
    (bad,) = (recording for recording in troubled if recording.key == key)
    with pytest.raises(ValueError, match=rf"/{key}: .*{REASONS[key]}.*\(--on-fault stop\)"):
        tokenise([troubled[1], bad], Loudness(), tmp_path / "c", settings)
    assert not (tmp_path / "c").exists()


def test_nothing_but_bad_recordings_is_an_error_with_the_first_reasons(
    troubled: list[Recording], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="all 2 recordings were left out:\n") as few:
        tokenise([troubled[5], troubled[2]], Loudness(), tmp_path / "c", SMALL)
    lines = str(few.value).splitlines()[1:]
    for key, line in zip(("none", "text"), lines, strict=True):
        assert re.fullmatch(rf"  \w\w/{key}: .*{REASONS[key]}.*", line)
    many = [Recording(str(i), "en", troubled[5].sentences, f"m:{i}") for i in range(13)]
    with pytest.raises(ValueError, match=r"all 13 .* left out; the first 10:") as error:
        tokenise(many, Loudness(), tmp_path / "d", SMALL)
    assert len(str(error.value).splitlines()) == 11
    assert "further recordings that are left out are not shown" in caplog.text
    assert "skipped.jsonl" not in caplog.text, "there is none"


def test_translations_that_differ_in_length_are_found_before_the_work(
    troubled: list[Recording], tmp_path: Path
) -> None:
    good = troubled[1]
    short = Recording("good", "fr", good.sentences[:1], "m:2")
    with pytest.raises(ValueError, match=r"fr/good has 1 sentences, .* has 2"):
        tokenise([good, short], Loudness(), tmp_path / "c", SMALL)
    other = Recording("other", "fr", good.sentences[:1], "m:3")
    settings = JobSettings(skip_misaligned=True)
    tokenise([good, short, other], Loudness(), tmp_path / "c", settings)
    assert Corpus.open(tmp_path / "c").languages == ("fr",)


def test_joint_units_are_cut_at_the_times_of_the_sentences(tmp_path: Path) -> None:
    path = write_buzz(tmp_path / "a.wav", 4)
    spans = [Span(File(str(path)), *times) for times in ((0.5, 1.5), (1.5, 1.51), (2.0, 4.0))]
    recordings = [Recording("a", "en", tuple(spans), "m:1")]
    settings = JobSettings(joint=True, min_seconds=0.01)
    tokenise(recordings, Loudness(), tmp_path / "c", settings)
    (waveform,) = read_spans([Span(File(str(path)), 0.5, 4.0)], 8_000)
    whole = Loudness().encode([waveform])[0]
    found = Corpus.open(tmp_path / "c").document("en", 0)
    # 1 s is 12.5 frames: rounded to 12, half to even; 1.01 s to 13; 1.5 s is 18.75 frames.
    for sentence, (first, last) in zip(found, ((0, 12), (12, 13), (19, 44)), strict=True):
        np.testing.assert_array_equal(sentence, whole[first:last])


def test_no_sentence_is_empty_and_no_unit_is_in_two() -> None:
    units, rate = np.arange(20), Fraction(25, 2)
    bounds = [(0, 0.01), (0.01, 0.02), (0.02, 0.5), (0.5, 0.9), (0.9, 1.6)]
    cut = cut_units(units, bounds, rate)
    assert [sentence.tolist() for sentence in cut] == [
        [0],
        [1],
        list(range(2, 6)),
        list(range(6, 11)),
        list(range(11, 20)),
    ]
    assert cut_units(units, [(1.6, 2.0)], rate)[0].size == 0


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (np.array([0.5]), "gave float64"),
        ([1, 2], "gave a list, expected NumPy arrays of integers"),
        (np.array([], np.int64), r"gave int64 \[0\]"),
        (np.array([[1]]), r"gave int64 \[1, 1\]"),
        (np.array([3, 512]), "gave units 3 to 512, its vocabulary is 0 to 511"),
    ],
)
def test_a_tokenizer_that_breaks_its_promise_is_named(
    units: np.ndarray | list[int],
    message: str,
    troubled: list[Recording],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Loudness, "encode", lambda _, waveforms: [units] * len(waveforms))
    with pytest.raises(ValueError, match=f"tokenizer loudness {message}"):
        tokenise(troubled[1:2], Loudness(), tmp_path / "c", SMALL)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--tokenizer", "mimo"],
            "is 'mimo', expected mimi, kmeans or module:function",
        ),
        (["--tokenizer", "none_such:build"], "--tokenizer none_such:build: No module named"),
        (["--tokenizer", "json:build"], "--tokenizer json:build: module 'json' has no attribute"),
        (["--tokenizer", "kmeans"], "--tokenizer kmeans needs --kmeans FILE"),
        (["--tokenizer", SLOW, "--mimi-weights", "x"], "--mimi-weights is for --tokenizer mimi"),
        (["--tokenizer", "mimi", "--mimi-weights", "x"], "--mimi-weights x: no such file"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(
    flags: list[str],
    message: str,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["audio", str(manifest), "--out", str(tmp_path / "c"), *flags]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_seconds": 9, "max_seconds": 3}, "--min-seconds is 9, --max-seconds 3; expected"),
        ({"min_seconds": nan}, "--min-seconds is nan, .* expected numbers above 0"),
        ({"max_seconds": nan}, "--max-seconds nan; expected numbers above 0"),
        ({"silence_db": nan}, "--silence-db is nan, expected a number of at most 0"),
        ({"silence_db": 60}, "--silence-db is 60, expected a number of at most 0"),
        ({"workers": 0}, "--workers is 0, expected at least 1"),
        ({"batch_seconds": 0}, "--batch-seconds is 0, expected a finite number above 0"),
        ({"batch_seconds": nan}, "--batch-seconds is nan, expected a finite number above 0"),
        ({"batch_seconds": inf}, "--batch-seconds is inf, expected a finite number above 0"),
    ],
)
def test_settings_that_cannot_be_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JobSettings(**wrong)


OWN = """
from tests.support.workers.slow_tokenizer import Loudness
def make(device): return Loudness()
def nothing(): return Loudness()
def partial(device): return type("Partial", (), {"sample_rate": 8000})()
def faulty(device): return len(device.nothing if device is None else 7)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module in the current folder."""
    (tmp_path / "own_tokenizer.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_tokenizer", None)


def prepare_audio(manifest: Path, out: Path, tokenizer: str = SLOW) -> int:
    return main(["audio", str(manifest), "--out", str(out), "--tokenizer", tokenizer])


@pytest.mark.usefixtures("own")
def test_a_tokenizer_may_lie_in_the_current_folder(manifest: Path, tmp_path: Path) -> None:
    assert prepare_audio(manifest, tmp_path / "c", "own_tokenizer:make") == 0
    assert Corpus.open(tmp_path / "c").tokenizers == (Loudness.identity,)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json:dumps", "of type str, which has no identity, sample_rate; expected one with"),
        ("own_tokenizer:partial", "type Partial, which has no identity, encode; expected one"),
        ("own_tokenizer:nothing", r"takes 0 positional .*; expected a function that is called"),
        ("own_tokenizer:__doc__", "object is not callable; expected a function"),
        ("math:sqrt", "must be real number, not str; expected a function"),
    ],
)
def test_what_is_no_tokenizer_is_named(
    name: str, message: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare_audio(manifest, tmp_path / "c", name) == 1
    assert re.search(f"error: --tokenizer {name}.*{message}", capsys.readouterr().err)


@pytest.mark.usefixtures("own")
def test_an_error_within_a_users_function_keeps_its_traceback(
    manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="has no len"):
        prepare_audio(manifest, tmp_path / "c", "own_tokenizer:faulty")


@pytest.mark.parametrize("num_results", [0, 2, 3])
def test_a_tokenizer_that_gives_another_number_of_results_is_named(
    num_results: int, troubled: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loudness, "encode", lambda *_: [np.array([1])] * num_results)
    message = f"tokenizer loudness gave {num_results} results for 1 waveforms, expected one each"
    with pytest.raises(ValueError, match=message):
        tokenise(troubled[1:2], Loudness(), tmp_path / "c", SMALL)


@pytest.mark.parametrize(
    ("content", "fault"), [("{", "Expecting"), ("{}", "field 'job' is missing")]
)
def test_a_damaged_report_in_the_corpus_is_named(
    content: str, fault: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "prepared.json").write_text(content)
    assert prepare_audio(manifest, tmp_path / "c") == 1
    (line,) = capsys.readouterr().err.splitlines()
    message = (
        rf"error: \S+/c/prepared\.json: damaged \({fault}.*\); .* or remove \S+/c to begin anew"
    )
    assert re.fullmatch(message, line)


def test_a_folder_that_cannot_be_made_is_one_line(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.parts").touch()
    (tmp_path / "file").touch()
    for out, blamed in ((tmp_path / "c", "c.parts"), (tmp_path / "file" / "c", "file/c.parts")):
        assert prepare_audio(manifest, out) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.fullmatch(rf"error: .*{blamed}'", line)


@pytest.mark.parametrize(("name", "text"), [("m.jsonl", "\n"), ("m.csv", "path,key,lang\n")])
def test_manifests_without_recordings_are_named(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    for command in (["audio", "--tokenizer", SLOW], ["fit-kmeans"]):
        assert main([*command, str(tmp_path / name), "--out", str(tmp_path / "c")]) == 1
        assert f"error: no recordings in {tmp_path / name}\n" in capsys.readouterr().err
