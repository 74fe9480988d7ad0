"""The commands of `prepare.py` that read other tools' units; their help comes from here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tresse.data.formats.parquet import Columns, read_table
from tresse.data.formats.slamkit import read_slamkit
from tresse.data.formats.smoltolk import read_meta, read_smoltolk
from tresse.data.formats.textless import read_textless
from tresse.data.formats.utterances import Utterance, read_documents
from tresse.data.naming import Naming
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.tokenizer import Tokenizer

Files = Annotated[tuple[Path, ...], tyro.conf.Positional]
Unprefixed = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class TokenizerFlags:
    """What made the units; corpora merge only when all four agree."""

    tokenizer_name: str = "units"
    """Such as "mhubert-25hz"; say so in it if the units are deduplicated."""
    tokenizer_hash: str = ""
    """Hash of its weights."""
    frame_rate: str = "25/2"
    """Units per second before deduplication, as a fraction."""
    vocab_size: int = 2048
    """Units are 0 to vocab_size - 1."""

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the flags describe."""
        return Tokenizer(self.tokenizer_name, self.tokenizer_hash, self.frame_rate, self.vocab_size)


Names = Annotated[Naming, Unprefixed]
Units = Annotated[TokenizerFlags, Unprefixed]
BY_STEM = Naming()
NO_COLUMNS = Columns()
ANY = TokenizerFlags()
MHUBERT = TokenizerFlags(tokenizer_name="mhubert-25hz", frame_rate="25", vocab_size=500)
HUBERT = TokenizerFlags(tokenizer_name="hubert-kmeans-100", frame_rate="50", vocab_size=100)


def prepare_slamkit(
    files: Files,
    /,
    *,
    out: Path,
    naming: Names = BY_STEM,
    tokenizer: Units = MHUBERT,
    expand: bool = False,
    skip_misaligned: bool = False,
) -> Corpus:
    """Write SlamKit's features.jsonl or tokens.jsonl as a corpus.

    Args:
        files: JSON lines of `extract_features` or `prepare_tokens`, of any languages.
        out: Folder of the corpus; must not exist, or be empty.
        naming: Names.
        tokenizer: SlamKit's own by default.
        expand: Repeat each unit as often as it was heard, which undoes the deduplication; needs
            features.jsonl.
        skip_misaligned: Leave out keys whose documents differ in their number of sentences.
    """
    utterances = read_slamkit(files, expand_durations=expand)
    return _write(out, utterances, naming, tokenizer.tokenizer(), skip_misaligned)


def prepare_textless(
    files: Files,
    /,
    *,
    out: Path,
    naming: Names = BY_STEM,
    tokenizer: Units = HUBERT,
    separator: str = " ",
    expand: bool = False,
    skip_misaligned: bool = False,
) -> Corpus:
    """Write textless' `.units` files (GSLM, TWIST) as a corpus.

    Args:
        files: Files of `transcribe.py`, a line per audio file, with or without its name.
        out: Folder of the corpus; must not exist, or be empty.
        naming: Names; a line without one is called FOLDER/FILE/LINE.
        tokenizer: The default of `transcribe.py` by default.
        separator: What stands between two units.
        expand: Repeat each unit as the `.durations` file beside says, which undoes deduplication.
        skip_misaligned: Leave out keys whose documents differ in their number of sentences.
    """
    utterances = read_textless(files, separator=separator, expand_durations=expand)
    return _write(out, utterances, naming, tokenizer.tokenizer(), skip_misaligned)


def prepare_smoltolk(
    files: Files,
    /,
    *,
    out: Path,
    naming: Names = BY_STEM,
    tokenizer_name: str = "units",
    tokenizer_hash: str = "",
    expand: bool = False,
    skip_misaligned: bool = False,
) -> Corpus:
    """Write SmolTolk's `.bin` files as a corpus; frame rate and vocabulary are in its meta.pkl.

    Args:
        files: `.bin` files, each with its `.len` beside it and a meta.pkl in the folder.
        out: Folder of the corpus; must not exist, or be empty.
        naming: Names; sample 7 is called DATASET/FEATURES/SPLIT/7.
        tokenizer_name: What made the units; corpora merge only when it agrees.
        tokenizer_hash: Hash of its weights.
        expand: Repeat each unit as the `.dur` file beside says, which undoes deduplication.
        skip_misaligned: Leave out keys whose documents differ in their number of sentences.
    """
    meta = read_meta(files)
    tokenizer = Tokenizer(tokenizer_name, tokenizer_hash, meta.frame_rate, meta.num_units)
    utterances = read_smoltolk(files, meta, expand_durations=expand)
    return _write(out, utterances, naming, tokenizer, skip_misaligned)


def prepare_table(
    files: Files,
    /,
    *,
    out: Path,
    columns: Columns = NO_COLUMNS,
    naming: Names = BY_STEM,
    tokenizer: Units = ANY,
    split: str = "",
    skip_misaligned: bool = False,
) -> Corpus:
    """Write columns of Parquet or Arrow files, or of Hugging Face datasets on disk, as a corpus.

    Args:
        files: Parquet files, Arrow files, or folders that `save_to_disk` wrote.
        out: Folder of the corpus; must not exist, or be empty.
        columns: Columns.
        naming: Names.
        tokenizer: What made the units.
        split: Part to read of a folder that has several, such as "train".
        skip_misaligned: Leave out keys whose documents differ in their number of sentences.
    """
    if columns.lang and naming.has_languages:
        raise ValueError("--columns.lang, and a language by --lang or --key-pattern; give one")
    utterances = read_table(files, columns, split)
    return _write(out, utterances, naming, tokenizer.tokenizer(), skip_misaligned)


def _write(
    out: Path,
    utterances: Iterable[Utterance],
    naming: Naming,
    tokenizer: Tokenizer,
    skip_misaligned: bool,
) -> Corpus:
    documents = read_documents(utterances, naming, tokenizer, spool=out.absolute().parent)
    return write_corpus(out, documents, tokenizer, skip_misaligned=skip_misaligned)


COMMANDS = {
    "slamkit": prepare_slamkit,
    "smoltolk": prepare_smoltolk,
    "textless": prepare_textless,
    "table": prepare_table,
}
