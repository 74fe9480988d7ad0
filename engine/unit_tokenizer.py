"""Files beside an export's weights, so that transformers and vLLM generate without hand work.

tokenizer.json writes unit 12 as `<Un12>`, as SlamKit does, and begins a text with the token that
begins a document in training, if there is one. Where a model has text, it is the text's own
tokenizer, whose tokens keep their ids; units, special tokens and tags are added after them.
generation_config.json samples as SlamKit does.
"""

import json
from pathlib import Path

from tresse.data.durable import write_text
from tresse.data.packing.settings import Packing
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.tensor_file import checksum_file
from tresse.data.store.text_tokenizer import FILE as TEXT_TOKENIZER
from tresse.data.store.text_tokenizer import load_text_tokenizer
from tresse.engine.run.typed_json import Record

TEMPERATURE, TOP_K = 0.8, 25


FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
"""Flags of a token that stands for itself wherever it is written."""


def find_tokenizer(folder: Path, vocabulary: Vocabulary) -> Path | None:
    """Return the tokenizer.json of a model's texts, in the folder of its run; None without text.

    folder: of the run, or of a stage or a checkpoint in it. ValueError if it is not there.
    """
    if vocabulary.text is None:
        return None
    for place in (folder, *folder.absolute().parents[:2]):
        path = place / TEXT_TOKENIZER
        if path.exists() and checksum_file(path) == vocabulary.text.hash:
            return path
    raise ValueError(
        f"{folder}: no {TEXT_TOKENIZER} of {vocabulary.text} in the run's folder; put a copy there"
    )


def check_names(vocabulary: Vocabulary, text: Path) -> None:
    """Raise ValueError if the tokenizer of the texts has a token that an export adds to it.

    text: its tokenizer.json.
    """
    known = load_text_tokenizer(text).get_vocab(with_added_tokens=True)
    names = [name for _, name, _ in _added(vocabulary)]
    if taken := [name for name in names if name in known]:
        raise ValueError(
            f"{text}: has the tokens {', '.join(taken[:8])}, which an export gives to units and "
            "special tokens; rename them there, or the tags of the packing"
        )


def write_tokenizer(
    folder: Path, vocabulary: Vocabulary, packing: Packing, text: Path | None = None
) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json.

    text: tokenizer.json of the texts, if the model has text.
    """
    files = {
        "tokenizer.json": _joined_tokenizer(vocabulary, packing, text)
        if text
        else _tokenizer(vocabulary, packing),
        "tokenizer_config.json": _tokenizer_config(vocabulary, packing),
        "generation_config.json": _generation_config(vocabulary, packing),
    }
    for name, content in files.items():
        write_text(folder / name, json.dumps(content, indent=2) + "\n")


def _specials(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the ids of the special tokens and tags by name, the same in run and export."""
    return {name: vocabulary.num_tokens + i for i, name in enumerate(vocabulary.special_names)}


def _name(vocabulary: Vocabulary, token: int | None) -> str | None:
    """Return the text of a special token."""
    return next((name for name, i in _specials(vocabulary).items() if i == token), None)


def _tokenizer(vocabulary: Vocabulary, packing: Packing) -> Record:
    """Return a tokenizer of the tokenizers package: a word for each id, and an error for others.

    transformers 5 reads every tokenizer of a Qwen2 model as a BPE, of which only the added tokens
    are what they were: so units are added tokens too.
    """
    specials = _specials(vocabulary)
    units = {f"<Un{i}>": i for i in range(vocabulary.num_tokens)}
    split = {"pattern": {"Regex": "<[^<>]*>"}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, **FLAGS, "special": name in specials}
            for name, i in (units | specials).items()
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Split", **split}],
        },
        "post_processor": _template(vocabulary, packing),
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": units | specials, "unk_token": "<unknown>"},
    }


def _joined_tokenizer(vocabulary: Vocabulary, packing: Packing, text: Path) -> Record:
    """Return the tokenizer of the texts, with units, special tokens and tags added at its end."""
    check_names(vocabulary, text)
    content = json.loads(text.read_text(encoding="utf-8"))
    content["added_tokens"] = content.get("added_tokens", []) + [
        {"id": i, "content": name, **FLAGS, "special": special}
        for i, name, special in _added(vocabulary)
    ]
    return (
        content
        | {"truncation": None, "padding": None}
        | {"post_processor": _template(vocabulary, packing)}
    )


def _added(vocabulary: Vocabulary) -> list[tuple[int, str, bool]]:
    """Return id, name, and whether it is special, of each token after those of the texts."""
    first = vocabulary.text.vocab_size if vocabulary.text else 0
    units = vocabulary.speech.vocab_size if vocabulary.speech else 0
    found = [(first + i, f"<Un{i}>", False) for i in range(units)]
    return found + [(i, name, True) for name, i in _specials(vocabulary).items()]


def _template(vocabulary: Vocabulary, packing: Packing) -> Record | None:
    """Return the rule that puts the token before a document in front of a text."""
    first = vocabulary.specials(packing).before_document
    name = _name(vocabulary, first)
    if name is None:
        return None
    begin, text = (
        {"SpecialToken": {"id": name, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    )
    return {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {name: {"id": name, "ids": [first], "tokens": [name]}},
    }


def _tokenizer_config(vocabulary: Vocabulary, packing: Packing) -> Record:
    specials = vocabulary.specials(packing)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": packing.row_length,
        "clean_up_tokenization_spaces": False,
        "bos_token": _name(vocabulary, specials.before_document),
        "eos_token": _name(vocabulary, specials.eos),
    }


def _generation_config(vocabulary: Vocabulary, packing: Packing) -> Record:
    specials = vocabulary.specials(packing)
    return {
        "bos_token_id": specials.before_document,
        "eos_token_id": specials.eos,
        "pad_token_id": specials.eos,
        "do_sample": True,
        "temperature": TEMPERATURE,
        "top_k": TOP_K,
        "max_length": packing.row_length,
    }
