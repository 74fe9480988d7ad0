"""Translation models of transformers at a size for tests, which have learned a few sentences."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    NllbTokenizer,
)

ENGLISH = ["The cat sat.", "A dog ran to the sea.", "Look!", "She gave him a big red ball."]
FRENCH = [
    "Le chat est assis.",
    "Un chien courut vers la mer.",
    "Regarde !",
    "Elle a un ballon.",
]
GERMAN = ["Die Katze sitzt.", "Ein Hund lief zum Meer.", "Schau!", "Sie gab ihm einen Ball."]
POSITIONS = 40
MAX_STEPS = 500
SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "dropout": 0.0,
    "max_position_embeddings": POSITIONS,
}


def write_marian(folder: Path, languages: Iterable[str] = ()) -> Path:
    """Write a Marian model of English to French, or of several languages like ">>fra<<"."""
    folder.mkdir()
    for side in ("source", "target"):
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter([*ENGLISH, *FRENCH, *GERMAN]),
            model_prefix=str(folder / side),
            vocab_size=120,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "source.spm"))
    codes = [f">>{each}<<" for each in languages]
    names = ["</s>", "<unk>", *codes, *(pieces.IdToPiece(i) for i in range(pieces.GetPieceSize()))]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys([*names, "<pad>"]))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    files: list[Any] = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    tokenizer = MarianTokenizer(*files)
    tokenizer.save_pretrained(folder)
    pad = vocabulary["<pad>"]
    ids: dict[str, Any] = {"pad_token_id": pad, "eos_token_id": 0, "decoder_start_token_id": pad}
    torch.manual_seed(0)
    model = MarianMTModel(MarianConfig(vocab_size=len(vocabulary), **SIZES, **ids))
    sources = [f"{code} {each}" for code in codes for each in ENGLISH] or ENGLISH
    examples = tokenizer(
        sources, text_target=[*FRENCH, *GERMAN][: len(sources)], padding=True, return_tensors="pt"
    )
    learn(model, examples, pad)
    _write(model, folder, ids)
    return folder


def write_nllb(folder: Path) -> Path:
    """Write an NLLB model of eng_Latn to fra_Latn and deu_Latn."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        [*ENGLISH, *FRENCH, *GERMAN],
        trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False),
    )
    state = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(pair) for pair in state["merges"]]
    tokenizer = NllbTokenizer(
        vocab=state["vocab"],
        merges=merges,
        extra_special_tokens=["eng_Latn", "fra_Latn", "deu_Latn"],
    )
    tokenizer.save_pretrained(folder)
    ids: dict[str, Any] = {
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "bos_token_id": 0,
    }
    torch.manual_seed(0)
    model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=len(tokenizer), **SIZES, **ids))
    tokenizer.src_lang = "eng_Latn"
    examples = tokenizer(ENGLISH * 2, padding=True, return_tensors="pt")
    labels: list[list[int]] = []
    for code, sentences in (("fra_Latn", FRENCH), ("deu_Latn", GERMAN)):
        tokenizer.src_lang = code  # labels begin with their own language
        labels += tokenizer(sentences)["input_ids"]
    longest = max(map(len, labels))
    padded = torch.tensor([each + [1] * (longest - len(each)) for each in labels])
    start = torch.full((len(labels), 1), ids["decoder_start_token_id"])
    examples["decoder_input_ids"] = torch.cat([start, padded[:, :-1]], dim=1)
    padded[:, 0] = 1  # the language is given, not predicted
    examples["labels"] = padded
    learn(model, examples, 1)
    _write(model, folder, ids)
    return folder


def learn(model: Any, examples: Any, pad: int) -> None:
    """Train a model until it says its examples by heart."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    examples["labels"] = examples["labels"].masked_fill(examples["labels"] == pad, -100)
    for _ in range(MAX_STEPS):
        optimizer.zero_grad()
        loss = model(**examples).loss
        if loss < 0.01:
            return
        loss.backward()
        optimizer.step()
    raise AssertionError("the model does not learn")


def _write(model: Any, folder: Path, ids: dict[str, Any]) -> None:
    model.generation_config = GenerationConfig(num_beams=2, max_length=POSITIONS, **ids)
    model.save_pretrained(folder)
