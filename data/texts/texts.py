"""Texts: documents in one language that a voice will speak, and the manifest that lists them.

JSON lines, one document per line:

    {"key": "0001", "lang": "fr", "sentences": ["Le loup va à la ferme.", "Puis il nourrit ..."]}

Texts of different languages with the same key are translations of each other, sentence by sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tresse.data.left_out import LeftOut
from tresse.data.lines import check_files
from tresse.data.naming import check_language, normal_key
from tresse.data.store.translations import check_translations

FIELDS = ("key", "lang", "sentences")


@dataclass(frozen=True, slots=True)
class Text:
    """One document in one language; texts that share a key are translations of each other."""

    key: str
    language: str
    sentences: tuple[str, ...]
    """At least one."""
    where: str = ""
    """Place in the manifest, for messages: "train.jsonl:12"."""

    def __str__(self) -> str:
        return f"{self.language}/{self.key}"


def read_texts(paths: Sequence[str | Path], left_out: LeftOut | None = None) -> list[Text]:
    """Return the texts of one or more manifests, in order.

    ValueError names file and line, or `left_out` gets it: not JSON, fields missing, unknown or of
    another type, a sentence that cannot be spoken. ValueError for a key that occurs twice in a
    language, and for translations with different numbers of sentences.
    """
    lines = (left_out or LeftOut()).parsed_lines(check_files(paths, "text"), _parse)
    texts = [replace(text, where=where) for where, text in lines]
    if not texts:
        raise ValueError("no texts")
    check_translations(texts)
    return texts


def _parse(record: dict[str, Any]) -> Text:
    if set(record) != set(FIELDS):
        raise ValueError(f"found the fields {sorted(record)}, expected {sorted(FIELDS)}")
    key, sentences = record["key"], record["sentences"]
    if not isinstance(key, str) or not key:
        raise ValueError(f"key is {key!r}, expected text")
    if not isinstance(sentences, list) or not sentences:
        raise ValueError(f"sentences is {sentences!r}, expected a list of texts")
    for number, sentence in enumerate(sentences):
        if not isinstance(sentence, str) or not any(map(str.isalnum, sentence)):
            raise ValueError(f"sentence {number} is {sentence!r}, expected words")
        if not sentence.isprintable():  # a zero byte crashes Pico
            raise ValueError(f"sentence {number} is {sentence!r}: it has a control character")
    return Text(normal_key(key), check_language(record["lang"]), tuple(sentences))
