"""The job from texts to a corpus: speak this rank's batches, then assemble the corpus.

Every rank (RANK and WORLD_SIZE, which torchrun or a batch system sets) speaks its share of the
batches. `jobs.py` keeps finished work in `{out}.parts`, and lets the rank that finds all batches
there write the corpus. A text that was not spoken to its end is left out.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from tqdm import tqdm

from tresse.data.interrupt import Interrupt
from tresse.data.jobs import Result, Results, find_output, parts_of, run_job, write_report
from tresse.data.left_out import Fault, write_faults
from tresse.data.processes import rank, world_size
from tresse.data.speech.dsm import Spoken
from tresse.data.speech.speak_settings import SpeakSettings
from tresse.data.speech.spoken_files import flac_name, write_flac, write_recordings
from tresse.data.speech.voices import draw_voice
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.texts.texts import Text, hash_texts

logger = logging.getLogger(__name__)

BATCHES_PER_WINDOW = 16
SAMPLE_RATE = 24_000  # of Mimi


class Speaker(Protocol):
    """A model that turns texts into units."""

    @property
    def identity(self) -> Tokenizer:
        """The tokenizer of the units."""
        ...

    @property
    def weights_hash(self) -> str:
        """Hash of the model's weights."""
        ...

    def speak(self, texts: Sequence[Text], voices: Sequence[Path], seed: int) -> list[Spoken | str]:
        """Speak a batch, each text in its voice; a text that failed has a reason in its place."""
        ...


def make_batches(texts: Sequence[Text], size: int) -> list[list[int]]:
    """Return batches of text numbers, of similar lengths; a function of the texts and the size."""
    window = BATCHES_PER_WINDOW * size
    batches = []
    for start in range(0, len(texts), window):
        own = range(start, min(start + window, len(texts)))
        order = sorted(own, key=lambda i: (-sum(map(len, texts[i].sentences)), i))
        batches += [order[i : i + size] for i in range(0, len(order), size)]
    return batches


def speak(
    texts: Sequence[Text],
    speaker: Speaker,
    voices: Sequence[Path],
    out: Path,
    settings: SpeakSettings,
    variant: str = "",
    faults: Sequence[Fault] = (),
) -> Corpus | None:
    """Speak this rank's batches; the last rank to finish writes the corpus, others return None.

    variant: everything else that units depend on. faults: what was left out of the lists of texts.
    KeyboardInterrupt after a signal, when the current batch is done. ValueError for a folder with
    something else in it, and with `on_fault` "stop" for the first text that would be left out.
    """
    batches = make_batches(texts, settings.batch)
    job = _describe_job(texts, speaker, voices, settings, variant)
    out = out.resolve()
    if find_output(out, job) is not None:
        return Corpus.open(out)

    def work(todo: Sequence[int], _: Interrupt) -> Results:
        for number in tqdm(todo, desc="speak", disable=None):
            batch = [texts[i] for i in batches[number]]
            yield {"texts": _speak_batch(number, batch, speaker, voices, settings, parts_of(out))}

    def write(folder: Path, results: Iterator[Result]) -> None:
        skipped: list[Fault] = []
        documents = _documents(texts, batches, results, skipped)
        corpus = write_corpus(folder, documents, speaker.identity)
        if settings.keep_audio:
            silent = {(each.key, each.lang) for each in skipped}
            heard = [text for text in texts if (text.key, text.language) not in silent]
            write_recordings(parts_of(out), folder, _list_audio(heard, corpus), ascii_only=True)
        write_faults(folder, [*faults, *skipped])
        write_report(folder, job)

    own = range(len(batches))[rank() :: world_size()]
    if reason := run_job(out, job, len(batches), own, work, write):
        print(reason)
        return None
    return Corpus.open(out)


def _speak_batch(
    number: int,
    texts: Sequence[Text],
    speaker: Speaker,
    voices: Sequence[Path],
    settings: SpeakSettings,
    folder: Path,
) -> list[dict[str, Any]]:
    """Speak a batch and return the journal's record of each text; audio is kept in the folder."""
    drawn = [draw_voice(text.key, voices, settings.seed) for text in texts]
    seed = xxhash.xxh3_64_intdigest(f"{settings.seed}/{number}".encode()) >> 1
    spoken = speaker.speak(texts, drawn, seed)
    if settings.on_fault == "stop":
        _check_all(texts, spoken)
    return [_record(*each, folder) for each in zip(texts, spoken, strict=True)]


def _record(text: Text, spoken: Spoken | str, folder: Path) -> dict[str, Any]:
    if isinstance(spoken, str):
        logger.warning("left out %s (%s): %s", text, text.where, spoken)
        return {"skipped": spoken}
    if spoken.waveform is not None:
        write_flac(folder / _audio_name(text), spoken.waveform, SAMPLE_RATE)
    return {"units": [each.tolist() for each in spoken.sentences], "words": spoken.words}


def _audio_name(text: Text) -> str:
    return f"audio/{flac_name(text)}"


def _list_audio(texts: Sequence[Text], corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Yield the manifest's record of each text; sentences follow each other without a gap."""
    for text in texts:
        rate = Fraction(corpus.tokenizer(text.language).frame_rate)
        sentences = corpus.document(text.language, corpus.find(text.language, text.key))
        ends = np.cumsum([sentence.size for sentence in sentences])
        times = [float(end / rate) for end in (0, *ends.tolist())]
        record = {"path": _audio_name(text), "key": text.key, "lang": text.language}
        yield record | {"sentences": [*map(list, pairwise(times))]}


def _check_all(texts: Sequence[Text], spoken: Sequence[Spoken | str]) -> None:
    for text, each in zip(texts, spoken, strict=True):
        if isinstance(each, str):
            raise ValueError(f"{text.where}: {text}: {each} (--on-fault stop)")


def _describe_job(
    texts: Sequence[Text],
    speaker: Speaker,
    voices: Sequence[Path],
    settings: SpeakSettings,
    variant: str,
) -> dict[str, Any]:
    heard = xxhash.xxh3_64()
    for voice in voices:
        heard.update(voice.name.encode() + voice.read_bytes())
    return {
        "format": "tresse-speak-job",
        "version": 1,
        "texts": hash_texts(texts),
        "voices": heard.hexdigest(),
        "model": speaker.weights_hash,
        "tokenizer": asdict(speaker.identity),
        "settings": {
            "batch": settings.batch,
            "seed": settings.seed,
            "keep_audio": settings.keep_audio,
            "variant": variant,
        },
    }


def _documents(
    texts: Sequence[Text],
    batches: Sequence[Sequence[int]],
    results: Iterator[Result],
    skipped: list[Fault],
) -> Iterator[Document]:
    """Yield documents in the order of the texts, a window of batches at a time; fill `skipped`."""
    for start in range(0, len(batches), BATCHES_PER_WINDOW):
        window = batches[start : start + BATCHES_PER_WINDOW]
        spoken = {
            i: each
            for batch, result in zip(window, islice(results, len(window)), strict=True)
            for i, each in zip(batch, result["texts"], strict=True)
        }
        for i, each in sorted(spoken.items()):
            text = texts[i]
            if "skipped" in each:
                skipped.append(Fault(text.key, text.language, text.where, each["skipped"]))
            else:
                yield Document(text.key, text.language, each["units"], each["words"], text.where)
    if len(skipped) == len(texts):
        raise ValueError(f"no text was spoken to its end, the first: {skipped[0].reason}")
