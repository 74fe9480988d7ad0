"""Files beside an export's weights, so that transformers and vLLM generate without hand work.

tokenizer.json writes unit 12 as `<Un12>`, as SlamKit does, and begins a text with the token that
begins a document in training, if there is one. generation_config.json samples as SlamKit does.
"""

import json
from pathlib import Path

from tresse.data.durable import write_text
from tresse.data.packing.settings import Packing
from tresse.data.packing.vocabulary import Vocabulary
from tresse.engine.run.typed_json import Record

TEMPERATURE, TOP_K = 0.8, 25


def write_tokenizer(folder: Path, vocabulary: Vocabulary, packing: Packing) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json."""
    files = {
        "tokenizer.json": _tokenizer(vocabulary, packing),
        "tokenizer_config.json": _tokenizer_config(vocabulary, packing),
        "generation_config.json": _generation_config(vocabulary, packing),
    }
    for name, content in files.items():
        write_text(folder / name, json.dumps(content, indent=2) + "\n")


def _specials(vocabulary: Vocabulary) -> dict[str, int]:
    if not vocabulary.has_specials:
        return {}
    return {"<eos>": vocabulary.eos, "<bos>": vocabulary.bos, "<switch>": vocabulary.switch}


def _name(vocabulary: Vocabulary, token: int | None) -> str | None:
    """Return the text of a special token."""
    return next((name for name, i in _specials(vocabulary).items() if i == token), None)


def _tokenizer(vocabulary: Vocabulary, packing: Packing) -> Record:
    """Return a tokenizer of the tokenizers package: a word for each id, and an error for others."""
    specials = _specials(vocabulary)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    units = {f"<Un{i}>": i for i in range(vocabulary.num_tokens)}
    split = {"pattern": {"Regex": "<[^<>]*>"}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, **flags, "special": True} for name, i in specials.items()
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
