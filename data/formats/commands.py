"""Commands of `prepare.py` that read units of other tools; their help comes from here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import tyro

from tresse.data.formats.dialogues import Wrapping, read_dialogues
from tresse.data.formats.interleaved import AlignedShard
from tresse.data.formats.parquet import Columns, read_columns
from tresse.data.formats.slamkit import read_slamkit
from tresse.data.formats.smoltolk import read_meta, read_smoltolk
from tresse.data.formats.textless import read_textless
from tresse.data.formats.utterances import Utterance, read_documents
from tresse.data.left_out import LeftOut, OnFault
from tresse.data.lines import check_files
from tresse.data.naming import Naming
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import merge_corpora, write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.text_tokenizer import (
    find_tokenizer_file,
    identify_text_tokenizer,
    load_text_tokenizer,
    word_starts,
)
from tresse.data.store.tokenizer import Tokenizer, mixed

Files = Annotated[tuple[Path, ...], tyro.conf.Positional]
Unprefixed = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class Output:
    """The corpus that a command writes."""

    out: Path
    """Folder of the corpus; it must not exist, or be empty."""
    skip_misaligned: bool = False
    """Leave out keys whose documents differ in their number of sentences.
    Without it such a key is an error."""
    on_fault: OnFault = "stop"
    """What to do at a record that cannot be used: `stop`, or `skip` it.
    OUT/skipped.jsonl lists those that are left out. A key that is there twice always stops."""

    def write(
        self,
        documents: Iterable[Document],
        tokenizer: Tokenizer,
        left_out: LeftOut,
        text_tokenizer: Path | None = None,
    ) -> Corpus:
        """Write the documents, and say how many were read and left out."""
        corpus = write_corpus(
            self.out,
            documents,
            tokenizer,
            text_tokenizer=text_tokenizer,
            skip_misaligned=self.skip_misaligned,
            left_out=left_out,
        )
        num_written = sum(corpus.num_documents(language) for language in corpus.languages)
        print(left_out.describe(num_written, corpus.path))
        return corpus


@dataclass(frozen=True, kw_only=True)
class TokenizerName:
    """The tokenizer of the units; only corpora of the same tokenizer can be merged."""

    tokenizer_name: str = "units"
    """Name of the tokenizer, such as "mhubert-25hz-dedup" where units are deduplicated.
    Corpora merge only when all tokenizer flags agree."""
    tokenizer_hash: str = ""
    """Hash of the tokenizer's weights; empty if unknown."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFlags(TokenizerName):
    """The tokenizer of the units, with its rate and vocabulary."""

    frame_rate: str = "25/2"
    """Units per second, before any deduplication, as a fraction: "25/2" is 12.5 Hz."""
    vocab_size: int = 2048
    """Number of different units; they are 0 to vocab_size - 1."""

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that the flags describe."""
        return Tokenizer(self.tokenizer_name, self.tokenizer_hash, self.frame_rate, self.vocab_size)


Written = Annotated[Output, Unprefixed]
Names = Annotated[Naming, Unprefixed]
TokenizerId = Annotated[TokenizerName, Unprefixed]
Units = Annotated[TokenizerFlags, Unprefixed]
BY_STEM = Naming()
NO_COLUMNS = Columns()
UNNAMED = TokenizerName()
ANY = TokenizerFlags()
WRAPPING = Wrapping()
MHUBERT = TokenizerFlags(tokenizer_name="mhubert-25hz", frame_rate="25", vocab_size=500)
HUBERT = TokenizerFlags(tokenizer_name="hubert-kmeans-100", frame_rate="50", vocab_size=100)


def prepare_slamkit(
    files: Files,
    /,
    *,
    output: Written,
    naming: Names = BY_STEM,
    tokenizer: Units = MHUBERT,
    expand: bool = False,
) -> Corpus:
    """Write SlamKit's features.jsonl or tokens.jsonl as a corpus.

    The tokenizer is SlamKit's own unless flags say otherwise.

    Args:
        files: JSON lines of `extract_features` or `prepare_tokens`, of any languages.
        output: The corpus.
        naming: Names.
        tokenizer: Tokenizer.
        expand: Undo the deduplication: repeat each unit for its duration. Needs features.jsonl.
    """
    left_out = LeftOut(output.on_fault)
    utterances = read_slamkit(files, left_out, expand_durations=expand)
    return _write(utterances, naming, tokenizer.tokenizer(), output, left_out)


def prepare_textless(
    files: Files,
    /,
    *,
    output: Written,
    naming: Names = BY_STEM,
    tokenizer: Units = HUBERT,
    separator: str = " ",
    expand: bool = False,
) -> Corpus:
    """Write textless' `.units` files (GSLM, TWIST) as a corpus.

    The tokenizer is the default of `transcribe.py` unless flags say otherwise. An utterance
    without a name is called FOLDER/FILE/LINE.

    Args:
        files: Files of `transcribe.py`: one line per audio file, with or without its name.
        output: The corpus.
        naming: Names.
        tokenizer: Tokenizer.
        separator: Text between two units.
        expand: Undo the deduplication: repeat each unit as the `.durations` file beside it says.
    """
    left_out = LeftOut(output.on_fault)
    utterances = read_textless(files, left_out, separator=separator, expand_durations=expand)
    return _write(utterances, naming, tokenizer.tokenizer(), output, left_out)


def prepare_smoltolk(
    files: Files,
    /,
    *,
    output: Written,
    naming: Names = BY_STEM,
    tokenizer: TokenizerId = UNNAMED,
    expand: bool = False,
    words: str = "",
) -> Corpus:
    """Write SmolTolk's `.bin` files as a corpus.

    Frame rate and vocabulary come from meta.pkl. Sample 7 is called DATASET/FEATURES/SPLIT/7.

    Args:
        files: `.bin` files. Each needs its `.len` file beside it and a meta.pkl in its folder.
        output: The corpus.
        naming: Names.
        tokenizer: Tokenizer.
        expand: Undo the deduplication: repeat each unit as the `.dur` file beside it says.
        words: Name of the folder of text beside the folder of the units, such as smollm.
            Keeps the words of each sample, whose times are in its `.wrds_tms` files.
    """
    if words and (naming.has_sentences or naming.split_long):
        raise ValueError(
            "--words needs a document of one sentence for each sample: leave out --split-long and "
            "the group `sentence` of --key-pattern"
        )
    meta = read_meta(files)
    identity = Tokenizer(
        tokenizer.tokenizer_name, tokenizer.tokenizer_hash, meta.frame_rate, meta.num_units
    )
    left_out = LeftOut(output.on_fault)
    utterances = read_smoltolk(files, meta, left_out, expand_durations=expand, words=words)
    return _write(utterances, naming, identity, output, left_out)


def prepare_columns(
    files: Files,
    /,
    *,
    output: Written,
    columns: Columns = NO_COLUMNS,
    naming: Names = BY_STEM,
    tokenizer: Units = ANY,
    split: str = "",
) -> Corpus:
    """Write columns of Parquet or Arrow files, or of Hugging Face datasets on disk, as a corpus.

    Args:
        files: Parquet files, Arrow files, or folders that `save_to_disk` wrote.
        output: The corpus.
        columns: Names of the columns to read.
        naming: Names.
        tokenizer: Tokenizer.
        split: Split to read, such as "train"; needed where a folder has several.
    """
    if columns.lang and naming.has_languages:
        raise ValueError("--columns.lang is given, and --lang or a group `lang` too; give one")
    left_out = LeftOut(output.on_fault)
    utterances = read_columns(files, columns, split, left_out)
    return _write(utterances, naming, tokenizer.tokenizer(), output, left_out)


def prepare_interleaved(
    shards: Files,
    /,
    *,
    output: Written,
    lang: str,
    text_tokenizer: Path | None = None,
    suffix: str = "-text",
    tokenizer: Units = MHUBERT,
) -> Corpus:
    """Write shards of interleaved_lm as a corpus of speech, and of its text where they have it.

    Both have the words of the text, so that streams can change between them by words.

    Args:
        shards: Folders of shards.
        output: The corpus.
        lang: Language of the speech, such as "en".
        text_tokenizer: The tokenizer.json that made the text, or a folder that holds it; needed
            for aligned shards.
        suffix: End of the name of the text's language: "-text" makes `en-text` of en.
        tokenizer: Tokenizer of the units.
    """
    opened = [AlignedShard.open(shard) for shard in shards]
    identity, left_out = tokenizer.tokenizer(), LeftOut(output.on_fault)
    if all(shard.tokens is None for shard in opened):
        samples = ((each.where, each) for shard in opened for each in shard.speech(lang))
        speech = (each for _, each in left_out.parsed(samples, lambda sample: sample))
        return output.write(speech, identity, left_out)
    if text_tokenizer is None or any(shard.tokens is None for shard in opened):
        raise ValueError(
            "aligned shards need --text-tokenizer, the tokenizer.json of their text, and are "
            "prepared apart from shards of units only"
        )
    if output.on_fault != "stop":
        raise ValueError("aligned shards are read whole or not at all: --on-fault stop")
    file = find_tokenizer_file(text_tokenizer)
    name, starts = identify_text_tokenizer(file), word_starts(load_text_tokenizer(file))
    speech = (each for shard in opened for each in shard.speech(lang, starts))
    texts = (each for shard in opened for each in shard.text(lang + suffix, starts))
    output.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.out.absolute().parent) as folder:
        parts = Path(folder, "speech"), Path(folder, "text")
        write_corpus(parts[0], speech, identity)
        write_corpus(parts[1], texts, name, text_tokenizer=file)
        return merge_corpora(parts, output.out)


def prepare_dialogues(
    files: Files,
    /,
    *,
    output: Written,
    lang: str,
    text_tokenizer: Path,
    wrapping: Annotated[Wrapping, Unprefixed] = WRAPPING,
    tokenizer: Units = ANY,
) -> Corpus:
    """Write CSLM's conversations of text and units as a corpus of prompts and responses.

    Args:
        files: JSON lines with `prompt` and `response` (docs/format.md).
        output: The corpus.
        lang: Beginning of the names of the two languages: "en" makes `en-prompt`, `en-response`.
        text_tokenizer: The tokenizer.json of the text, or a folder that holds one.
        wrapping: The text around prompts, responses and units.
        tokenizer: Tokenizer of the units.
    """
    file = find_tokenizer_file(text_tokenizer)
    identity = mixed(tokenizer.tokenizer(), identify_text_tokenizer(file))
    left_out, text = LeftOut(output.on_fault), load_text_tokenizer(file)
    checked = check_files(files, "conversation")
    documents = read_dialogues(checked, lang, identity, text, wrapping, left_out)
    return output.write(documents, identity, left_out, file)


def _write(
    utterances: Iterable[Utterance],
    naming: Naming,
    tokenizer: Tokenizer,
    output: Output,
    left_out: LeftOut,
) -> Corpus:
    spool = output.out.absolute().parent
    documents = read_documents(utterances, naming, tokenizer, spool, left_out)
    return output.write(documents, tokenizer, left_out)


COMMANDS = {
    "dialogues": prepare_dialogues,
    "slamkit": prepare_slamkit,
    "smoltolk": prepare_smoltolk,
    "textless": prepare_textless,
    "table": prepare_columns,
    "interleaved": prepare_interleaved,
}
