"""The commands of `data/prepare.py` that turn stories into texts."""

from pathlib import Path
from typing import Annotated

import tyro

from tresse.data.left_out import LeftOut, OnFault
from tresse.data.naming import check_language
from tresse.data.processes import rank
from tresse.data.texts.cloze_texts import TEXTS, write_cloze_texts
from tresse.data.texts.splits import SplitSettings, split_texts
from tresse.data.texts.story_files import read_stories
from tresse.data.texts.text_tokens import train_tokenizer
from tresse.data.texts.translation_checks import CheckSettings
from tresse.data.texts.translator_settings import TranslatorSettings
from tresse.data.texts.translators import load_translator

Stories = Annotated[tuple[Path, ...], tyro.conf.Positional]
SPLIT = SplitSettings()
TRANSLATOR = TranslatorSettings()
CHECKS = CheckSettings()


def split(
    stories: Stories,
    /,
    *,
    out: Path,
    lang: str = "",
    settings: tyro.conf.OmitArgPrefixes[SplitSettings] = SPLIT,
    on_fault: OnFault = "skip",
) -> None:
    """Divide stories into train, valid and eval by their keys, and write them as texts.

    All languages of a key are in the same part. Stories that are one string are split into
    sentences.

    Args:
        stories: JSON lines, TinyStories' text files, Parquet or StoryCloze's CSV (docs/format.md).
        out: Folder for train.jsonl, valid.jsonl and eval.jsonl; it must not exist, or be empty.
        lang: Language of stories that do not name their own, such as "en".
        settings: Shares of the parts.
        on_fault: What to do at a story that cannot be used, or is there already: `stop` or `skip`.
            OUT/skipped.jsonl lists those that are left out.
    """
    left_out = LeftOut(on_fault)
    counts = split_texts(read_stories(stories, lang, left_out), out, settings, left_out)
    found = ", ".join(f"{number:,} texts in {part}.jsonl" for part, number in counts.items())
    print(f"wrote {out}: {found}\n{left_out.describe(sum(counts.values()), out)}")


def translate(
    stories: Stories,
    /,
    *,
    source: Annotated[str, tyro.conf.arg(name="from")],
    target: Annotated[str, tyro.conf.arg(name="to")],
    out: Path,
    translator: tyro.conf.OmitArgPrefixes[TranslatorSettings] = TRANSLATOR,
    checks: tyro.conf.OmitArgPrefixes[CheckSettings] = CHECKS,
    on_fault: OnFault = "skip",
) -> None:
    """Translate stories sentence by sentence; with torchrun, on many GPUs.

    If it is stopped or killed, the same command resumes it, on any number of processes.
    {out}.parts keeps the finished work.

    Args:
        stories: JSON lines, TinyStories' text files, Parquet or StoryCloze's CSV (docs/format.md).
        source: Language of the stories, such as "en".
        target: Language of the translations, such as "fr".
        out: Folder for FROM.jsonl, the stories, and TO.jsonl, their translations.
            It must not exist, or be empty.
        translator: The translator.
        checks: What a translation may be.
        on_fault: What to do at a story or translation that cannot be used: `stop` or `skip`.
            OUT/skipped.jsonl lists those that are left out.
    """
    from tresse.data.texts.translate import translate as translate_texts

    if check_language(source) == check_language(target):
        raise ValueError(f"--from and --to are both {source}, expected two languages")
    if out.suffix == ".jsonl":
        raise ValueError(f"--out {out} would be a folder; expected a name without an ending")
    left_out = LeftOut(on_fault, shows=rank() == 0)
    texts = list(read_stories(stories, source, left_out))
    for text in texts:
        if text.language != source:
            raise ValueError(f"{text.where}: {text} is not in {source}, the language --from")
    model = load_translator(translator, source, target)
    print(translate_texts(texts, target, model, out, checks, on_fault, left_out.faults))


def prepare_cloze_texts(
    stories: Stories,
    /,
    *,
    out: Path,
    lang: str = "",
    seed: int = 0,
    on_fault: OnFault = "skip",
) -> None:
    """Write the texts of the spoken StoryCloze (sSC) and TopicCloze (sTC), to be spoken.

    Args:
        stories: StoryCloze's CSV, or what `translate` made of it, in all languages.
        out: Folder for texts.jsonl; it must not exist, or be empty.
            When its units are in a corpus, `eval-items cloze sSC sTC` writes the questions.
        lang: Language of the CSV, such as "en".
        seed: Seed of the draw of the wrong endings of TopicCloze.
        on_fault: What to do at a story that cannot be used, or is not in all languages: `stop` or
            `skip`. OUT/skipped.jsonl lists those that are left out.
    """
    left_out = LeftOut(on_fault)
    texts = list(read_stories(stories, lang, left_out))
    number, languages = write_cloze_texts(texts, out, seed, left_out)
    print(f"wrote {out / TEXTS}: {number:,} stories of sSC and sTC in {', '.join(languages)}")
    print(left_out.describe(number, out))


def text_tokenizer(
    stories: Stories, /, *, out: Path, size: int = 8192, lang: str = "", on_fault: OnFault = "stop"
) -> None:
    """Train a tokenizer of text: a BPE of bytes.

    Args:
        stories: JSON lines, TinyStories' text files, Parquet or StoryCloze's CSV (docs/format.md).
        out: File for the tokenizer.json; it must not exist.
        size: Largest number of tokens, more than 256.
        lang: Language of stories that do not name their own, such as "en".
        on_fault: What to do at a story that cannot be used, or is there already: `stop` or `skip`.
    """
    texts = list(read_stories(stories, lang, LeftOut(on_fault)))
    print(f"wrote {out}: {train_tokenizer(texts, out, size):,} tokens of {len(texts):,} texts")


COMMANDS = {
    "split": split,
    "translate": translate,
    "cloze-texts": prepare_cloze_texts,
    "text-tokenizer": text_tokenizer,
}
