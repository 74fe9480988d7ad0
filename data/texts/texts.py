"""Texts: documents in one language that a voice will speak, and the manifest that lists them.

JSON lines, one document per line:

    {"key": "0001", "lang": "fr", "sentences": ["Le loup va à la ferme.", "Puis il nourrit ..."]}

Texts of different languages with the same key are translations of each other, sentence by sentence.
`"continues": true` says that a text goes on from another one, as an ending does from its prompt: as
tokens it then begins with the space between them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unicodedata import category

import xxhash

from tresse.data.durable import replaced_file
from tresse.data.left_out import LeftOut
from tresse.data.lines import check_fields, check_files
from tresse.data.naming import check_language, normal_key
from tresse.data.store.translations import check_translations

REQUIRED = ("key", "lang", "sentences")
OPTIONAL = ("continues",)


@dataclass(frozen=True, slots=True)
class Text:
    """One document in one language; texts that share a key are translations of each other."""

    key: str
    language: str
    sentences: tuple[str, ...]
    """At least one."""
    where: str = ""
    """Place in the manifest, for messages: "train.jsonl:12"."""
    continues: bool = False
    """True if it goes on from another text, such as an ending from its prompt."""

    def __str__(self) -> str:
        return f"{self.language}/{self.key}"


def read_texts(paths: Sequence[str | Path], left_out: LeftOut | None = None) -> list[Text]:
    """Return the texts of one or more manifests, in order.

    ValueError names file and line, or `left_out` gets it: not JSON, fields missing, unknown or of
    another type, a sentence that cannot be spoken. ValueError for a key that occurs twice in a
    language, and for translations with different numbers of sentences.
    """
    lines = (left_out or LeftOut()).parsed_lines(check_files(paths, "text"), parse_text)
    texts = [replace(text, where=where) for where, text in lines]
    if not texts:
        raise ValueError("no texts")
    check_translations(texts)
    return texts


def write_texts(path: Path, texts: Iterable[Text]) -> int:
    """Write a manifest whole or not at all, and return the number of texts in it."""
    with replaced_file(path) as file:
        return sum(1 for text in texts if file.write(encode_text(text)))


def encode_text(text: Text) -> bytes:
    """Return the line of a text in a manifest."""
    record = {"key": text.key, "lang": text.language, "sentences": text.sentences}
    record |= {"continues": True} if text.continues else {}
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def hash_texts(texts: Iterable[Text]) -> str:
    """Return a hash of the texts and their order, wherever they lie."""
    hasher = xxhash.xxh3_64()
    for text in texts:
        hasher.update(repr((text.key, text.language, text.sentences)).encode())
    return hasher.hexdigest()


def parse_text(record: dict[str, Any]) -> Text:
    """Return the text of a record of the manifest; ValueError for one that cannot be spoken."""
    check_fields(record, REQUIRED, OPTIONAL)
    key, sentences, continues = record["key"], record["sentences"], record.get("continues", False)
    if not isinstance(key, str) or not key:
        raise ValueError(f"key is {key!r}, expected text")
    if not isinstance(sentences, list) or not sentences:
        raise ValueError(f"sentences is {sentences!r}, expected a list of texts")
    if not isinstance(continues, bool):
        raise ValueError(f"continues is {continues!r}, expected true or false")
    check_sentences(sentences)
    language = check_language(record["lang"])
    return Text(normal_key(key), language, tuple(sentences), continues=continues)


def check_sentences(sentences: Sequence[Any]) -> None:
    """Raise ValueError for the first sentence that cannot be spoken."""
    for number, sentence in enumerate(sentences):
        if not isinstance(sentence, str) or not any(map(str.isalnum, sentence)):
            raise ValueError(f"sentence {number} is {sentence!r}, expected words")
        # A zero byte crashes Pico; French has spaces that no line may break at.
        if not all(sign.isprintable() or category(sign) == "Zs" for sign in sentence):
            raise ValueError(f"sentence {number} is {sentence!r}: it has a control character")
