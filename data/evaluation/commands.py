"""The commands of `data/prepare.py` that make corpora with questions to score a model by."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tresse.data.audio.commands import check_packages
from tresse.data.audio.job_settings import JobSettings
from tresse.data.audio.recordings import Recording
from tresse.data.audio.tokenizers import TokenizerSettings, load_tokenizer
from tresse.data.evaluation.listing import (
    Reader,
    list_corpus,
    list_folder,
    list_languages,
    recordings,
)
from tresse.data.evaluation.pairs import read_pairs, read_storycloze
from tresse.data.evaluation.triples import read_triples
from tresse.data.evaluation.zerospeech import read_gold
from tresse.data.naming import check_language
from tresse.data.store.cloze import ITEMS, Item, write_items
from tresse.data.store.corpus import Corpus

Kind = Literal["zerospeech", "storycloze", "pairs", "triples", "cloze"]
READERS: Mapping[Kind, Reader] = {
    "storycloze": read_storycloze,
    "pairs": read_pairs,
    "triples": read_triples,
    "cloze": read_triples,
}
DEFAULTS = JobSettings()
TASK = re.compile("([^/=]+)=")  # what stands before a "=" in a path has a "/"


@dataclass(frozen=True)
class Set:
    """A set as the command line names it."""

    task: str
    folder: Path
    read: Reader


def prepare_eval(
    kind: Annotated[Kind, tyro.conf.Positional],
    folders: Annotated[tuple[str, ...], tyro.conf.Positional],
    /,
    *,
    out: Path,
    tokenizer: tyro.conf.OmitArgPrefixes[TokenizerSettings],
    lang: str = "",
    job: tyro.conf.OmitArgPrefixes[JobSettings] = DEFAULTS,
) -> Corpus | None:
    """Turn recordings of an evaluation set into a corpus with the items.jsonl that is scored.

    A recording that cannot be used is an error (as with --strict). A run that was stopped goes on
    with the same command, and torchrun shares the work, as with `audio`.

    Args:
        kind: How the set is laid out (docs/format.md): ZeroSpeech's lexical and syntactic folders,
            TWIST's StoryCloze, SlamKit's pairs or triples, or triples in a folder per language.
        folders: FOLDER or TASK=FOLDER, a task each; by default it is called like its folder.
        out: Folder of the corpus; must not exist, or be empty.
        tokenizer: Which tokenizer; the one of the training corpus.
        lang: Language of the recordings; not for `cloze`, where folders say it.
        job: How it is used.
    """
    check_packages()
    from tresse.data.audio.tokenise import tokenise

    _check_language(kind, lang)
    found: list[Recording] = []
    items: list[Item] = []
    for each in _sets(kind, folders):
        listed = (
            list_languages(each.folder) if kind == "cloze" else {lang: list_folder(each.folder)}
        )
        items += each.read(each.task, listed)
        found += recordings(each.task, listed)
    settings = replace(job, strict=True)
    prepared = tokenise(found, load_tokenizer(tokenizer), out, settings, tokenizer.variant)
    print(prepared.report)
    if prepared.corpus is not None:
        _write(prepared.corpus, items)
    return None if prepared.found else prepared.corpus


def prepare_eval_items(
    kind: Annotated[Kind, tyro.conf.Positional],
    folders: Annotated[tuple[str, ...], tyro.conf.Positional],
    /,
    *,
    corpus: Path,
    lang: str = "",
) -> Corpus:
    """Write the items.jsonl of evaluation sets whose units are in a corpus already.

    Args:
        kind: How the set is laid out, as of `eval`.
        folders: TASK, whose documents have the keys TASK/NAME, where NAME is the path of the audio
            file in the set without its ending; for `zerospeech` FOLDER or TASK=FOLDER with the
            gold.csv.
        corpus: Folder of the corpus, of units that other commands made.
        lang: Language of the set; not for `cloze`, which is asked in all that have it.
    """
    _check_language(kind, lang)
    opened = Corpus.open(corpus)
    if (opened.path / ITEMS).exists():
        raise ValueError(f"{opened.path / ITEMS} exists; remove it, or choose another corpus")
    languages = (lang,) if lang else opened.languages
    items: list[Item] = []
    for each in _sets(kind, folders):
        items += each.read(each.task, list_corpus(opened, languages, each.task))
    _write(opened, items)
    return opened


def _check_language(kind: Kind, lang: str) -> None:
    if kind == "cloze" and lang:
        raise ValueError("--lang is not for cloze: every language has a folder of its name")
    if kind != "cloze":
        if not lang:
            raise ValueError(f"{kind} needs the language of its recordings, such as --lang en")
        check_language(lang)


def _sets(kind: Kind, folders: Sequence[str]) -> list[Set]:
    sets: dict[str, Set] = {}
    for argument in folders:
        name = TASK.match(argument)
        task = name[1] if name else ""
        folder = Path(argument[name.end() if name else 0 :]).resolve()
        if kind == "zerospeech":
            gold = read_gold(folder)
            one = Set(task or gold.task, folder, gold.read)
        else:
            one = Set(task or folder.name, folder, READERS[kind])
        if one.task in sets:
            raise ValueError(
                f"{folder} and {sets[one.task].folder} are both called {one.task}; name one by "
                "TASK=FOLDER"
            )
        sets[one.task] = one
    if not sets:
        raise ValueError("no folders")
    return list(sets.values())


def _write(corpus: Corpus, items: Sequence[Item]) -> None:
    write_items(corpus.path / ITEMS, items)
    counts: dict[str, int] = {}
    for item in items:
        name = f"{item.task} ({', '.join(item.languages)})"
        counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        print(f"{count:,} items of {name}")


COMMANDS = {"eval": prepare_eval, "eval-items": prepare_eval_items}
