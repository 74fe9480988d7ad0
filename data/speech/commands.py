"""The commands of `data/prepare.py` that write and speak texts."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import tyro

from tresse.data.left_out import LeftOut
from tresse.data.processes import device, rank
from tresse.data.speech.pico import PicoSettings, speak_all
from tresse.data.speech.speak_settings import DsmSettings, SpeakSettings
from tresse.data.speech.voices import list_voices
from tresse.data.store.corpus import Corpus
from tresse.data.texts.texts import read_texts
from tresse.data.worlds.stories import StorySizes, write_stories

Texts = Annotated[tuple[Path, ...], tyro.conf.Positional]
SIZES = StorySizes()
PICO = PicoSettings()
DSM = DsmSettings()
SPEAK = SpeakSettings()


def prepare_stories(*, out: Path, sizes: tyro.conf.OmitArgPrefixes[StorySizes] = SIZES) -> None:
    """Write short stories in English and French, to be spoken by `pico`.

    Args:
        out: Folder for the texts train.jsonl, valid.jsonl and cloze.jsonl (docs/format.md).
            It also gets items.jsonl, the questions that a model is scored by.
        sizes: Numbers of stories, and their length.
    """
    write_stories(out, sizes)
    print(f"wrote {out}")


def speak_by_pico(
    texts: Texts, /, *, out: Path, settings: tyro.conf.OmitArgPrefixes[PicoSettings] = PICO
) -> None:
    """Speak texts with SVOX Pico as recordings (English, French, German, Spanish, Italian).

    If it is stopped or killed, the same command resumes it; {out}.parts keeps the finished work.

    Args:
        texts: Lists of texts, JSON lines (docs/format.md).
        out: Folder for FLAC files and recordings.jsonl, which lists them for `audio`.
            It must not exist, or be empty.
        settings: Voice and work of Pico.
    """
    if missing := [name for name in ("soundfile", "ttspico") if find_spec(name) is None]:
        raise ValueError(f"pico needs {', '.join(missing)}: pip install 'tresse[audio,pico]'")
    left_out = LeftOut(settings.on_fault)
    number = speak_all(read_texts(texts, left_out), out, settings, left_out)
    print(f"wrote {out}: {number} recordings\n{left_out.describe(number, out)}")


def speak_units(
    texts: Texts,
    /,
    *,
    out: Path,
    voices: Path,
    chosen: Path | None = None,
    model: tyro.conf.OmitArgPrefixes[DsmSettings] = DSM,
    settings: tyro.conf.OmitArgPrefixes[SpeakSettings] = SPEAK,
) -> Corpus | None:
    """Speak texts with Kyutai's TTS as a corpus of Mimi's units; with torchrun, on many GPUs.

    If it is stopped or killed, the same command resumes it, on any number of processes.
    {out}.parts keeps the finished work.

    Args:
        texts: Lists of texts, JSON lines (docs/format.md).
        out: Folder of the corpus; it must not exist, or be empty.
        voices: Voice embedding (.safetensors, as in kyutai/tts-voices), or a folder of them.
            A document has one voice in all languages, drawn by its key.
        chosen: File that `choose-voices` wrote, with the voices to draw from.
            By default all voices are used.
        model: The TTS model and its sampling.
        settings: Rules and speed of the work.
    """
    left_out = LeftOut(settings.on_fault, shows=rank() == 0)
    read, found = read_texts(texts, left_out), list_voices(voices, chosen)
    from tresse.data.speech.dsm import load_speaker
    from tresse.data.speech.speak import speak

    speaker = load_speaker(model, device(), keep_audio=settings.keep_audio)
    return speak(read, speaker, found, out, settings, model.variant, left_out.faults)


def choose_voices(
    folder: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Path,
    min_similarity: float = 0.9,
    embedder: str = "resemblyzer",
) -> None:
    """Choose the voices that sound the same in several languages, for `speak --chosen`.

    Args:
        folder: Folder with a subfolder for each voice.
            Each has a recordings.jsonl with the same sentences in two or more languages.
        out: File to write the chosen names and all scores to, JSON. It must not exist.
        min_similarity: Lowest score of a chosen voice, at most 1.
            A score is the mean cosine of speaker embeddings of a sentence and its translation.
        embedder: Model of the speaker embeddings: resemblyzer, or your own module:function.
    """
    if missing := [name for name in ("soundfile", "soxr") if find_spec(name) is None]:
        raise ValueError(f"choose-voices needs {', '.join(missing)}: pip install 'tresse[audio]'")
    from tresse.data.speech.choose_voices import choose_voices, format_scores
    from tresse.data.speech.embedders import load_embedder

    scores = choose_voices(folder, load_embedder(embedder, device()), min_similarity, out)
    print(f"{format_scores(scores, min_similarity)}\n\nwrote {out}")


COMMANDS = {
    "stories": prepare_stories,
    "pico": speak_by_pico,
    "speak": speak_units,
    "choose-voices": choose_voices,
}
