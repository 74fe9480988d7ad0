"""Prompts: documents, or the first sentences of documents, that a model continues.

They come from manifests of units, from a corpus, or from sound, by the tokenizer that made the
model's training corpus.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tresse.data.audio.recordings import Recording, read_recordings
from tresse.data.audio.sources import File, Span
from tresse.data.lines import parse_record, read_lines
from tresse.data.naming import normal_key
from tresse.data.store.corpus import Corpus
from tresse.data.store.documents import Document, pack
from tresse.data.store.index import FILE
from tresse.data.store.manifest import read_manifest
from tresse.data.store.text_tokenizer import FILE as TEXT_TOKENIZER
from tresse.data.store.text_tokenizer import load_text_tokenizer, tokenise_text
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.checkpoint.checkpoint import Checkpoint
from tresse.engine.generation.sounds import SoundSettings, encode, open_tokenizer, speech_of
from tresse.engine.unit_tokenizer import find_tokenizer

T = TypeVar("T", Document, Recording)
JSON_LINES, TABLES = (".jsonl", ".jsonl.gz"), (".csv",)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSettings:
    """The prompts."""

    prompt: tuple[Path, ...] = ()
    """Documents to continue: manifests of units, folders of corpora, manifests of recordings, or
    audio files (docs/generate.md)."""
    text: tuple[str, ...] = ()
    """Texts to continue, if the model has text; --lang names their language."""
    lang: tuple[str, ...] = ()
    """Languages of the prompts to continue, by default all. For audio files and --text, theirs."""
    to: str = ""
    """Language that comes after the prompts, as in a stream of the training: with it speech is
    recognised, text spoken or translated, a question answered. By default documents go on."""
    keys: tuple[str, ...] = ()
    """Keys of the documents to continue, by default all."""
    sentences: int = 0
    """Number of first sentences of each document that are the prompt; 0: all."""
    limit: int = 0
    """Largest number of prompts in a language, the first ones; 0: all."""

    def __post_init__(self) -> None:
        for name in ("sentences", "limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected 0 or more")
        if not (self.prompt or self.text):
            raise ValueError("no prompts; give --prompt FILES or --text TEXT")
        if self.text and len(self.lang) != 1:
            raise ValueError("--text: --lang must name the language of the texts")
        if self.keys and self.limit:
            raise ValueError("--limit takes the first documents, --keys names them; give one flag")


def read_prompts(
    settings: PromptSettings, sound: SoundSettings, checkpoint: Checkpoint, text: Any = None
) -> list[Document]:
    """Return the prompts in the order of the files.

    text: the `tokenizers.Tokenizer` of the model's texts (`load_text`); None without text.
    ValueError names the place: a file that cannot be read, a unit outside the vocabulary, a
    language that the model was not trained on, a document that is there twice; or a language or a
    key of the settings that no document has.
    """
    found: dict[tuple[str, str], Document] = {}
    for document in _chosen(_documents(settings, sound, checkpoint, text), settings):
        prompt = _checked(document, settings.sentences, checkpoint)
        former = found.setdefault((prompt.language, prompt.key), prompt)
        if former is not prompt:
            raise ValueError(
                f"{prompt.where}: document {prompt.key!r} ({prompt.language}) is in "
                f"{former.where} too; name each prompt once"
            )
    prompts = list(found.values())
    _check_found(prompts, settings)
    return prompts


def _documents(
    settings: PromptSettings, sound: SoundSettings, checkpoint: Checkpoint, tokenizer: Any
) -> Iterator[Document]:
    """Yield all documents of the files and folders, and the texts."""
    yield from _of_texts(settings, checkpoint, tokenizer)
    recordings: list[Recording] = []
    for path in settings.prompt:
        if (path / FILE).exists():
            corpus = Corpus.open(path)
            checkpoint.check_tokenizers(corpus)
            yield from _of_corpus(corpus, settings, checkpoint.state.tokenizers)
        elif _lists_units(path):
            yield from read_manifest([path])
        else:
            recordings += _recordings(path, settings)
    if recordings:
        chosen = list(_chosen(recordings, settings))
        yield from encode(chosen, open_tokenizer(sound, speech_of(checkpoint.state.vocabulary)))


def _of_texts(
    settings: PromptSettings, checkpoint: Checkpoint, tokenizer: Any
) -> Iterator[Document]:
    if not settings.text:
        return
    language, tokenizers = settings.lang[0], checkpoint.state.tokenizers
    if language not in tokenizers or not tokenizers[language].is_text:
        known = [name for name, tokenizer in tokenizers.items() if tokenizer.is_text]
        raise ValueError(
            f"--text: {language!r} is no language of text that {checkpoint.path} was trained on; "
            f"it has {', '.join(known) or 'none'}"
        )
    for number, text in enumerate(settings.text, 1):
        try:
            ids = tokenise_text(tokenizer, text).ids
        except ValueError as error:
            raise ValueError(f"--text: {error}") from None
        tokens = np.add(ids, tokenizers[language].first_text)
        yield Document(f"text-{number}", language, [tokens], where=f"--text {text!r}")


def load_text(checkpoint: Checkpoint) -> Any:
    """Load the `tokenizers.Tokenizer` of a model's texts; None for a model without text."""
    if checkpoint.state.order == "text-first":  # exported: with units added to the text's own
        return load_text_tokenizer(checkpoint.path / TEXT_TOKENIZER)
    found = find_tokenizer(checkpoint.path, checkpoint.state.vocabulary)
    return found and load_text_tokenizer(found)


def _lists_units(path: Path) -> bool:
    """Return whether a file is a manifest of units: its first record has no path."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file, nor the folder of a corpus")
    if not path.name.endswith(JSON_LINES):
        return False
    for where, line in read_lines([path], shows=False):
        if line.strip():
            try:
                return "path" not in parse_record(line)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
    raise ValueError(f"{path}: empty; expected a document in each line")


def _recordings(path: Path, settings: PromptSettings) -> list[Recording]:
    """Return the recordings of a manifest, or an audio file as a document of one sentence."""
    if path.name.endswith((*JSON_LINES, *TABLES)):
        return read_recordings([path])
    if len(settings.lang) != 1:
        raise ValueError(f"{path}: --lang must name the language of audio files")
    key = normal_key(path.stem)
    return [Recording(key, settings.lang[0], (Span(File(str(path))),), str(path))]


def _of_corpus(
    corpus: Corpus, settings: PromptSettings, known: Mapping[str, Tokenizer]
) -> Iterator[Document]:
    for language in corpus.languages:
        if settings.lang and language not in settings.lang:
            continue
        tokenizer = corpus.tokenizer(language)
        if known.get(language, tokenizer) != tokenizer:
            raise ValueError(
                f"{corpus.path}: {language} has tokens of {tokenizer}; in training it had those of "
                f"{known[language]}"
            )
        numbers: Iterable[int] = range(corpus.num_documents(language))
        if settings.keys:
            numbers = list(_numbers(corpus, language, settings.keys))
        elif settings.limit:
            numbers = numbers[: settings.limit]
        for number in numbers:
            key = corpus.key(language, number)
            where = f"{corpus.path}, {language}/{key}"
            yield Document(key, language, corpus.document(language, number), where=where)


def _numbers(corpus: Corpus, language: str, keys: Iterable[str]) -> Iterator[int]:
    for key in keys:
        with suppress(ValueError):  # another language may have it
            yield corpus.find(language, key)


def _chosen(documents: Iterable[T], settings: PromptSettings) -> Iterator[T]:
    """Yield the documents or recordings that the settings choose."""
    keys = {normal_key(key) for key in settings.keys}
    counts: Counter[str] = Counter()
    for document in documents:
        if settings.lang and document.language not in settings.lang:
            continue
        if keys and normal_key(document.key) not in keys:
            continue
        counts[document.language] += 1
        if not settings.limit or counts[document.language] <= settings.limit:
            yield document


def _checked(document: Document, num_sentences: int, checkpoint: Checkpoint) -> Document:
    """Return the prompt of a document, its sentences as arrays; ValueError names its place."""
    sentences = document.sentences[: num_sentences or None]
    tokenizers = checkpoint.state.tokenizers
    if document.language not in tokenizers:
        raise ValueError(
            f"{document.where}: language {document.language!r}; {checkpoint.path} was trained on "
            f"{', '.join(sorted(tokenizers))}"
        )
    try:
        packed = pack(sentences, None, tokenizers[document.language])
    except ValueError as error:
        raise ValueError(f"{document.where}: {error}") from None
    cuts = np.cumsum(packed.sentence_lengths.astype(np.int64))[:-1]
    key = normal_key(document.key)
    return replace(document, key=key, sentences=np.split(packed.tokens, cuts), words=None)


def _check_found(prompts: list[Document], settings: PromptSettings) -> None:
    """Raise ValueError for a language or a key that no prompt has, or for no prompts."""
    files = ", ".join(map(str, settings.prompt))
    languages, keys = {p.language for p in prompts}, {p.key for p in prompts}
    for language in settings.lang:
        if language not in languages:
            raise ValueError(f"--lang {language}: no document in this language in {files}")
    for key in settings.keys:
        if normal_key(key) not in keys:
            raise ValueError(f"--keys {json.dumps(key)}: no document with this key in {files}")
    if not prompts:
        raise ValueError(f"no documents in {files}")
