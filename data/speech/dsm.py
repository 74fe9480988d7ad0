"""Speech of Kyutai's TTS as Mimi's units, without audio in between.

The TTS (delayed streams modelling, Zeghidour et al. 2025, https://arxiv.org/abs/2509.08753) reads a
word at a time and generates Mimi's codes: a frame of all codebooks every 80 ms, `delay_steps`
after the text that it belongs to. Its first codebook gives the units that Mimi's encoder would find
in the audio. A word starts at the step in which the TTS reads it, so sentences need no aligner.
"""

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from tresse.data.speech.speak_settings import DsmSettings
from tresse.data.store.tensor_file import checksum_file
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.texts.texts import Text

if TYPE_CHECKING:
    from moshi.models.loaders import CheckpointInfo
    from moshi.models.tts import TTSModel, TTSResult

INSTALL = 'pip install "tresse[mimi]" && pip install --no-deps "moshi==0.2.13"'
FILES = ("moshi_name", "mimi_name", "tokenizer_name")
# moshi ends the sound of a text this many steps after the step that asked for one word too many.
LAST_STEPS = 2


class Spoken(NamedTuple):
    """A text as units."""

    sentences: list[np.ndarray]  # int64 [num_frames] each
    words: list[list[int]]  # offsets in each sentence at which its words start
    waveform: np.ndarray | None = None  # float32 [samples] of all frames; None when not kept


class DsmSpeaker:
    """A TTS model of moshi as a `Speaker`, which turns texts into units."""

    def __init__(
        self,
        model: "TTSModel",
        weights_hash: str,
        mimi_hash: str,
        guidance: float,
        *,
        keep_audio: bool = False,
    ) -> None:
        if not model.multi_speaker:
            raise ValueError(
                "the TTS model takes its voice from audio, expected one that takes voice embeddings"
            )
        self._model, self._keep_audio = model, keep_audio
        self._guidance: float | None = guidance
        if not model.valid_cfg_conditionings:
            self._guidance, model.cfg_coef = None, guidance
        elif guidance not in model.valid_cfg_conditionings:
            known = ", ".join(f"{each:g}" for each in sorted(model.valid_cfg_conditionings))
            raise ValueError(f"--guidance is {guidance:g}, expected one of {known} for this model")
        self.weights_hash = weights_hash
        self.identity = Tokenizer("mimi", mimi_hash, "25/2", model.lm.card)

    def speak(self, texts: Sequence[Text], voices: Sequence[Path], seed: int) -> list[Spoken | str]:
        """Speak a batch, each text in its voice; a text that failed has a reason in its place."""
        torch.manual_seed(seed)
        scripts = [" ".join(text.sentences) for text in texts]
        entries = [self._model.prepare_script([script], padding_between=1) for script in scripts]
        attributes = [
            self._model.make_condition_attributes([voice], self._guidance) for voice in voices
        ]
        result = self._model.generate(entries, attributes)
        units = first_codebook(result, self._model.delay_steps)
        sounds = self._decode(result) if self._keep_audio else None
        found: list[Spoken | str] = []
        for i, text in enumerate(texts):
            steps = [step for _, step in result.all_transcripts[i]]
            spoken = cut(units[i], steps, result.end_steps[i], self._count_words(text))
            if isinstance(spoken, Spoken) and sounds is not None:
                frame = sounds.shape[1] // units.shape[1]
                size = sum(sentence.size for sentence in spoken.sentences)
                sound = sounds[i, steps[0] * frame : (steps[0] + size) * frame]
                spoken = spoken._replace(waveform=sound)
            found.append(spoken)
        return found

    @torch.no_grad()
    def _decode(self, result: "TTSResult") -> np.ndarray:
        """Return the sound of all frames after the delay, float32 [B, samples]."""
        codes = torch.cat(result.frames[self._model.delay_steps :], dim=-1)[:, 1:]
        return self._model.mimi.decode(codes)[:, 0].clamp(-1, 1).float().cpu().numpy()

    def _count_words(self, text: Text) -> list[int]:
        """Return the model's number of words in each sentence; pauses (<break>) do not count."""
        scripts = [self._model.prepare_script([sentence]) for sentence in text.sentences]
        return [sum(bool(entry.tokens) for entry in entries) for entries in scripts]


def first_codebook(result: "TTSResult", delay_steps: int) -> np.ndarray:
    """Return int64 [B, T] from frames [B, 1 + codebooks, 1]; column i is the sound of step i."""
    frames = torch.cat([frame[:, 1] for frame in result.frames], dim=-1)
    return frames[:, delay_steps:].cpu().numpy()


def cut(
    units: np.ndarray, steps: Sequence[int], end_step: int | None, num_words: Sequence[int]
) -> Spoken | str:
    """Cut the units [T] of a text where its sentences start; a pause belongs to the one before it.

    steps: start of each word, in frames; num_words: number of words of each sentence. Units before
    the first word are dropped. Returns a reason instead when not all words were spoken.
    """
    if end_step is None or len(steps) != sum(num_words):
        return f"{len(steps)} of {sum(num_words)} words were spoken"
    if not all(num_words):
        return f"sentence {list(num_words).index(0)} has no word"
    bounds = [*steps, min(end_step + LAST_STEPS, units.size)]
    if any(a >= b for a, b in pairwise(bounds)):
        return f"words start at {list(steps)} of {units.size} frames"
    firsts = list(accumulate(num_words, initial=0))
    sentences, words = [], []
    for first, after in pairwise(firsts):
        sentences.append(units[bounds[first] : bounds[after]])
        words.append([step - bounds[first] for step in bounds[first:after]])
    return Spoken(sentences, words)


def load_speaker(settings: DsmSettings, device: str, *, keep_audio: bool = False) -> DsmSpeaker:
    """Load the model; ValueError when the package or a file is missing, or weights are pickled."""
    try:
        from moshi.models.loaders import CheckpointInfo
        from moshi.models.tts import TTSModel
    except ImportError as error:
        raise ValueError(f"speak needs the package moshi ({error}): {INSTALL}") from None
    if settings.tts_weights is None:
        try:
            checkpoint = CheckpointInfo.from_hf_repo(settings.tts_repo)
        except OSError as error:
            raise ValueError(
                f"{settings.tts_repo} is not on this machine and cannot be downloaded ({error}); "
                "name a folder of its files with --tts-weights"
            ) from None
    else:
        checkpoint = _find(settings.tts_weights)
    for path in (checkpoint.moshi_weights, checkpoint.mimi_weights):
        if Path(path).suffix != ".safetensors":
            raise ValueError(f"{path}: expected a .safetensors file, which runs no code")
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    model = TTSModel.from_checkpoint_info(
        checkpoint,
        device=device,
        dtype=dtype,
        n_q=settings.codebooks,
        temp=settings.temperature,
    )
    weights_hash = checksum_file(checkpoint.moshi_weights)
    mimi_hash = checksum_file(checkpoint.mimi_weights)
    return DsmSpeaker(model, weights_hash, mimi_hash, settings.guidance, keep_audio=keep_audio)


def _find(folder: Path) -> "CheckpointInfo":
    """Return the checkpoint in a folder."""
    from moshi.models.loaders import CheckpointInfo

    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(
            f"--tts-weights {folder}: no config.json in it; expected the folder of a moshi TTS"
        )
    names = json.loads(config.read_text(encoding="utf-8"))
    paths = []
    for field in FILES:
        if field not in names:
            raise ValueError(f"{config}: no {field}; expected the configuration of a moshi TTS")
        paths.append(folder / names[field])
        if not paths[-1].is_file():
            raise ValueError(f"{config} names {names[field]}, which is not in its folder")
    if "tts_config" not in names:
        raise ValueError(f"{config}: no tts_config; expected the configuration of a moshi TTS")
    moshi, mimi, tokenizer = paths
    return CheckpointInfo.from_hf_repo("", moshi, mimi, tokenizer, config)
