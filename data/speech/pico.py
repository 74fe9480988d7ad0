"""Texts as recordings, spoken by SVOX Pico (package ttspico): no network, no weights to fetch.

Pico has one voice per language and speaks 120 times faster than real time. A document is a FLAC
file of 16 kHz; `recordings.jsonl` lists the files, and the times at which sentences start and end.
Pitch and rate of a document are drawn by its key, the same in all languages, so that translations
sound like one speaker.
"""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from tqdm import tqdm

from tresse.data.durable import check_vacant
from tresse.data.interrupt import Interrupt
from tresse.data.jobs import Result, Results, parts_of, run_job
from tresse.data.left_out import LeftOut, OnFault
from tresse.data.speech.spoken_files import flac_name, write_flac, write_recordings
from tresse.data.texts.texts import Text, hash_texts

SAMPLE_RATE = 16_000
VOICES = {"en": "en-GB", "fr": "fr-FR", "de": "de-DE", "es": "es-ES", "it": "it-IT"}
VOLUME = 50  # percent; at 100 Pico clips
SILENCE = 200  # of 32768
MARGIN = SAMPLE_RATE // 25  # samples kept before and after what is louder
TEXTS_PER_GROUP = 16


SILENT = "Pico gives no sound"


@dataclass(frozen=True, kw_only=True)
class PicoSettings:
    """Voice and work of SVOX Pico."""

    pitch: tuple[int, int] = (85, 115)
    """Lowest and highest pitch of a document, in percent of Pico's own (50 to 200)."""
    rate: tuple[int, int] = (110, 130)
    """Lowest and highest speed of a document, in percent of Pico's own (20 to 500)."""
    seed: int = 0
    """Seed of the draw of pitch and rate for each document."""
    workers: int = 2
    """Number of processes that speak."""
    on_fault: OnFault = "skip"
    """What to do at a text that cannot be read or spoken: `stop`, or `skip` it.
    OUT/skipped.jsonl lists those that are left out. A key that is there twice always stops."""

    def __post_init__(self) -> None:
        for name, least, most in (("pitch", 50, 200), ("rate", 20, 500)):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"--{name} is {low} to {high}, expected two numbers from {least} to {most} in "
                    "order"
                )
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, expected at least 1")


def speak_all(
    texts: Sequence[Text], out: Path, settings: PicoSettings, left_out: LeftOut | None = None
) -> int:
    """Write a FLAC file per text and recordings.jsonl as the folder `out`; returns their number.

    {out}.parts keeps the finished work; after a stop or a kill the same call resumes it.
    KeyboardInterrupt after a signal. ValueError for a language without a voice, or when something
    else was begun there; for a text that Pico does not speak, unless `left_out` gets it.
    """
    left_out = left_out or LeftOut()
    for text in texts:
        if text.language not in VOICES:
            raise ValueError(
                f"{text.where}: Pico has no voice for {text.language}; it has {', '.join(VOICES)}"
            )
    out = out.resolve()
    check_vacant(out)
    groups = [texts[i : i + TEXTS_PER_GROUP] for i in range(0, len(texts), TEXTS_PER_GROUP)]
    kept = parts_of(out) / "speech"

    def work(todo: Sequence[int], _: Interrupt) -> Results:
        return _speak_groups([groups[i] for i in todo], len(groups), kept, settings)

    def write(folder: Path, results: Iterator[Result]) -> None:
        records = (record for result in results for record in result["recordings"])
        write_recordings(kept, folder, _spoken(records, left_out), ascii_only=False)
        left_out.write(folder)

    job, own = _describe_job(texts, settings), range(len(groups))
    if reason := run_job(out, job, len(groups), own, work, write):
        raise ValueError(f"{out}: not written by this process: {reason}")
    return len(texts) - sum(1 for fault in left_out.faults if fault.reason.startswith(SILENT))


def _spoken(records: Iterator[Result], left_out: LeftOut) -> Iterator[Result]:
    """Yield the records of texts that were spoken, and leave out the others."""
    for record in records:
        if "silent" in record:
            left_out.add(record["where"], record["silent"], record["key"], record["lang"])
        else:
            yield record


def _speak_groups(
    groups: Sequence[Sequence[Text]], num_groups: int, folder: Path, settings: PicoSettings
) -> Results:
    """Speak groups in processes, as Pico does not free the GIL; yields the records of each."""
    work = partial(_record_group, folder=folder, settings=settings)
    context = multiprocessing.get_context("spawn")
    bar = tqdm(total=num_groups, initial=num_groups - len(groups), desc="speak", disable=None)
    with ProcessPoolExecutor(settings.workers, context, _leave_signals_to_parent) as pool, bar:
        done = pool.map(work, groups)
        try:
            for group in groups:
                yield {"recordings": _next(done, group)}
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)


def _next(done: Iterator[list[dict[str, Any]]], group: Sequence[Text]) -> list[dict[str, Any]]:
    try:
        return next(done)
    except BrokenProcessPool:
        raise ValueError(
            f"Pico crashed near {group[0].where} to {group[-1].where}; correct these texts"
        ) from None


def _leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _describe_job(texts: Sequence[Text], settings: PicoSettings) -> dict[str, Any]:
    drawn = {"pitch": [*settings.pitch], "rate": [*settings.rate], "seed": settings.seed}
    job = {"format": "tresse-pico-job", "version": 1, "texts": hash_texts(texts)}
    return job | {"settings": drawn}


def draw_voice(key: str, settings: PicoSettings) -> tuple[int, int]:
    """Return pitch and rate of a document, a function of its key, the seed and the two ranges."""
    digest = xxhash.xxh3_128_intdigest(key.encode(), seed=settings.seed)
    (low, high), (slow, fast) = settings.pitch, settings.rate
    return low + digest % (high - low + 1), slow + (digest >> 64) % (fast - slow + 1)


def speak(text: Text, settings: PicoSettings) -> list[np.ndarray]:
    """Return the sound of each sentence, int16 [samples] at 16 kHz.

    Pico's noise depends on what the engine has said before. A new engine, which costs 1 ms, says a
    sentence the same way each time.
    """
    import ttspico

    sounds = []
    pitch, rate = draw_voice(text.key, settings)
    for sentence in text.sentences:
        engine = ttspico.TtsEngine(VOICES[text.language])
        engine.volume, engine.pitch, engine.rate = VOLUME, pitch, rate
        sounds.append(np.frombuffer(engine.speak(sentence) or b"", np.int16))
    return sounds


def find_sound(sound: np.ndarray) -> tuple[int, int]:
    """Return where the sound of int16 [samples] starts and ends, with a margin of silence."""
    loud = np.flatnonzero(np.abs(sound.astype(np.int32)) > SILENCE)
    if not loud.size:
        raise ValueError(SILENT)
    return max(0, int(loud[0]) - MARGIN), min(sound.size, int(loud[-1]) + 1 + MARGIN)


def _record_group(
    texts: Sequence[Text], *, folder: Path, settings: PicoSettings
) -> list[dict[str, Any]]:
    return [_record(text, folder, settings) for text in texts]


def _record(text: Text, folder: Path, settings: PicoSettings) -> dict[str, Any]:
    """Write the file of a text and return its record of the manifest."""
    sounds, times, before = speak(text, settings), [], 0
    identity = {"key": text.key, "lang": text.language}
    for sentence, sound in zip(text.sentences, sounds, strict=True):
        try:
            start, end = find_sound(sound)
        except ValueError as error:
            if settings.on_fault == "stop":
                raise ValueError(f"{text.where}: {error} for {sentence!r}") from None
            return identity | {"where": text.where, "silent": f"{error} for {sentence!r}"}
        times.append([(before + start) / SAMPLE_RATE, (before + end) / SAMPLE_RATE])
        before += sound.size
    name = flac_name(text)
    write_flac(folder / name, np.concatenate(sounds), SAMPLE_RATE)
    return {"path": name, **identity, "sentences": times}
