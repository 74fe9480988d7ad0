"""Sound on either side of generation: recordings become prompts, and units become sound."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from tqdm import tqdm

from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.recordings import Recording
from tresse.data.audio.tokenizers import AudioTokenizer, TokenizerSettings, load_tokenizer
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer

SOUND = JobSettings()
KNOWN = ("mimi", "kmeans")


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundSettings:
    """The tokenizer of the units, for prompts that are sound and for `--audio`."""

    audio: bool = False
    """Also write prompts with their continuations as sound, if the tokenizer can decode units."""
    kmeans: Path | None = None
    """File of units that `fit-kmeans` wrote, if the model was trained on k-means units."""
    mimi_weights: str = ""
    """Mimi's weights, if the model was trained on Mimi's units; the default downloads Kyutai's."""
    tokenizer: str = ""
    """Your own module:function, if the model was trained on its units."""


def speech_of(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer of a model's speech; ValueError if it has only text."""
    if vocabulary.speech is None:
        raise ValueError("the model has no units of speech: it was trained on text alone")
    return vocabulary.speech


class Decoder(Protocol):
    """A tokenizer that can turn units back into sound."""

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz."""
        ...

    def decode(self, units: np.ndarray) -> np.ndarray:
        """Return float32 [samples], full scale 1, for integers [num_frames]."""
        ...


def open_tokenizer(settings: SoundSettings, identity: Tokenizer) -> AudioTokenizer:
    """Load the tokenizer that made a model's units; ValueError if it is another one."""
    from tresse.data.audio.commands import check_packages

    check_packages()
    name = settings.tokenizer or identity.name
    if not settings.tokenizer and name not in KNOWN:
        raise ValueError(
            f"the model's units are those of {identity}; name their tokenizer: --tokenizer "
            "module:function"
        )
    loaded = load_tokenizer(
        TokenizerSettings(
            tokenizer=name, kmeans=settings.kmeans, mimi_weights=settings.mimi_weights
        )
    )
    if loaded.identity != identity:
        raise ValueError(
            f"the tokenizer is {loaded.identity}, but the model's units are those of {identity}"
        )
    return loaded


def open_decoder(settings: SoundSettings, identity: Tokenizer) -> Decoder:
    """Load the tokenizer to decode a model's units.

    ValueError if it cannot: Mimi's decoder needs codebooks that the model does not predict.
    """
    if identity.name == "mimi" and not settings.tokenizer:
        raise ValueError(
            "--audio: these are units of Mimi's first codebook, and Mimi's decoder needs the other "
            "ones too, which carry the voice and which this model does not predict; leave out "
            "--audio, or train on k-means units, which can be heard"
        )
    loaded: Any = open_tokenizer(settings, identity)
    if not hasattr(loaded, "decode"):
        raise ValueError(
            f"--audio: the tokenizer {identity.name} cannot decode units: it has no function "
            "`decode` from integers [num_frames] to float32 [samples]"
        )
    loaded.decode(np.zeros(1, np.int64))  # units of an old file cannot be heard: say so now
    return loaded


def encode(recordings: Sequence[Recording], tokenizer: AudioTokenizer) -> Iterator[Document]:
    """Yield the units of recordings, each sentence by itself; ValueError names a bad recording."""
    from tresse.data.audio.waveforms import check_sound, read_spans

    rate = tokenizer.sample_rate
    for recording in tqdm(recordings, desc="tokenise prompts", disable=None):
        waveforms = list(read_spans(recording.sentences, rate, SOUND.max_seconds))
        for span, waveform in zip(recording.sentences, waveforms, strict=True):
            check_sound(waveform, rate, span.source, SOUND.min_seconds, SOUND.silence_db)
        units = tokenizer.encode(waveforms)
        yield Document(recording.key, recording.language, units, where=recording.where)


def write_sound(folder: Path, document: Document, decoder: Decoder) -> None:
    """Write a document as a FLAC file, whose name `list_sound` gives."""
    from tresse.data.speech.spoken_files import write_flac

    units = np.concatenate([np.asarray(sentence, np.int64) for sentence in document.sentences])
    samples = np.clip(decoder.decode(units), -1, 1)
    write_flac(folder / _name(document), samples, decoder.sample_rate)


def list_sound(document: Document, frame_rate: Fraction) -> dict[str, Any]:
    """Return the record of a document's file in a manifest of recordings."""
    ends = np.cumsum([0, *map(len, document.sentences)]).tolist()
    times = [[float(a / frame_rate), float(b / frame_rate)] for a, b in pairwise(ends)]
    record = {"path": _name(document), "key": document.key, "lang": document.language}
    return record | {"sentences": times}


def _name(document: Document) -> str:
    """Return a name that any key can have."""
    return f"audio/{document.language}/{xxhash.xxh3_128_hexdigest(document.key.encode())}.flac"
