"""Recordings of an evaluation set by language and name, on disk or in a corpus.

The name of a recording is its path in the folder of the set without its ending: `0_7c3e_correct`;
in tars of WebDataset it is the name of the sample. Its key in a corpus is TASK/NAME, so that sets
with equal names can share a corpus.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from tresse.data.audio.readers.webdataset import read_webdataset
from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import File, Source, Span
from tresse.data.left_out import LeftOut
from tresse.data.naming import check_language, normal_key
from tresse.data.store.cloze import Item
from tresse.data.store.corpus import Corpus

SUFFIXES = (".wav", ".flac", ".ogg")

Names = Mapping[str, object]
"""Recordings of one language: the name of each, and its place, whose `str` is for messages."""
Sounds = dict[str, Source]
"""Recordings of one language on disk, by name."""
Reader = Callable[[str, Mapping[str, Names]], list[Item]]
"""Function that returns the items of a task, given its names by language.
ValueError gives the place of a wrong name."""


def list_folder(folder: Path) -> Sounds:
    """Return the audio files in a folder, or else in its subfolders, or else in tars there.

    Names that start with a dot do not count: archives of macOS add one for every file.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = _audio(folder)
    deeper = list(chain.from_iterable(_audio(p) for p in sorted(folder.iterdir()) if p.is_dir()))
    if files and deeper:
        raise ValueError(
            f"{deeper[0]}: audio in a subfolder of {folder}, which has audio too ({files[0].name}, "
            "...); remove what does not belong to the set"
        )
    sounds: Sounds = {}
    for name, source in _name_files(folder, files or deeper) or _name_samples(folder):
        former = sounds.setdefault(normal_key(name), source)
        if former is not source:
            raise ValueError(f"{source}: {former} has the same name")
    if not sounds:
        raise ValueError(f"{folder}: no audio in it ({', '.join(SUFFIXES)})")
    return sounds


def _name_files(folder: Path, paths: Sequence[Path]) -> list[tuple[str, Source]]:
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in paths)
    return [(name, File(str(path))) for name, path in zip(names, paths, strict=True)]


def _name_samples(folder: Path) -> list[tuple[str, Source]]:
    """Return names and places of the samples in the tars of a folder or of its subfolders."""
    tars = sorted(folder.glob("*.tar")) or sorted(folder.glob("*/*.tar"))
    if not tars:
        return []
    return [(piece.key, piece.spans[0].source) for piece in read_webdataset(tars, LeftOut())]


def list_languages(folder: Path) -> dict[str, Sounds]:
    """Return the audio files of a set whose folders have the names of languages."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if files := _audio(folder):
        raise ValueError(f"{files[0]}: expected folders of languages in {folder}, found audio")
    folders = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    if not folders:
        raise ValueError(f"{folder}: expected a folder per language in it, like {folder / 'en'}")
    for path in folders:
        if not _audio(path) and (deeper := [p.name for p in sorted(path.iterdir()) if p.is_dir()]):
            raise ValueError(
                f"{path}: expected the audio of a language, found the folders "
                f"{', '.join(deeper)}; if it is a set, give it instead of {folder}"
            )
    return {check_language(path.name): list_folder(path) for path in folders}


def list_corpus(corpus: Corpus, languages: Sequence[str], task: str) -> dict[str, dict[str, str]]:
    """Return the documents of a task in a corpus: those with keys TASK/NAME."""
    listed: dict[str, dict[str, str]] = {}
    for language in languages:
        keys = (corpus.key(language, i) for i in range(corpus.num_documents(language)))
        own = {key.removeprefix(f"{task}/"): key for key in keys if key.startswith(f"{task}/")}
        listed[language] = {name: f"{corpus.path}, {language}: {own[name]}" for name in sorted(own)}
    listed = {language: names for language, names in listed.items() if names}
    if not listed:
        raise ValueError(
            f"{corpus.path}: no keys that start with {task}/ in {', '.join(languages)}"
        )
    return listed


def key(task: str, name: str) -> str:
    """Return the key of a recording."""
    return f"{task}/{name}"


def recordings(task: str, listed: Mapping[str, Sounds]) -> list[Recording]:
    """Return the recordings of a set on disk, each a document of one sentence."""
    return [
        Recording(key(task, name), language, (Span(source),), str(source))
        for language, sounds in listed.items()
        for name, source in sounds.items()
    ]


def pair_item(task: str, language: str, id_: str, correct: str, incorrect: str) -> Item:
    """Return the item that compares two whole recordings, given by name."""
    return Item(
        task=task,
        id=id_,
        prompt=None,
        correct=key(task, correct),
        incorrect=key(task, incorrect),
        languages=(language,),
    )


def _audio(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
