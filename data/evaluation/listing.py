"""What an evaluation set holds: recordings by language and name, on disk or in a corpus.

The name of a recording is its path in the set's folder without the ending, `0_7c3e_correct`. Its
key in a corpus is TASK/NAME, so that sets whose files are called the same can share a corpus.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from tresse.data.audio.recordings import File, Recording, Span
from tresse.data.naming import check_language
from tresse.data.store.cloze import Item
from tresse.data.store.corpus import Corpus

SUFFIXES = (".wav", ".flac")

Names = Mapping[str, str]
"""Names of recordings, and where each is, for messages."""
Reader = Callable[[str, Mapping[str, Names]], list[Item]]
"""Makes the items of a task of its names by language; ValueError says which name is wrong."""


def list_folder(folder: Path) -> dict[str, str]:
    """Audio files in a folder, or in the folders in it, by their names.

    Names that start with a dot are left out: archives made by macOS have one for every file.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = _audio(folder)
    deeper = list(chain.from_iterable(_audio(p) for p in sorted(folder.iterdir()) if p.is_dir()))
    if files and deeper:
        raise ValueError(
            f"{deeper[0]}: audio in a folder of {folder}, which has audio itself ({files[0].name}, "
            "...); one of the two is no part of the set"
        )
    names: dict[str, str] = {}
    for path in files or deeper:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in names:
            raise ValueError(f"{path}: {names[name]} has that name too")
        names[name] = str(path)
    if not names:
        raise ValueError(f"{folder}: no audio in it ({', '.join(SUFFIXES)})")
    return names


def list_languages(folder: Path) -> dict[str, dict[str, str]]:
    """Audio files of a set that has a folder per language, named like it."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if files := _audio(folder):
        raise ValueError(f"{files[0]}: expected a folder per language in {folder}, no audio")
    folders = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    if not folders:
        raise ValueError(f"{folder}: expected a folder per language in it, like {folder / 'en'}")
    for path in folders:
        if not _audio(path) and (deeper := [p.name for p in sorted(path.iterdir()) if p.is_dir()]):
            raise ValueError(
                f"{path}: expected the audio of a language in it, found the folders "
                f"{', '.join(deeper)}; if it is a set, name it instead of {folder}"
            )
    return {check_language(path.name): list_folder(path) for path in folders}


def list_corpus(corpus: Corpus, languages: Sequence[str], task: str) -> dict[str, dict[str, str]]:
    """Documents of a task, those with keys TASK/..., in a corpus."""
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
    """Key of a recording."""
    return f"{task}/{name}"


def recordings(task: str, listed: Mapping[str, Names]) -> list[Recording]:
    """The recordings of a set of files, each a document of one sentence."""
    return [
        Recording(key(task, name), language, (Span(File(path)),), path)
        for language, names in listed.items()
        for name, path in names.items()
    ]


def _audio(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
