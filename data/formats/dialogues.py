"""Conversations of CSLM (https://github.com/ictnlp/CSLM): JSON lines of prompts and responses.

    {"prompt": "Answer in speech. This is input: <sosp><12><907><eosp>.",
     "response": "Yes, <sosp><5><33><eosp> of course. <sosp><8><eosp>"}
    {"prompt": ["Hello!", "And you?"], "response": ["How are you?", "Fine."]}

Units stand between `<sosp>` and `<eosp>`, all else is text. Lists have a string for each exchange.
The prompts of a conversation are a document in a language such as `en-prompt`, the responses one in
`en-response`, both with a sentence for each exchange; tokens are units and text, mixed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tresse.data.left_out import LeftOut
from tresse.data.store.documents import Document
from tresse.data.store.text_tokenizer import tokenise_text
from tresse.data.store.tokenizer import Tokenizer

FIELDS = PROMPT, RESPONSE = "prompt", "response"
UNITS = re.compile(r"(<sosp>|<eosp>)")
UNIT = re.compile(r"<([0-9]+)>")


@dataclass(frozen=True, kw_only=True)
class Wrapping:
    """The text around prompts, responses and units; special tokens of the tokenizer are known."""

    before_prompt: str = ""
    """Stands before each prompt, such as Llama's header of the user."""
    after_prompt: str = ""
    """Stands after each prompt, such as Llama's header of the assistant."""
    after_response: str = ""
    """Stands after each response, and is learned with it, such as `<|eot_id|>`."""
    before_units: str = "<sosp>"
    """Stands before units."""
    after_units: str = "<eosp>"
    """Stands after units."""


def read_dialogues(
    files: list[Path],
    language: str,
    tokenizer: Tokenizer,
    text: Any,
    wrapping: Wrapping,
    left_out: LeftOut,
) -> Iterator[Document]:
    """Yield the prompts of each conversation, and its responses.

    tokenizer: units and text, mixed; text: the `tokenizers.Tokenizer` of the text. The key is the
    record's own, or the names of folder and file and the number of the line. `left_out` gets a
    record that cannot be used.
    """
    for where, (key, conversation) in left_out.parsed_lines(files, _conversation):
        try:
            documents = [
                Document(key or _key(where), f"{language}-{name}", sentences, where=where)
                for name, sentences in _encode(conversation, tokenizer, text, wrapping)
            ]
        except ValueError as error:
            left_out.add(where, str(error), key, language)
            continue
        yield from documents


def _key(where: str) -> str:
    """Return the key of a record without one: `a/chats.jsonl:12` gives `a/chats/12`."""
    path, _, line = where.rpartition(":")
    name = Path(path).name
    for ending in (".gz", ".jsonl", ".json"):
        name = name.removesuffix(ending)
    return f"{Path(path).absolute().parent.name}/{name}/{line}"


def _conversation(record: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """Return the key of a record, which may be empty, and its exchanges."""
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise ValueError(f"no field {missing[0]!r}; expected {PROMPT!r} and {RESPONSE!r}")
    key = record.get("key", record.get("id", ""))
    key = str(key) if type(key) is int else key
    if not isinstance(key, str):
        raise ValueError(f"key is {key!r}, expected a string")
    sides = [_texts(name, record[name]) for name in FIELDS]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"{len(sides[0])} prompts and {len(sides[1])} responses; expected as many")
    return key, list(zip(*sides, strict=True))


def _texts(name: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise ValueError(f"{name} is {value!r}, expected a string or a list of strings")
    if not all(text.strip() for text in texts):
        raise ValueError(f"{name} has an empty string")
    return texts


def _encode(
    conversation: list[tuple[str, str]], tokenizer: Tokenizer, text: Any, wrapping: Wrapping
) -> Iterator[tuple[str, list[list[int]]]]:
    prompts, responses = zip(*conversation, strict=True)
    whole = [wrapping.before_prompt + prompt + wrapping.after_prompt for prompt in prompts]
    yield PROMPT, [_ids(each, tokenizer, text, wrapping) for each in whole]
    whole = [response + wrapping.after_response for response in responses]
    yield RESPONSE, [_ids(each, tokenizer, text, wrapping) for each in whole]


def _ids(side: str, tokenizer: Tokenizer, text: Any, wrapping: Wrapping) -> list[int]:
    """Return the tokens of a prompt or a response."""
    ids: list[int] = []
    written = ""
    for piece, is_units in _pieces(side):
        if not is_units:
            written += piece
            continue
        ids += _text_ids(written + wrapping.before_units, tokenizer, text)
        ids += _unit_ids(piece, tokenizer.parts[0])
        written = wrapping.after_units
    return ids + _text_ids(written, tokenizer, text)


def _pieces(side: str) -> Iterator[tuple[str, bool]]:
    """Yield stretches of text and of units, with True for units; ValueError for unpaired tags."""
    opened = False
    for piece in UNITS.split(side):
        if piece in ("<sosp>", "<eosp>"):
            if opened == (piece == "<sosp>"):
                raise ValueError(f"{piece} without its pair; expected <sosp><12><907>...<eosp>")
            opened = not opened
        elif opened or piece:
            yield piece, opened
    if opened:
        raise ValueError("<sosp> without its pair; expected <sosp><12><907>...<eosp>")


def _unit_ids(piece: str, speech: Tokenizer) -> list[int]:
    if not piece.strip() or UNIT.sub("", piece).strip():
        raise ValueError(f"{piece[:60]!r} between <sosp> and <eosp>, expected units <0><907>...")
    units = [int(digits) for digits in UNIT.findall(piece)]
    if max(units) >= speech.vocab_size:
        raise ValueError(
            f"unit {max(units)}, outside the vocabulary 0 to {speech.vocab_size - 1} (--vocab-size)"
        )
    return units


def _text_ids(written: str, tokenizer: Tokenizer, text: Any) -> list[int]:
    if UNIT.search(written):
        raise ValueError(f"units outside of <sosp> and <eosp>: {written[:60]!r}")
    return [tokenizer.first_text + i for i in tokenise_text(text, written).ids] if written else []
