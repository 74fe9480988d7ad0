"""Commands of `prepare.py` that write corpora of questions that models are scored by."""

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
from tresse.data.evaluation.pair_tables import PairColumns, read_pair_tables
from tresse.data.evaluation.pairs import read_pairs, read_storycloze
from tresse.data.evaluation.salmon import SALMON_COLUMNS, find_parts, is_table, read_salmon
from tresse.data.evaluation.triples import drop_incomplete, read_triples
from tresse.data.evaluation.zerospeech import read_gold
from tresse.data.left_out import OnFault
from tresse.data.naming import check_language, normal_key
from tresse.data.store.cloze import ITEMS, Item, write_items
from tresse.data.store.corpus import Corpus

Kind = Literal["zerospeech", "storycloze", "pairs", "triples", "cloze", "salmon"]
AudioKind = Kind | Literal["table"]
READERS: Mapping[str, Reader] = {
    "storycloze": read_storycloze,
    "pairs": read_pairs,
    "triples": read_triples,
    "cloze": read_triples,
    "salmon": read_salmon,
}
DEFAULTS = JobSettings()
NO_COLUMNS = PairColumns()
TASK = re.compile("([^/=]+)=")  # no "/": a path may have a "=" after one


@dataclass(frozen=True)
class EvaluationSet:
    """A set that the command line names."""

    task: str
    folder: Path
    read: Reader | None
    """Function that returns the items; None for a table, whose lines are the items."""
    columns: PairColumns = NO_COLUMNS
    """Columns of a table, where the kind of the set knows them."""


def prepare_eval(
    kind: Annotated[AudioKind, tyro.conf.Positional],
    folders: Annotated[tuple[str, ...], tyro.conf.Positional],
    /,
    *,
    out: Path,
    tokenizer: tyro.conf.OmitArgPrefixes[TokenizerSettings],
    lang: str = "",
    columns: PairColumns = NO_COLUMNS,
    split: str = "",
    job: tyro.conf.OmitArgPrefixes[JobSettings] = DEFAULTS,
) -> Corpus | None:
    """Turn the recordings of evaluation sets into a corpus with an items.jsonl for scoring.

    As with `audio`, the same command resumes stopped work, and torchrun shares it among GPUs.
    A recording that cannot be used always stops it.

    Args:
        kind: Layout of the sets (docs/format.md).
            `zerospeech`: a lexical or syntactic folder with a gold.csv; tars may hold its audio.
            `storycloze`: TWIST's pairs of stories. `pairs`, `triples`: SlamKit's layouts.
            `cloze`: triples in a folder for each language. `salmon`: SALMon, or one of its parts.
            `table`: Parquet, Arrow or Hugging Face datasets with a pair of sounds in each line.
        folders: Sets, each as FOLDER or TASK=FOLDER. The default task is the folder's name.
            For `table` FOLDER may also be a file.
        out: Folder of the corpus; it must not exist, or be empty.
        tokenizer: Tokenizer of the units; it must be that of the training corpus.
        lang: Language of the recordings, such as "en".
            Leave it empty for `cloze`, where folders have the names of languages.
        columns: Names of the columns of tables.
        split: Split of tables to read, such as "train"; needed where a folder has several.
        job: Rules and speed of the work.
    """
    check_packages()
    from tresse.data.audio.tokenise import tokenise

    _check_language(kind, lang)
    if kind != "table" and (columns != NO_COLUMNS or split):
        raise ValueError(f"--columns and --split are for table, the kind is {kind}")
    found: list[Recording] = []
    items: list[Item] = []
    for each in _sets(kind, folders):
        if each.read is None:
            named = columns if columns != NO_COLUMNS else each.columns
            table = read_pair_tables(each.task, lang, each.folder, named, split)
            items += table.items
            found += table.recordings
            continue
        listed = (
            list_languages(each.folder) if kind == "cloze" else {lang: list_folder(each.folder)}
        )
        items += each.read(each.task, listed)
        found += recordings(each.task, listed)
    complete = replace(job, on_fault="stop")
    prepared = tokenise(found, load_tokenizer(tokenizer), out, complete, tokenizer.variant)
    print(prepared.report)
    if prepared.corpus is not None:
        write_items(prepared.corpus.path / ITEMS, items)
    return None if prepared.found else prepared.corpus


def prepare_eval_items(
    kind: Annotated[Kind, tyro.conf.Positional],
    folders: Annotated[tuple[str, ...], tyro.conf.Positional],
    /,
    *,
    corpus: Path,
    lang: str = "",
    on_fault: OnFault = "stop",
) -> Corpus:
    """Write the items.jsonl of evaluation sets whose units are already in a corpus.

    Args:
        kind: Layout of the sets, as for `eval`.
        folders: Tasks. The documents of TASK have the keys TASK/NAME.
            NAME is the path of the audio file within the set, without its ending.
            For `zerospeech` give FOLDER or TASK=FOLDER, where FOLDER has the gold.csv.
        corpus: Folder of the corpus with the units; items.jsonl is written into it.
        lang: Language of the sets, such as "en".
            Leave it empty for `cloze`: its items are asked in all languages of the task.
        on_fault: What to do at a story of `triples` or `cloze` that is not whole in all languages:
            `stop`, or `skip` it and name it. A text that was not spoken leaves such a story.
    """
    _check_language(kind, lang)
    if on_fault == "skip" and kind not in ("triples", "cloze"):
        raise ValueError(f"--on-fault skip is for triples and cloze, the kind is {kind}")
    opened = Corpus.open(corpus)
    if (opened.path / ITEMS).exists():
        raise ValueError(f"{opened.path / ITEMS} exists; remove it, or choose another corpus")
    languages = (lang,) if lang else opened.languages
    items: list[Item] = []
    for each in _sets(kind, folders):
        assert each.read is not None
        listed = list_corpus(opened, languages, each.task)
        items += each.read(each.task, drop_incomplete(listed) if on_fault == "skip" else listed)
    write_items(opened.path / ITEMS, items)
    return opened


def _check_language(kind: AudioKind, lang: str) -> None:
    if kind == "cloze" and lang:
        raise ValueError("--lang is not for cloze: its folders have the names of languages")
    if kind != "cloze":
        if not lang:
            raise ValueError(f"{kind} needs the language of its recordings, such as --lang en")
        check_language(lang)


def _sets(kind: AudioKind, folders: Sequence[str]) -> list[EvaluationSet]:
    """Return the sets that the command line names, each with its task."""
    sets: dict[str, EvaluationSet] = {}
    for argument in folders:
        name = TASK.match(argument)
        folder = Path(argument[name.end() if name else 0 :]).absolute()  # a link keeps its name
        task = normal_key(name[1]) if name else ""  # keys begin with it
        for one in _read_argument(kind, task, folder):
            if one.task in sets:
                raise ValueError(
                    f"{one.folder} and {sets[one.task].folder} are both called {one.task}; give "
                    "one a name by TASK=FOLDER"
                )
            sets[one.task] = one
    if not sets:
        raise ValueError("no folders: name at least one set, as FOLDER or TASK=FOLDER")
    return list(sets.values())


def _read_argument(kind: AudioKind, task: str, folder: Path) -> list[EvaluationSet]:
    """Return the sets of one argument: several for SALMon, whose parts are tasks of their own."""
    if kind == "zerospeech":
        gold = read_gold(folder)
        return [EvaluationSet(task or gold.task, folder, gold.read)]
    if kind == "salmon" and folder.is_dir():
        parts = find_parts(folder, task)
        return [
            EvaluationSet(name, part, None if is_table(part) else read_salmon, SALMON_COLUMNS)
            for name, part in parts.items()
        ]
    own = folder.stem if kind == "table" and folder.is_file() else folder.name
    return [EvaluationSet(task or normal_key(own), folder, READERS.get(kind))]


COMMANDS = {"eval": prepare_eval, "eval-items": prepare_eval_items}
