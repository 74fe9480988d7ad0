"""Exports a corpus as our manifest or as SlamKit's JSON lines; both can be read back."""

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tresse.data.durable import staged_file
from tresse.data.store.corpus import Corpus
from tresse.data.store.tokenizer import Tokenizer


def export_slamkit(corpus: Corpus, out: Path, languages: Sequence[str] = ()) -> None:
    """Write SlamKit's tokens.jsonl, with a line for each document, named LANGUAGE/KEY.

    SlamKit ignores the field `sentence_lengths`; `prepare slamkit` finds the sentences by it.
    ValueError for a key with a backslash, which would come back as a slash.
    """
    if _tokenizer(corpus, languages).is_text:
        raise ValueError(f"{corpus.path}: SlamKit's lines hold units, not text; use --format jsonl")

    def record(language: str, document: int) -> dict[str, Any]:
        key, sentences = corpus.key(language, document), corpus.document(language, document)
        if "\\" in key:
            raise ValueError(
                f"{corpus.path}: key {key!r} ({language}) has a backslash, which stands for a "
                "slash in names of files; use --format jsonl"
            )
        return {
            "file_name": f"{language}/{key}",
            "audio_repr": "".join(f"<Un{unit}>" for s in sentences for unit in s.tolist()),
            "sentence_lengths": [sentence.size for sentence in sentences],
        }

    _export(corpus, out, languages, record)


def export_manifest(corpus: Corpus, out: Path, languages: Sequence[str] = ()) -> None:
    """Write our manifest (docs/format.md), with words if the corpus has them."""

    def record(language: str, document: int) -> dict[str, Any]:
        words = corpus.words(language, document)
        return {
            "key": corpus.key(language, document),
            "lang": language,
            "sentences": [sentence.tolist() for sentence in corpus.document(language, document)],
            **({} if words is None else {"words": words}),
        }

    _export(corpus, out, languages, record)


EXPORTS = {"jsonl": export_manifest, "slamkit": export_slamkit}


def read_back(corpus: Corpus, out: Path, format: str, languages: Sequence[str] = ()) -> str:
    """Return what reading an exported file back gives, and below it the command that does so."""
    change = _find_change(corpus, format, languages)
    outcome = (
        f"; their corpus may have another id: {change}" if change else " to the same corpus id"
    )
    return f"to read its documents back{outcome}:\n{_command(corpus, out, format, languages)}"


def _find_change(corpus: Corpus, format: str, languages: Sequence[str]) -> str:
    """Describe the first reason for another id; an empty text means that the id stays."""
    if left_out := [name for name in corpus.languages if languages and name not in languages]:
        return f"{', '.join(left_out)} is left out"
    shards = [shard for own in corpus.shards.values() for shard in own]
    if format == "slamkit" and any(shard.word_lengths is not None for shard in shards):
        return "SlamKit's file does not hold its words"
    if len(shards) > len(corpus.languages):
        return "it has several shards of a language, as after a merge"
    return ""


def _command(corpus: Corpus, out: Path, format: str, languages: Sequence[str]) -> str:
    words = ["tresse", "prepare", "manifest" if format == "jsonl" else format, str(out)]
    if format == "slamkit":
        words += ["--key-pattern", "(?s)(?P<lang>[^/]+)/(?P<key>.*)"]
    tokenizer = _tokenizer(corpus, languages)
    words += ["--tokenizer-name", tokenizer.name, "--tokenizer-hash", tokenizer.hash]
    words += ["--frame-rate", tokenizer.frame_rate, "--vocab-size", str(tokenizer.vocab_size)]
    return shlex.join([*words, "--out", "CORPUS"])


def _tokenizer(corpus: Corpus, languages: Sequence[str]) -> Tokenizer:
    """Return the tokenizer of some languages; ValueError if they have several."""
    found: dict[Tokenizer, list[str]] = {}
    for name in languages or corpus.languages:
        found.setdefault(corpus.tokenizer(name), []).append(name)
    if len(found) > 1:
        flags = " and ".join(f"--lang {' '.join(names)}" for names in found.values())
        raise ValueError(
            f"{corpus.path}: a file holds tokens of one tokenizer; export speech and text apart, "
            f"{flags}"
        )
    return next(iter(found))


def _export(
    corpus: Corpus,
    out: Path,
    languages: Sequence[str],
    record: Callable[[str, int], dict[str, Any]],
) -> None:
    """Write a record for each document of some languages, by default of all languages."""
    chosen = list(dict.fromkeys(languages)) or list(corpus.languages)
    _tokenizer(corpus, chosen)
    total = sum(corpus.num_documents(language) for language in chosen)
    with (
        staged_file(out) as file,
        tqdm(total=total, unit="doc", desc="export", disable=None) as bar,
    ):
        for language in chosen:
            for document in range(corpus.num_documents(language)):
                line = json.dumps(record(language, document), ensure_ascii=False)
                file.write(line.encode() + b"\n")
                bar.update()
