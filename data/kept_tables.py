"""Where the packer keeps its tables of a large corpus for the next run.

A table says how many tokens are before every 64th document of an epoch, or which rows best fit
makes of it. To build one takes every document's length: seconds from some ten million documents on,
at every start and for every rank. They are kept in `$TRESSE_CACHE/{corpus id}/`, by default
`~/.cache/tresse/{corpus id}/`, 8 bytes per 64 documents and epoch. The folder may be removed at any
time; with TRESSE_CACHE empty nothing is kept.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path

import xxhash

from tresse.data.corpus import Corpus
from tresse.data.streams import Packing, Stream

MIN_DOCUMENTS = 500_000  # fewer are measured in some 20 ms
VERSION = 1  # of the order of documents, of draws and of tables

logger = logging.getLogger(__name__)


def kept_tables(
    corpus: Corpus,
    stream: Stream,
    packing: Packing,
    num_documents: int,
    *,
    seed: int,
    stage: int,
    index: int,
) -> str:
    """What the names of the files begin with that are for this stream alone; empty: keep none."""
    cache = os.environ.get("TRESSE_CACHE", _default_folder())
    if num_documents < MIN_DOCUMENTS or not cache:
        return ""
    folder = Path(cache, corpus.id).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning(
            "%s: cannot be made (%s), so every start measures all documents of %s anew; set "
            "TRESSE_CACHE to a folder that can be written, or to nothing to keep no tables",
            folder, error.strerror, corpus.path,
        )  # fmt: skip
        return ""
    lengths = (replace(stream, weight=1.0), packing.separators, packing.language_switch)
    content = repr((VERSION, lengths, seed, stage, index)).encode()
    return str(folder / f"{xxhash.xxh3_64_hexdigest(content)}-")


def _default_folder() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return str(Path(base, "tresse").expanduser())
