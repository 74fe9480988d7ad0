"""Checkpoints of transformers with a text tokenizer, for runs of text beside speech."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from tests.support.families import hugging_face_model
from tresse.data.store.text_tokenizer import identify_text_tokenizer
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.run.config import ModelConfig

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
