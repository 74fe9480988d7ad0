"""Texts as recordings, spoken by SVOX Pico (package ttspico): no network, no weights to fetch.

Pico has one voice per language and speaks 120 times faster than real time. A document is a FLAC
file of 16 kHz; `recordings.jsonl` has where its sentences start and end. Pitch and rate of a
document are drawn by its key, the same in all languages, so that translations are as one speaker's.
"""

import json
import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from tqdm import tqdm

from tresse.data.durable import check_vacant, commit, sync
from tresse.data.interrupt import Interrupt
from tresse.data.jobs import Journal
from tresse.data.speech.texts import Text

SAMPLE_RATE = 16_000
VOICES = {"en": "en-GB", "fr": "fr-FR", "de": "de-DE", "es": "es-ES", "it": "it-IT"}
VOLUME = 50  # percent; at 100 Pico clips
SILENCE = 200  # of 32768
MARGIN = SAMPLE_RATE // 25  # samples kept around what is louder than that
TEXTS_PER_GROUP = 16
RECORDINGS = "recordings.jsonl"


@dataclass(frozen=True, kw_only=True)
class PicoSettings:
    """How Pico speaks."""

    pitch: tuple[int, int] = (85, 115)
    """Lowest and highest pitch of a document, in percent of Pico's."""
    rate: tuple[int, int] = (110, 130)
    """Lowest and highest rate."""
    seed: int = 0
    """Draws pitch and rate, with the key."""
    workers: int = 2
    """Processes."""

    def __post_init__(self) -> None:
        for name, least, most in (("pitch", 50, 200), ("rate", 20, 500)):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name} is {low} to {high}, expected two numbers from {least} to {most} in "
                    "order"
                )
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}, expected at least 1")


def speak_all(texts: Sequence[Text], out: Path, settings: PicoSettings) -> int:
    """Write a FLAC file per text and recordings.jsonl as the folder `out`; returns their number.

    What is spoken is kept in {out}.parts, and the same call goes on after a stop or a kill.
    KeyboardInterrupt after a signal. ValueError for a language without a voice, a text that Pico
    does not speak, or when something else was begun there.
    """
    for text in texts:
        if text.language not in VOICES:
            raise ValueError(
                f"{text.where}: Pico has no voice for {text.language}; it has {', '.join(VOICES)}"
            )
    out = out.resolve()
    check_vacant(out)
    groups = [texts[i : i + TEXTS_PER_GROUP] for i in range(0, len(texts), TEXTS_PER_GROUP)]
    parts = out.with_name(f"{out.name}.parts")
    speech = parts / "speech"
    with Journal.open(parts, _describe_job(texts, settings), rank=0) as journal:
        for language in {text.language for text in texts}:
            (speech / language).mkdir(parents=True, exist_ok=True)
        _speak_groups(groups, speech, settings, journal)
        journal.refresh()
        with (speech / RECORDINGS).open("w", encoding="utf-8", newline="\n") as file:
            for result in journal.results(range(len(groups))):
                for row in result["recordings"]:
                    print(json.dumps(row, ensure_ascii=False), file=file)
            file.flush()
            sync(file.fileno())
        commit(speech, out)
        journal.remove()
    return len(texts)


def _speak_groups(
    groups: Sequence[Sequence[Text]], folder: Path, settings: PicoSettings, journal: Journal
) -> None:
    """Speak what is not in the journal, in processes: Pico does not free the GIL."""
    todo = [i for i in range(len(groups)) if i not in journal.finished]
    work = partial(_record_group, folder=folder, settings=settings)
    context = multiprocessing.get_context("spawn")
    bar = tqdm(total=len(groups), initial=len(groups) - len(todo), desc="speak", disable=None)
    with (
        Interrupt() as interrupt,
        ProcessPoolExecutor(settings.workers, context, _leave_signals_to_parent) as pool,
        bar,
    ):
        done = pool.map(work, (groups[i] for i in todo))
        for i in todo:
            if interrupt.requested:
                pool.shutdown(cancel_futures=True)
                raise KeyboardInterrupt(
                    "stopped; what is spoken is kept, and the same command goes on from there"
                )
            try:
                journal.append(i, {"recordings": next(done)})
            except BrokenProcessPool:
                first, last = groups[i][0], groups[i][-1]
                raise ValueError(
                    f"Pico crashed near {first.where} to {last.where}; correct these texts"
                ) from None
            bar.update()


def _leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _describe_job(texts: Sequence[Text], settings: PicoSettings) -> dict[str, Any]:
    hasher = xxhash.xxh3_64()
    for text in texts:
        hasher.update(repr((text.key, text.language, text.sentences)).encode())
    drawn = {"pitch": [*settings.pitch], "rate": [*settings.rate], "seed": settings.seed}
    job = {"format": "tresse-pico-job", "version": 1, "texts": hasher.hexdigest()}
    return job | {"settings": drawn}


def draw_voice(key: str, settings: PicoSettings) -> tuple[int, int]:
    """Pitch and rate of a document, a function of its key, the seed and the two ranges."""
    digest = xxhash.xxh3_128_intdigest(key.encode(), seed=settings.seed)
    (low, high), (slow, fast) = settings.pitch, settings.rate
    return low + digest % (high - low + 1), slow + (digest >> 64) % (fast - slow + 1)


def speak(text: Text, settings: PicoSettings) -> list[np.ndarray]:
    """int16 [samples] of each sentence, at 16 kHz.

    Pico's noise goes on from what an engine has said before; a new engine, which costs 1 ms, says
    a sentence the same way each time.
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
    """First sample of int16 [samples] that is not silence, and the one after the last."""
    loud = np.flatnonzero(np.abs(sound.astype(np.int32)) > SILENCE)
    if not loud.size:
        raise ValueError("Pico says nothing")
    return max(0, int(loud[0]) - MARGIN), min(sound.size, int(loud[-1]) + 1 + MARGIN)


def _record_group(
    texts: Sequence[Text], *, folder: Path, settings: PicoSettings
) -> list[dict[str, Any]]:
    return [_record(text, folder, settings) for text in texts]


def _record(text: Text, folder: Path, settings: PicoSettings) -> dict[str, Any]:
    """Write the file of a text; returns its line of the manifest."""
    import soundfile

    sounds, times, before = speak(text, settings), [], 0
    for sentence, sound in zip(text.sentences, sounds, strict=True):
        try:
            start, end = find_sound(sound)
        except ValueError as error:
            raise ValueError(f"{text.where}: {error} for {sentence!r}") from None
        times.append([(before + start) / SAMPLE_RATE, (before + end) / SAMPLE_RATE])
        before += sound.size
    name = f"{text.language}/{xxhash.xxh3_128_hexdigest(text.key.encode())}.flac"
    temporary = folder / f"{name}.tmp"
    with temporary.open("wb") as file:
        soundfile.write(file, np.concatenate(sounds), SAMPLE_RATE, format="FLAC")
        file.flush()
        sync(file.fileno())
    temporary.replace(folder / name)
    return {"path": name, "key": text.key, "lang": text.language, "sentences": times}
