"""Recordings of an evaluation set by language and name, on disk or in a corpus.

The name of a recording is its path in the folder of the set without its ending: `0_7c3e_correct`.
Its key in a corpus is TASK/NAME, so that sets with equal names can share a corpus.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import File, Span
from tresse.data.naming import check_language, normal_key
from tresse.data.store.cloze import Item
from tresse.data.store.corpus import Corpus

SUFFIXES = (".wav", ".flac")

Names = Mapping[str, str]
"""Recordings of one language: the name of each, and its place for messages."""
Reader = Callable[[str, Mapping[str, Names]], list[Item]]
"""Function that returns the items of a task, given its names by language.
ValueError gives the place of a wrong name."""


def list_folder(folder: Path) -> dict[str, str]:
    """Return the audio files in a folder, or else in its subfolders, by name.

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
    names: dict[str, str] = {}
    for path in files or deeper:
        name = normal_key(path.relative_to(folder).with_suffix("").as_posix())
        if name in names:
            raise ValueError(f"{path}: {names[name]} has the same name")
        names[name] = str(path)
    if not names:
        raise ValueError(f"{folder}: no audio in it ({', '.join(SUFFIXES)})")
    return names


def list_languages(folder: Path) -> dict[str, dict[str, str]]:
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


def recordings(task: str, listed: Mapping[str, Names]) -> list[Recording]:
    """Return the recordings of a set of files, each a document of one sentence."""
    return [
        Recording(key(task, name), language, (Span(File(path)),), path)
        for language, names in listed.items()
        for name, path in names.items()
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
