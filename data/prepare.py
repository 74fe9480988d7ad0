"""Prepare a corpus, for example: `python data/prepare.py manifest FILES --out CORPUS`.

Start from units in JSON lines with `manifest`, from recordings with `audio`, from stories with
`split` and `translate`, from texts with `pico` or `speak` (speech) or `text` (text beside speech),
or from files of other tools with slamkit, smoltolk, textless or table. `eval` prepares a corpus for
questions that models are scored on.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import tyro

from tresse.data.audio.commands import COMMANDS as AUDIO
from tresse.data.evaluation.commands import COMMANDS as EVALUATION
from tresse.data.formats.commands import ANY, Files, Units, Written
from tresse.data.formats.commands import COMMANDS as FORMATS
from tresse.data.interrupt import INTERRUPTED
from tresse.data.left_out import LeftOut
from tresse.data.pipe import end_of_pipe
from tresse.data.speech.commands import COMMANDS as SPEECH
from tresse.data.store.corpus import Corpus
from tresse.data.store.inspection import describe
from tresse.data.store.manifest import read_manifest
from tresse.data.store.text_tokenizer import (
    find_tokenizer_file,
    identify_text_tokenizer,
    load_text_tokenizer,
)
from tresse.data.texts.commands import COMMANDS as TEXTS
from tresse.data.texts.story_files import read_stories
from tresse.data.texts.text_tokens import encode_texts


def prepare_manifest(files: Files, /, *, output: Written, tokenizer: Units = ANY) -> Corpus:
    """Write units from JSON lines (docs/format.md) as a corpus.

    Args:
        files: Manifests of any languages, in any order.
        output: The corpus.
        tokenizer: Tokenizer.
    """
    identity = tokenizer.tokenizer()
    left_out = LeftOut(output.on_fault)
    return output.write(read_manifest(files, left_out), identity, left_out)


def prepare_text(
    stories: Files,
    /,
    *,
    tokenizer: Path,
    output: Written,
    lang: str = "",
    suffix: str = "-text",
    one_sentence: bool = False,
) -> Corpus:
    """Write texts as a corpus of text tokens, to be merged with the speech of the same keys.

    The corpus keeps the tokenizer, and the words of each sentence.

    Args:
        stories: JSON lines, TinyStories' text files, Parquet or StoryCloze's CSV (docs/format.md).
        tokenizer: A tokenizer.json, or a folder that holds one, such as a checkpoint's.
        output: The corpus.
        lang: Language of stories that do not name their own, such as "en".
        suffix: End of the names of the languages in the corpus: "-text" makes `en-text` of en.
        one_sentence: Make each text one sentence, as recordings are whose sentences have no times.
    """
    file = find_tokenizer_file(tokenizer)
    left_out = LeftOut(output.on_fault)
    texts = read_stories(stories, lang, left_out)
    if one_sentence:
        texts = (replace(text, sentences=(" ".join(text.sentences),)) for text in texts)
    documents = encode_texts(texts, load_text_tokenizer(file), suffix, left_out)
    return output.write(documents, identify_text_tokenizer(file), left_out, file)


def main(arguments: list[str] | None = None, prog: str = "data/prepare.py") -> int:
    """Run the command line and return the exit status; help calls the program `prog`."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    commands = {"manifest": prepare_manifest, "text": prepare_text}
    commands |= AUDIO | EVALUATION | FORMATS | TEXTS | SPEECH
    try:
        corpus = tyro.extras.subcommand_cli_from_dict(
            commands, prog=prog, description=__doc__, args=arguments
        )
        if corpus is not None:
            print(f"wrote {corpus.path}\n\n{describe(corpus)}", flush=True)
    except BrokenPipeError:
        return end_of_pipe()
    except (ValueError, OSError) as error:  # str of an OSError names its file
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped; nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
