"""Reads the manifest, our import format: JSON lines, each a document in one language.

    {"key": "0001/v07", "lang": "fr", "sentences": [[12, 907], [3, 3, 41]], "words": [[0], [0, 2]]}

Lines of different languages with the same key are translations of each other, sentence by sentence.
`words` is optional: offsets of the tokens where the words of each sentence start. `documents.pack`
checks units and offsets later; its messages name the line by `Document.where`. `prompt_sentences`
is optional too: the number of first sentences that a model has continued with the others. It is
checked and then ignored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tresse.data.left_out import LeftOut
from tresse.data.lines import check_fields, check_files
from tresse.data.naming import check_language
from tresse.data.store.documents import Document

REQUIRED, OPTIONAL = ("key", "lang", "sentences"), ("words", "prompt_sentences")


def read_manifest(
    paths: Sequence[str | Path], left_out: LeftOut | None = None
) -> Iterator[Document]:
    """Yield the documents of one or more files, a line at a time; empty lines are skipped.

    ValueError names file and line, or `left_out` gets it: not UTF-8, not JSON, or a field is
    missing, unknown or of the wrong type.
    """
    files = check_files(paths, "manifest")
    for where, document in (left_out or LeftOut()).parsed_lines(files, _document):
        yield replace(document, where=where)


def _document(record: dict[str, Any]) -> Document:
    check_fields(record, REQUIRED, OPTIONAL)
    for name in ("key", "lang"):
        if not isinstance(record[name], str):
            raise ValueError(f"{name} is {record[name]!r}, expected text")
    for name in ("sentences", "words"):
        if name in record and not _is_lists(record[name]):
            raise ValueError(f"{name} is not a list of lists")
    given, most = record.get("prompt_sentences", 0), len(record["sentences"])
    if type(given) is not int or not 0 <= given <= most:
        raise ValueError(f"prompt_sentences is {given!r}, expected an integer from 0 to {most}")
    language = check_language(record["lang"])
    return Document(record["key"], language, record["sentences"], record.get("words"))


def _is_lists(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(inner, list) for inner in value)
