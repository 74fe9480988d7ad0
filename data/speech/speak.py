"""The job from texts to a corpus: speak in batches, keep what is finished, assemble.

Every rank (RANK and WORLD_SIZE, as torchrun or a batch system sets them) speaks its share of the
batches and appends them to the journal in `{out}.parts`, as the job from audio does; whoever finds
all of them there writes the corpus. A text that was not spoken to its end is left out.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from tqdm import tqdm

from tresse.data.durable import check_vacant, commit, link_or_copy, sync
from tresse.data.interrupt import Interrupt
from tresse.data.jobs import Journal, read_own
from tresse.data.processes import rank, world_size
from tresse.data.speech.dsm import Spoken
from tresse.data.speech.speak_settings import SpeakSettings
from tresse.data.speech.texts import Text
from tresse.data.speech.voices import draw_voice
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

BATCHES_PER_WINDOW = 16
SKIPPED, PREPARED, RECORDINGS = "skipped.jsonl", "prepared.json", "recordings.jsonl"
SAMPLE_RATE = 24_000  # of Mimi


class Speaker(Protocol):
    """Texts to units."""

    @property
    def identity(self) -> Tokenizer:
        """Whose units they are."""
        ...

    @property
    def weights_hash(self) -> str:
        """Hash of what speaks."""
        ...

    def speak(self, texts: Sequence[Text], voices: Sequence[Path], seed: int) -> list[Spoken | str]:
        """Speak a batch, each text in its voice; a reason in place of one that did not succeed."""
        ...


def make_batches(texts: Sequence[Text], size: int) -> list[list[int]]:
    """Numbers of texts of similar lengths: a function of the texts alone, whoever speaks them."""
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
) -> Corpus | None:
    """Speak this rank's share, and write the corpus when all shares are done; None on other ranks.

    variant: what else the units depend on. KeyboardInterrupt after a signal, when the batch is
    done. ValueError for a folder with something else in it, and with `strict` for the first text
    that would be left out.
    """
    batches = make_batches(texts, settings.batch)
    job = _describe_job(texts, speaker, voices, settings, variant)
    out = out.resolve()
    if (out / PREPARED).exists() and read_own(out / PREPARED, "job")["job"] == job:
        return Corpus.open(out)  # written by another rank, or before
    check_vacant(out)
    with Journal.open(out.with_name(f"{out.name}.parts"), job, rank()) as journal:
        mine = [i for i in range(len(batches))[rank() :: world_size()] if i not in journal.finished]
        with Interrupt() as interrupt, tqdm(total=len(mine), desc="speak", disable=None) as bar:
            for number in mine:
                if interrupt.requested:
                    raise KeyboardInterrupt(
                        "stopped; what is finished is kept, and the same command goes on from there"
                    )
                own = [texts[i] for i in batches[number]]
                drawn = [draw_voice(text.key, voices, settings.seed) for text in own]
                seed = xxhash.xxh3_64_intdigest(f"{settings.seed}/{number}".encode()) >> 1
                spoken = speaker.speak(own, drawn, seed)
                if settings.strict:
                    _check_all(own, spoken)
                rows = [_record(*each, journal.folder) for each in zip(own, spoken, strict=True)]
                journal.append(number, {"texts": rows})
                bar.update()
        return _finish(texts, batches, speaker, journal, out, job)


def _record(text: Text, spoken: Spoken | str, folder: Path) -> dict[str, Any]:
    """As the journal has it; writes the audio that is kept."""
    if isinstance(spoken, str):
        logger.warning("left out %s (%s): %s", text, text.where, spoken)
        return {"skipped": spoken}
    if spoken.waveform is not None:
        _write_audio(folder / _audio_name(text), spoken.waveform)
    return {"units": [each.tolist() for each in spoken.sentences], "words": spoken.words}


def _audio_name(text: Text) -> str:
    return f"audio/{text.language}/{xxhash.xxh3_128_hexdigest(text.key.encode())}.flac"


def _write_audio(path: Path, waveform: np.ndarray) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        soundfile.write(file, waveform, SAMPLE_RATE, format="FLAC")
        file.flush()
        sync(file.fileno())
    commit(temporary, path)


def _list_audio(texts: Sequence[Text], corpus: Corpus, rate: Fraction) -> Iterator[dict[str, Any]]:
    """Lines of a manifest of recordings: sentences follow each other without a gap."""
    for text in texts:
        sentences = corpus.document(text.language, corpus.find(text.language, text.key))
        ends = np.cumsum([sentence.size for sentence in sentences])
        times = [float(end / rate) for end in (0, *ends.tolist())]
        row = {"path": _audio_name(text), "key": text.key, "lang": text.language}
        yield row | {"sentences": [*map(list, pairwise(times))]}


def _check_all(texts: Sequence[Text], spoken: Sequence[Spoken | str]) -> None:
    for text, each in zip(texts, spoken, strict=True):
        if isinstance(each, str):
            raise ValueError(f"{text.where}: {text}: {each} (--strict)")


def _describe_job(
    texts: Sequence[Text],
    speaker: Speaker,
    voices: Sequence[Path],
    settings: SpeakSettings,
    variant: str,
) -> dict[str, Any]:
    told, heard = xxhash.xxh3_64(), xxhash.xxh3_64()
    for text in texts:
        told.update(repr((text.key, text.language, text.sentences)).encode())
    for voice in voices:
        heard.update(voice.name.encode() + voice.read_bytes())
    return {
        "format": "tresse-speak-job",
        "version": 1,
        "texts": told.hexdigest(),
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


def _finish(
    texts: Sequence[Text],
    batches: Sequence[Sequence[int]],
    speaker: Speaker,
    journal: Journal,
    out: Path,
    job: dict[str, Any],
) -> Corpus | None:
    """Write the corpus, if all batches are there and no other rank is at it."""
    journal.refresh()
    if missing := len(batches) - len(journal.finished):
        print(f"done; {missing} of {len(batches)} batches are others'")
        return None
    with journal.alone() as mine:
        if not mine or (out.exists() and any(out.iterdir())):
            print("done; another rank writes the corpus")
            return None
        staged = journal.folder / "corpus"
        for left in journal.folder.glob("corpus*"):
            shutil.rmtree(left)
        skipped: list[dict[str, str]] = []
        documents = _documents(texts, batches, journal, skipped)
        corpus = write_corpus(staged, documents, speaker.identity)
        if job["settings"]["keep_audio"]:
            silent = {(row["key"], row["lang"]) for row in skipped}
            heard = [text for text in texts if (text.key, text.language) not in silent]
            rows = list(_list_audio(heard, corpus, Fraction(speaker.identity.frame_rate)))
            for row in rows:
                (staged / row["path"]).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(journal.folder / row["path"], staged / row["path"])
            _write_text(staged / RECORDINGS, "".join(f"{json.dumps(row)}\n" for row in rows))
        _write_text(staged / SKIPPED, "".join(f"{json.dumps(row)}\n" for row in skipped))
        _write_text(staged / PREPARED, json.dumps({"job": job}, indent=1) + "\n")
        commit(staged, out)
        journal.remove()
    return Corpus.open(out)


def _documents(
    texts: Sequence[Text],
    batches: Sequence[Sequence[int]],
    journal: Journal,
    skipped: list[dict[str, str]],
) -> Iterator[Document]:
    """Documents in the order of the texts, a window of batches at a time."""
    for start in range(0, len(batches), BATCHES_PER_WINDOW):
        numbers = range(start, min(start + BATCHES_PER_WINDOW, len(batches)))
        rows = {
            i: row
            for number, result in zip(numbers, journal.results(numbers), strict=True)
            for i, row in zip(batches[number], result["texts"], strict=True)
        }
        for i, row in sorted(rows.items()):
            text = texts[i]
            if "skipped" in row:
                identity = {"key": text.key, "lang": text.language, "where": text.where}
                skipped.append(identity | {"reason": row["skipped"]})
            else:
                yield Document(text.key, text.language, row["units"], row["words"], text.where)
    if len(skipped) == len(texts):
        raise ValueError(f"no text was spoken to its end, the first: {skipped[0]['reason']}")


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        sync(file.fileno())
