"""The job from audio to a corpus: decode ahead, encode in batches, keep what is finished, assemble.

Every rank (RANK and WORLD_SIZE, as torchrun or a batch system sets them) encodes its share of the
groups of `plan.py` and appends them to the journal in `{out}.parts`; whoever finds all of them
there writes the corpus. A recording with a sentence that cannot be used is left out whole.
"""

import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tresse.data.audio.ahead import run_ahead
from tresse.data.audio.groups import Group, Plan, make_plan, share
from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.recordings import Recording, check_recordings
from tresse.data.audio.tokenizers import AudioTokenizer
from tresse.data.audio.waveforms import check_sound, read_joint, read_spans
from tresse.data.durable import check_vacant, commit
from tresse.data.interrupt import Interrupt
from tresse.data.jobs import Journal, read_own
from tresse.data.processes import rank, world_size
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import MAX_SENTENCE_TOKENS, Document

logger = logging.getLogger(__name__)

BATCHES_PER_GROUP = 8
NUM_SHOWN = 10
SKIPPED, PREPARED = "skipped.jsonl", "prepared.json"


class Clip(NamedTuple):
    """What is encoded in one go: a sentence, or with `joint` a document."""

    recording: int
    waveform: np.ndarray  # float32 [samples]
    bounds: list[tuple[float, float]]  # with `joint`, where its sentences start and end, in seconds


@dataclass
class Times:
    """Where a rank's time went, in seconds."""

    audio: float = 0.0
    encode: float = 0.0
    wait: float = 0.0
    """For clips that were still being decoded."""
    whole: float = 0.0


@dataclass(frozen=True)
class Prepared:
    """What a rank comes back with."""

    corpus: Corpus | None
    """On the rank that completed it; None on the others."""
    report: str
    """A line or a table for the user."""
    times: Times
    found: bool = False
    """The same job wrote the corpus before, and nothing was done."""


@dataclass
class _Result:
    """Units of the recordings of a group, and why there are none."""

    seconds: dict[int, float] = field(default_factory=dict)
    units: dict[int, list[np.ndarray]] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)

    def record(self, group: Group) -> dict[str, Any]:
        """As the journal has it, a row per recording."""
        rows = []
        for i in range(group.start, group.end):
            if i in self.skipped:
                rows.append({"skipped": self.skipped[i]})
            else:
                units = [sentence.tolist() for sentence in self.units[i]]
                rows.append({"seconds": round(self.seconds[i], 4), "units": units})
        return {"start": group.start, "recordings": rows}


def tokenise(
    recordings: Sequence[Recording],
    tokenizer: AudioTokenizer,
    out: Path,
    settings: JobSettings,
    variant: str = "",
) -> Prepared:
    """Encode this rank's share of the recordings, and write the corpus when all shares are done.

    variant: how the tokenizer runs, `TokenizerSettings.variant`; all of a corpus has it in common.
    KeyboardInterrupt after a signal, when the batch is done. ValueError for recordings that
    `check_recordings` refuses, for a folder with something else in it, and with `strict` for the
    first recording that would be left out.
    """
    if not recordings:
        raise ValueError("no recordings")
    if not settings.skip_misaligned:
        check_recordings(recordings)
    plan = make_plan(recordings, BATCHES_PER_GROUP * settings.batch_seconds)
    job = _describe_job(plan, tokenizer, settings, variant)
    out = out.resolve()
    if (former := _read_prepared(out)) is not None and former["job"] == job:
        report = f"{out} was finished before, of the same recordings\n\n{_format(former, out)}"
        return Prepared(Corpus.open(out), report, Times(), found=True)
    check_vacant(out)
    own = share(plan.groups, rank(), world_size())
    if not own:
        return Prepared(None, "done; there are more ranks than groups", Times())
    with Journal.open(out.with_name(f"{out.name}.parts"), job, rank()) as journal:
        mine = [i for i in own if i not in journal.finished]
        with Interrupt() as interrupt:
            encoder = _Encoder(recordings, tokenizer, settings, interrupt)
            encoder.run([(i, plan.groups[i]) for i in mine], journal, shows=rank() == 0)
        return _finish(recordings, tokenizer, out, settings, plan, journal, encoder.times, job)


class _Encoder:
    """The loop of one rank."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        tokenizer: AudioTokenizer,
        settings: JobSettings,
        interrupt: Interrupt,
    ) -> None:
        self.recordings, self.tokenizer, self.settings = recordings, tokenizer, settings
        self.interrupt, self.times = interrupt, Times()
        self._window_seconds = BATCHES_PER_GROUP * settings.batch_seconds
        self._num_shown = 0

    def run(self, groups: Sequence[tuple[int, Group]], journal: Journal, *, shows: bool) -> None:
        """Encode the groups in order and append each to the journal."""
        began = time.monotonic()
        todo = (i for _, group in groups for i in range(group.start, group.end))
        decode = partial(_decode, self.recordings, self.tokenizer.sample_rate, self.settings)
        ahead = run_ahead(todo, decode, self.settings.workers)
        hours = sum(group.seconds for _, group in groups) / 3600
        bar = tqdm(total=hours, unit="h", desc="tokenise", disable=None if shows else True)
        with bar:
            try:
                for number, group in groups:
                    journal.append(number, self._encode_group(group, ahead).record(group))
                    self.times.whole = time.monotonic() - began
                    bar.update(group.seconds / 3600)
                    bar.set_postfix_str(f"{self.times.audio / self.times.whole:.0f} x real time")
            finally:
                ahead.close()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.interrupt.requested:
            raise KeyboardInterrupt(
                "stopped; what is finished is kept, and the same command goes on from there"
            )

    def _encode_group(
        self, group: Group, ahead: Iterator[tuple[int, Iterator[Clip | str]]]
    ) -> _Result:
        result, window = _Result(), []
        for _ in range(group.start, group.end):
            i, pieces = next(ahead)
            while (piece := self._next(pieces)) is not None:
                if isinstance(piece, str):
                    self._skip(i, piece, result)
                    window = [clip for clip in window if clip.recording != i]
                    continue
                window.append(piece)
                seconds = piece.waveform.size / self.tokenizer.sample_rate
                result.seconds[i] = result.seconds.get(i, 0.0) + seconds
                if self._seconds(window) >= self._window_seconds:
                    self._encode_window(window, result)
                    window = []
        self._encode_window(window, result)
        return result

    def _next(self, pieces: Iterator[Clip | str]) -> Clip | str | None:
        before = time.monotonic()
        piece = next(pieces, None)
        self.times.wait += time.monotonic() - before
        return piece

    def _seconds(self, clips: Sequence[Clip]) -> float:
        return sum(clip.waveform.size for clip in clips) / self.tokenizer.sample_rate

    def _encode_window(self, window: list[Clip], result: _Result) -> None:
        """Encode clips in batches of similar lengths; their units return in the clips' order."""
        order = sorted(range(len(window)), key=lambda i: -window[i].waveform.size)
        found: dict[int, np.ndarray] = {}
        for batch in self._batches(order, window):
            self._stop_if_asked()
            units = self._encode([window[i].waveform for i in batch])
            found |= dict(zip(batch, units, strict=True))
        self.times.audio += self._seconds(window)
        for i, clip in enumerate(window):
            units = self._check(found[i])
            self._add(clip, units, result)

    def _encode(self, waveforms: list[np.ndarray]) -> list[np.ndarray]:
        before = time.monotonic()
        units = self.tokenizer.encode(waveforms)
        self.times.encode += time.monotonic() - before
        if len(units) != len(waveforms):
            raise ValueError(
                f"tokenizer {self.tokenizer.identity.name} gave {len(units)} results for "
                f"{len(waveforms)} waveforms, expected one each"
            )
        return units

    def _batches(self, order: list[int], window: list[Clip]) -> Iterator[list[int]]:
        """Clips from long to short, as many as fit when all are as long as the first."""
        most = self.settings.batch_seconds * self.tokenizer.sample_rate
        while order:
            size = max(1, int(most // window[order[0]].waveform.size))
            yield order[:size]
            order = order[size:]

    def _check(self, units: np.ndarray) -> np.ndarray:
        vocab_size = self.tokenizer.identity.vocab_size
        if not isinstance(units, np.ndarray):
            raise ValueError(
                f"tokenizer {self.tokenizer.identity.name} gave a {type(units).__name__}, "
                "expected NumPy arrays of integers [num_frames]"
            )
        if units.ndim != 1 or units.dtype.kind not in "iu" or not units.size:
            raise ValueError(
                f"tokenizer {self.tokenizer.identity.name} gave {units.dtype} {list(units.shape)}, "
                "expected integers [num_frames]"
            )
        if units.min() < 0 or units.max() >= vocab_size:
            raise ValueError(
                f"tokenizer {self.tokenizer.identity.name} gave units {units.min()} to "
                f"{units.max()}, its vocabulary is 0 to {vocab_size - 1}"
            )
        return units

    def _add(self, clip: Clip, units: np.ndarray, result: _Result) -> None:
        i = clip.recording
        if i in result.skipped:
            return
        rate = Fraction(self.tokenizer.identity.frame_rate)
        sentences = cut_units(units, clip.bounds, rate) if clip.bounds else [units]
        if not all(1 <= sentence.size <= MAX_SENTENCE_TOKENS for sentence in sentences):
            lengths = [sentence.size for sentence in sentences]
            where = self.recordings[i].sentences[0].source
            reason = f"{where}: sentences of {min(lengths)} to {max(lengths)} units"
            self._skip(i, f"{reason}, expected 1 to {MAX_SENTENCE_TOKENS}", result)
            return
        result.units.setdefault(i, []).extend(sentences)

    def _skip(self, i: int, reason: str, result: _Result) -> None:
        if self.settings.strict:
            raise ValueError(f"{self.recordings[i]}: {reason} (--strict)")
        result.skipped[i] = reason
        self._num_shown += 1
        if self._num_shown <= NUM_SHOWN:
            logger.warning("left out %s: %s", self.recordings[i], reason)
        if self._num_shown == NUM_SHOWN:
            logger.warning("further ones are not shown")


def cut_units(
    units: np.ndarray, bounds: Sequence[tuple[float, float]], frame_rate: Fraction
) -> list[np.ndarray]:
    """Units of sentences that start and end at these seconds, rounded to frames.

    No unit is in two sentences, and each has at least one: a sentence of less takes the next
    frame. A sentence that would start beyond the last frame is empty.
    """
    sentences, before = [], 0
    for start, end in bounds:
        first = max(round(start * frame_rate), before)
        before = max(round(end * frame_rate), first + 1)
        sentences.append(units[first:before])
    return sentences


def _decode(
    recordings: Sequence[Recording], sample_rate: int, settings: JobSettings, i: int
) -> Iterator[tuple[Clip | str, int]]:
    """Clips of a recording and their bytes; a reason in place of the one that cannot be used."""
    spans = recordings[i].sentences
    check = partial(
        check_sound,
        sample_rate=sample_rate,
        min_seconds=settings.min_seconds,
        silence_db=settings.silence_db,
    )
    try:
        if settings.joint:
            waveform, bounds = read_joint(spans, sample_rate, settings.max_seconds)
            for span, (start, end) in zip(spans, bounds, strict=True):
                piece = waveform[round(start * sample_rate) : round(end * sample_rate)]
                check(piece, source=span.source)
            yield Clip(i, waveform, bounds), waveform.nbytes
            return
        read = read_spans(spans, sample_rate, settings.max_seconds)
        for span, waveform in zip(spans, read, strict=True):
            check(waveform, source=span.source)
            yield Clip(i, waveform, []), waveform.nbytes
    except ValueError as error:
        yield str(error), 0


def _describe_job(
    plan: Plan, tokenizer: AudioTokenizer, settings: JobSettings, variant: str
) -> dict[str, Any]:
    return {
        "format": "tresse-audio-job",
        "version": 1,
        "recordings": plan.hash,
        "tokenizer": {**asdict(tokenizer.identity), "variant": variant},
        "settings": settings.decisive(),
    }


def _finish(
    recordings: Sequence[Recording],
    tokenizer: AudioTokenizer,
    out: Path,
    settings: JobSettings,
    plan: Plan,
    journal: Journal,
    times: Times,
    job: dict[str, Any],
) -> Prepared:
    """Write the corpus, if all groups are there and no other rank is at it."""
    journal.refresh()
    if missing := len(plan.groups) - len(journal.finished):
        return Prepared(None, f"done; {missing} of {len(plan.groups)} groups are others'", times)
    with journal.alone() as mine:
        if not mine or (out.exists() and any(out.iterdir())):
            return Prepared(None, "done; another rank writes the corpus", times)
        assembly = _Assembly(recordings, journal, plan)
        staged = journal.folder / "corpus"
        for left in journal.folder.glob("corpus*"):
            shutil.rmtree(left)
        skip_misaligned = settings.skip_misaligned
        documents = assembly.documents()
        write_corpus(staged, documents, tokenizer.identity, skip_misaligned=skip_misaligned)
        report = assembly.report()
        _write_text(staged / SKIPPED, "".join(f"{json.dumps(r)}\n" for r in assembly.skipped))
        _write_text(staged / PREPARED, json.dumps({"job": job, **report}, indent=1) + "\n")
        out.parent.mkdir(parents=True, exist_ok=True)
        commit(staged, out)
        journal.remove()
    return Prepared(Corpus.open(out), _format(report, out), times)


class _Assembly:
    """Reads the journal in the manifest's order, and counts."""

    def __init__(self, recordings: Sequence[Recording], journal: Journal, plan: Plan) -> None:
        self._recordings, self._journal, self._plan = recordings, journal, plan
        self.skipped: list[dict[str, str]] = []
        self._counts: dict[str, Counter[str]] = {}
        self._seconds: dict[str, float] = {}

    def documents(self) -> Iterator[Document]:
        """Documents of the corpus, in the order of the manifest."""
        for result in self._journal.results(range(len(self._plan.groups))):
            for i, row in enumerate(result["recordings"], result["start"]):
                recording = self._recordings[i]
                counts = self._counts.setdefault(recording.language, Counter())
                if "skipped" in row:
                    counts["skipped"] += 1
                    self._note(recording, row["skipped"])
                    continue
                units = [np.array(sentence) for sentence in row["units"]]
                counts["documents"] += 1
                counts["tokens"] += sum(sentence.size for sentence in units)
                seconds = self._seconds.get(recording.language, 0.0)
                self._seconds[recording.language] = seconds + row["seconds"]
                yield Document(recording.key, recording.language, units, where=recording.where)
        if self.skipped and not any(counts["documents"] for counts in self._counts.values()):
            raise ValueError(_all_left_out(self.skipped))

    def report(self) -> dict[str, Any]:
        """Counts by language."""
        languages = {
            language: {
                "documents": counts["documents"],
                "hours": round(self._seconds.get(language, 0.0) / 3600, 4),
                "tokens": counts["tokens"],
                "skipped": counts["skipped"],
            }
            for language, counts in sorted(self._counts.items())
        }
        return {"languages": languages}

    def _note(self, recording: Recording, reason: str) -> None:
        row = {"key": recording.key, "lang": recording.language}
        self.skipped.append({**row, "where": recording.where, "reason": reason})


def _all_left_out(skipped: Sequence[dict[str, str]]) -> str:
    lines = [f"{row['lang']}/{row['key']}: {row['reason']}" for row in skipped[:NUM_SHOWN]]
    shown = "" if len(lines) == len(skipped) else f"; the first {len(lines)}"
    return "\n  ".join([f"all {len(skipped)} recordings were left out{shown}:", *lines])


def _format(report: dict[str, Any], out: Path) -> str:
    lines = ["language  documents  audio hours         tokens  left out"]
    for language, row in report["languages"].items():
        lines.append(
            f"{language:8}  {row['documents']:>9,}  {row['hours']:>11,.2f}  {row['tokens']:>13,}  "
            f"{row['skipped']:>8,}"
        )
    if any(row["skipped"] for row in report["languages"].values()):
        lines.append(f"why they were left out: {out / SKIPPED}")
    return "\n".join(lines)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _read_prepared(out: Path) -> dict[str, Any] | None:
    """What an earlier run wrote there; late ranks find it too, when they have nothing to do."""
    path = out / PREPARED
    return read_own(path, "job") if path.exists() else None
