"""The job from recordings to a corpus: encode this rank's groups, then assemble the corpus.

Every rank (RANK and WORLD_SIZE, which torchrun or a batch system sets) encodes its groups of
`groups.py` by the loop in `encoder.py`. `jobs.py` keeps finished work in `{out}.parts`, and lets
the rank that finds all groups there write the corpus.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tresse.data.audio.encoder import BATCHES_PER_GROUP, NUM_SHOWN, Encoder, Times, place_words
from tresse.data.audio.groups import form_groups, groups_of_rank
from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.recordings import Recording
from tresse.data.audio.tokenizers import AudioTokenizer
from tresse.data.durable import replaced_file
from tresse.data.interrupt import Interrupt
from tresse.data.jobs import (
    PREPARED,
    Results,
    find_output,
    read_own,
    run_job,
    write_report,
)
from tresse.data.left_out import FILE, Fault, write_faults
from tresse.data.processes import rank, world_size
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.translations import check_translations
from tresse.data.text_table import format_table

TEXTS = "texts.jsonl"
"""Texts of the documents, beside the corpus, where the recordings came with texts."""
MISALIGNED = "; correct them, or leave such keys out (--skip-misaligned)"


@dataclass(frozen=True)
class Prepared:
    """The outcome of the job on one rank."""

    corpus: Corpus | None
    """The corpus, on the rank that wrote it or found it; None on the others."""
    report: str
    """A line or a table for the user."""
    times: Times
    """Audio that this rank encoded, and the time it took."""
    found: bool = False
    """True if the same job had written the corpus before, so that nothing was done."""


def tokenise(
    recordings: Sequence[Recording],
    tokenizer: AudioTokenizer,
    out: Path,
    settings: JobSettings,
    variant: str = "",
    faults: Sequence[Fault] = (),
) -> Prepared:
    """Encode this rank's groups of the recordings; the last rank to finish writes the corpus.

    faults: what was left out of the manifest; it is listed with what this job leaves out.
    variant: how the tokenizer runs, `TokenizerSettings.variant`; the same for all of a corpus.
    KeyboardInterrupt after a signal, when the current batch is done. ValueError for recordings that
    `check_translations` refuses, for a folder with something else in it, and with `on_fault` "stop"
    for the first recording that would be left out.
    """
    if not recordings:
        raise ValueError("no recordings")
    if not settings.skip_misaligned:
        check_translations(recordings, MISALIGNED)
    groups, recordings_hash = form_groups(recordings, BATCHES_PER_GROUP * settings.batch_seconds)
    job = _describe_job(recordings_hash, tokenizer, settings, variant)
    if settings.words:
        job["words"] = _hash_words(recordings)
    out, times = out.resolve(), Times()
    if (former := find_output(out, job)) is not None:
        report = f"{out} was finished before, of the same recordings\n\n{_format(former, out)}"
        return Prepared(Corpus.open(out), report, times, found=True)

    def work(todo: Sequence[int], interrupt: Interrupt) -> Results:
        encoder = Encoder(recordings, tokenizer, settings, interrupt, times)
        return encoder.run([groups[i] for i in todo], shows=rank() == 0)

    def write(folder: Path, results: Iterator[dict[str, Any]]) -> None:
        rate = Fraction(tokenizer.identity.frame_rate) if settings.words else None
        assembly = _Assembly(recordings, results, rate, stops=settings.on_fault == "stop")
        documents, identity = assembly.documents(), tokenizer.identity
        corpus = write_corpus(folder, documents, identity, skip_misaligned=settings.skip_misaligned)
        _write_texts(folder, recordings, corpus)
        write_faults(folder, [*faults, *assembly.skipped])
        write_report(folder, job, assembly.counts() | {"unread": len(faults)})

    own = groups_of_rank(groups, rank(), world_size())
    if reason := run_job(out, job, len(groups), own, work, write):
        return Prepared(None, reason, times)
    return Prepared(Corpus.open(out), _format(read_own(out / PREPARED), out), times)


def _describe_job(
    recordings_hash: str, tokenizer: AudioTokenizer, settings: JobSettings, variant: str
) -> dict[str, Any]:
    return {
        "format": "tresse-audio-job",
        "version": 1,
        "recordings": recordings_hash,
        "tokenizer": {**asdict(tokenizer.identity), "variant": variant},
        "settings": settings.deciding_units(),
    }


def _hash_words(recordings: Sequence[Recording]) -> str:
    """Return a hash of the times of all words; ValueError names a recording without words."""
    hasher = xxhash.xxh3_64()
    for recording in recordings:
        if not recording.words:
            raise ValueError(
                f"{recording.where}: {recording} has no times of words; leave out --words, or "
                "align it"
            )
        hasher.update(repr(recording.words).encode())
    return hasher.hexdigest()


class _Assembly:
    """Turns the results of all groups into documents, and counts them by language.

    word_rate: units per second, to place words by; None to leave them out. stops: raise ValueError
    for a recording whose words cannot be placed, rather than leave it out.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        results: Iterator[dict[str, Any]],
        word_rate: Fraction | None,
        *,
        stops: bool,
    ) -> None:
        self._recordings, self._results, self._word_rate = recordings, results, word_rate
        self._stops = stops
        self.skipped: list[Fault] = []
        self._counts: dict[str, Counter[str]] = {}
        self._seconds: dict[str, float] = {}

    def documents(self) -> Iterator[Document]:
        """Yield the documents of the corpus in the order of the manifest."""
        for group in self._results:
            for i, result in enumerate(group["recordings"], group["start"]):
                recording = self._recordings[i]
                counts = self._counts.setdefault(recording.language, Counter())
                if "skipped" in result:
                    counts["skipped"] += 1
                    self._note(recording, result["skipped"])
                    continue
                units = [np.array(sentence) for sentence in result["units"]]
                try:
                    words = self._words(recording, units)
                except ValueError as error:
                    if self._stops:
                        raise ValueError(f"{recording.where}: {recording}: {error}") from None
                    counts["skipped"] += 1
                    self._note(recording, str(error))
                    continue
                counts["documents"] += 1
                counts["tokens"] += sum(sentence.size for sentence in units)
                seconds = self._seconds.get(recording.language, 0.0)
                self._seconds[recording.language] = seconds + result["seconds"]
                yield Document(recording.key, recording.language, units, words, recording.where)
        if self.skipped and not any(counts["documents"] for counts in self._counts.values()):
            raise ValueError(_all_left_out(self.skipped))

    def _words(self, recording: Recording, units: Sequence[np.ndarray]) -> list[list[int]] | None:
        """Return the units at which the words of each sentence begin."""
        if self._word_rate is None:
            return None
        placed = zip(recording.words, recording.sentences, units, strict=True)
        return [
            place_words(starts, span.start, own.size, self._word_rate)
            for starts, span, own in placed
        ]

    def counts(self) -> dict[str, Any]:
        """Return the counts by language for the report; call it after the last document."""
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
        self.skipped.append(Fault(recording.key, recording.language, recording.where, reason))


def _write_texts(folder: Path, recordings: Sequence[Recording], corpus: Corpus) -> None:
    """Write the texts of the corpus' documents as a manifest of texts, if there are any."""
    if not any(recording.texts for recording in recordings):
        return
    written = {
        (language, corpus.key(language, i))
        for language in corpus.languages
        for i in range(corpus.num_documents(language))
    }
    with replaced_file(folder / TEXTS) as file:
        for own in recordings:
            if own.texts and (own.language, own.key) in written:
                record = {"key": own.key, "lang": own.language, "sentences": own.texts}
                file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _all_left_out(skipped: Sequence[Fault]) -> str:
    lines = [f"{each.lang}/{each.key}: {each.reason}" for each in skipped[:NUM_SHOWN]]
    shown = "" if len(lines) == len(skipped) else f"; the first {len(lines)}"
    return "\n  ".join([f"all {len(skipped)} recordings were left out{shown}:", *lines])


def _format(report: dict[str, Any], out: Path) -> str:
    lines = [("language", "documents", "audio hours", "tokens", "left out")]
    for language, own in report["languages"].items():
        numbers = f"{own['documents']:,}", f"{own['hours']:,.2f}", f"{own['tokens']:,}"
        lines.append((language, *numbers, f"{own['skipped']:,}"))
    table = format_table(lines)
    if unread := report["unread"]:
        table += f"\nleft out of the manifest, which is not among these numbers: {unread:,}"
    if not unread and not any(own["skipped"] for own in report["languages"].values()):
        return table
    return f"{table}\nwhy they were left out: {out / FILE}"
