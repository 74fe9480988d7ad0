"""Checkpoints of transformers with a text tokenizer, for runs of text beside speech."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from tests.support.families import (
    LLAMA,
    UNITS,
    finished_state,
    hugging_face_model,
    write_stage,
)
from tresse.data.packing.settings import Packing, Stream, Template
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.text_tokenizer import identify_text_tokenizer
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.model import Transformer
from tresse.engine.run.config import ModelConfig
from tresse.engine.run.recipes import recognition, synthesis

TURNS_PACKING = Packing(
    row_length=96, separators="eos", language_switch=True, tags=("<asr>", "<tts>")
)
TURNS = Stream(
    languages=("en-answer-text", "en-answer"),
    given=("en-text",),
    mode="alternate",
    language_order="fixed",
    unit="words",
    words=(2, 2),
    templates=(Template(language="en-text", before="a cat "),),
)
TEXTS = ["the old cat saw the red sun", "a red cat sat on the old mat", "the sun sat on a cat"]


def write_bpe_tokenizer(path: Path, special: str = "<|end|>") -> None:
    """Write a small tokenizer.json of the kind that Llama 3 and Qwen have: a BPE of bytes."""
    tokenizer = Tokenizers(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(vocab_size=280, special_tokens=[special], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(path))


def write_text_model(
    folder: Path, config: ModelConfig, num_more_rows: int = 0
) -> tuple[Any, Tokenizer]:
    """Write a random model with its tokenizer; return it and the name of its tokenizer.

    num_more_rows: rows of the embedding that no token has.
    """
    folder.mkdir(exist_ok=True)
    write_bpe_tokenizer(folder / "tokenizer.json")
    tokenizer = identify_text_tokenizer(folder / "tokenizer.json")
    torch.manual_seed(3)
    num_rows = tokenizer.vocab_size + num_more_rows
    model = hugging_face_model(config, num_rows, initializer_range=0.1)
    model.save_pretrained(folder)
    return model.eval(), tokenizer


def write_turns_stage(run: Path) -> Path:
    """Write a random model as a stage that was trained on recognition, synthesis, and answers.

    Questions are in `en-text`; answers take turns of two words of text and their units.
    """
    run.mkdir()
    write_bpe_tokenizer(run / "tokenizer.json")
    text = identify_text_tokenizer(run / "tokenizer.json")
    languages = {"en": UNITS, "en-answer": UNITS, "en-text": text, "en-answer-text": text}
    vocabulary = Vocabulary.of([UNITS, text], TURNS_PACKING)
    model = Transformer(LLAMA, vocabulary.width, vocabulary.num_used)
    model.init_weights(seed=1)
    state = finished_state(LLAMA, TURNS_PACKING, vocabulary, languages)
    streams = (TURNS, recognition("en"), synthesis("en"), Stream(languages=("en",)))
    stages = (replace(state.config.stages[0], streams=streams),)
    return write_stage(run, model, replace(state, config=replace(state.config, stages=stages)))
