"""Make a corpus: `python data/prepare.py manifest FILES... --out CORPUS`.

Units in our own JSON lines by `manifest`, recordings by `audio`, the files of other tools by the
command of their name. `fit-kmeans` makes units for `audio`. `eval` makes corpora to score a model
by.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated

import tyro

from tresse.data.audio.commands import COMMANDS as AUDIO
from tresse.data.evaluation.commands import COMMANDS as EVALUATION
from tresse.data.formats.commands import COMMANDS as FORMATS
from tresse.data.speech.commands import COMMANDS as SPEECH
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.inspection import describe
from tresse.data.store.manifest import read_manifest
from tresse.data.store.tokenizer import Tokenizer

INTERRUPTED = 130  # the shell's status for Ctrl-C


def prepare_manifest(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    out: Path,
    tokenizer_name: str = "units",
    tokenizer_hash: str = "",
    frame_rate: str = "25/2",
    vocab_size: int = 2048,
    skip_misaligned: bool = False,
) -> Corpus:
    """Write units from JSON lines (docs/format.md) as a corpus.

    Args:
        files: Manifests, of any languages, in any order.
        out: Folder of the corpus; must not exist, or be empty.
        tokenizer_name: What made the units; corpora merge only when this and the next three agree.
        tokenizer_hash: Hash of its weights.
        frame_rate: Units per second, as a fraction.
        vocab_size: Units are 0 to vocab_size - 1.
        skip_misaligned: Leave out keys whose documents differ in their number of sentences.
    """
    tokenizer = Tokenizer(tokenizer_name, tokenizer_hash, frame_rate, vocab_size)
    documents = read_manifest(files)
    return write_corpus(out, documents, tokenizer, skip_misaligned=skip_misaligned)


def main(arguments: list[str] | None = None, prog: str = "data/prepare.py") -> int:
    """Run the command line, of the program that help calls `prog`; returns the exit status."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    commands = {"manifest": prepare_manifest, **AUDIO, **EVALUATION, **FORMATS, **SPEECH}
    try:
        corpus = tyro.extras.subcommand_cli_from_dict(
            commands, prog=prog, description=__doc__, args=arguments
        )
    except (ValueError, OSError) as error:  # str of an OSError names its file
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped; nothing was written", file=sys.stderr)
        return INTERRUPTED
    if corpus is not None:
        print(f"wrote {corpus.path}\n\n{describe(corpus)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
