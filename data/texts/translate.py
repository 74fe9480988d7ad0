"""The job from texts to their translations: translate this rank's groups, then write all texts.

Every rank (RANK and WORLD_SIZE, which torchrun or a batch system sets) translates its share of the
groups. `jobs.py` keeps finished work in `{out}.parts`, and lets the rank that finds all groups
there write the output: a manifest of the source texts and one of the translations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tresse.data.interrupt import Interrupt
from tresse.data.jobs import Result, Results, find_output, run_job, write_report
from tresse.data.left_out import FILE, Fault, LeftOut, OnFault, write_faults
from tresse.data.processes import rank, world_size
from tresse.data.texts.texts import Text, hash_texts, write_texts
from tresse.data.texts.translation_checks import CheckSettings, TranslationCheck
from tresse.data.texts.translators import Translator

STORIES_PER_GROUP = 32


def translate(
    texts: Sequence[Text],
    target: str,
    translator: Translator,
    out: Path,
    checks: CheckSettings,
    on_fault: OnFault = "skip",
    faults: Sequence[Fault] = (),
) -> str:
    """Translate this rank's texts; the last rank to finish writes the folder `out`.

    texts: all in one language. faults: what was left out of them before.
    Returns a line that says what was written, or why this rank writes nothing. KeyboardInterrupt
    after a signal, when the current group is done. ValueError for a folder with something else in
    it, and with `on_fault` "stop" for the first translation that cannot be used.
    """
    if not texts:
        raise ValueError("no texts to translate")
    check, out = TranslationCheck(target, checks), out.resolve()
    job = _describe_job(texts, target, translator, checks)
    if report := find_output(out, job):
        return _describe(out, report)
    groups = [texts[i : i + STORIES_PER_GROUP] for i in range(0, len(texts), STORIES_PER_GROUP)]
    own, left_out = range(len(groups))[rank() :: world_size()], LeftOut(on_fault)

    def work(todo: Sequence[int], _: Interrupt) -> Results:
        total = sum(len(groups[i]) for i in own)
        done = total - sum(len(groups[i]) for i in todo)
        with tqdm(total=total, initial=done, unit="texts", desc="translate", disable=None) as bar:
            for number in todo:
                yield {"texts": _translate_group(groups[number], translator, check, left_out)}
                bar.update(len(groups[number]))

    def write(folder: Path, results: Iterator[Result]) -> None:
        folder.mkdir()
        skipped: list[Fault] = []
        found = _translated(texts, target, results, skipped)
        number = write_texts(folder / f"{target}.jsonl", found)
        if not number:
            raise ValueError(f"no translation can be used, the first: {skipped[0].reason}")
        write_texts(folder / f"{texts[0].language}.jsonl", texts)
        write_faults(folder, [*faults, *skipped])
        left = len(faults) + len(skipped)
        write_report(folder, job, {"translated": number, "left_out": left})

    reason = run_job(out, job, len(groups), own, work, write)
    return reason or _describe(out, find_output(out, job) or {})


def _describe(out: Path, report: dict[str, Any]) -> str:
    """Return the line for the end of the command."""
    line = f"wrote {out}: {report['translated']:,} translations"
    left = report["left_out"]
    return f"{line}, {left:,} records left out (why: {out / FILE})" if left else line


def _translate_group(
    texts: Sequence[Text], translator: Translator, check: TranslationCheck, left_out: LeftOut
) -> list[dict[str, Any]]:
    """Translate some texts and return the journal's record of each."""
    translations = translator.translate([text.sentences for text in texts])
    records = []
    for text, found in zip(texts, translations, strict=True):
        if not isinstance(found, str):
            found = [" ".join(sentence.split()) for sentence in found]
        fault = found if isinstance(found, str) else check.find_fault(text.sentences, found)
        if fault:
            left_out.add(text.where, f"{text}: {fault}")
        records.append({"skipped": fault} if fault else {"sentences": found})
    return records


def _translated(
    texts: Sequence[Text], target: str, results: Iterator[Result], skipped: list[Fault]
) -> Iterator[Text]:
    """Yield the translations in the order of the texts; fill `skipped`."""
    records = (record for result in results for record in result["texts"])
    for text, record in zip(texts, records, strict=True):
        if "skipped" in record:
            skipped.append(Fault(text.key, target, text.where, record["skipped"]))
        else:
            yield replace(text, language=target, sentences=tuple(record["sentences"]))


def _describe_job(
    texts: Sequence[Text], target: str, translator: Translator, checks: CheckSettings
) -> dict[str, Any]:
    return {
        "format": "tresse-translate-job",
        "version": 1,
        "texts": hash_texts(texts),
        "to": target,
        "translator": translator.identity,
        "ratio": [*checks.ratio],
    }
