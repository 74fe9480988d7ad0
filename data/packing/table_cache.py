"""Where the packer keeps its tables of a large corpus for the next run.

A table says how many tokens are before every 64th document of an epoch, or which rows best fit
makes of it. To build one takes every document's length: seconds from some ten million documents on,
at every start and for every rank. They are kept in `$TRESSE_CACHE/{corpus id}/`, by default
`~/.cache/tresse/{corpus id}/`, 8 bytes per 64 documents and epoch. The folder may be removed at any
time; with TRESSE_CACHE empty nothing is kept.
"""

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path

import xxhash

from tresse.data.packing.settings import Packing, Stream
from tresse.data.store.corpus import Corpus

MIN_DOCUMENTS = 500_000  # fewer are measured in some 20 ms
VERSION = 1  # of the order of documents, of draws and of tables

logger = logging.getLogger(__name__)


def table_cache(
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
    cache = os.environ.get("TRESSE_CACHE")
    if num_documents < MIN_DOCUMENTS or cache == "":
        return ""
    try:
        folder = _folder(cache, corpus)
    except (OSError, RuntimeError) as error:  # the latter for a user without a home
        logger.warning(
            "no tables are kept (%s), so every start measures all documents of %s anew; set "
            "TRESSE_CACHE to a folder that can be written, or to nothing to keep none",
            error, corpus.path,
        )  # fmt: skip
        return ""
    lengths = (replace(stream, weight=1.0), packing.separators, packing.language_switch)
    content = repr((VERSION, lengths, seed, stage, index)).encode()
    return str(folder / f"{xxhash.xxh3_64_hexdigest(content)}-")


def _folder(cache: str | None, corpus: Corpus) -> Path:
    """Make the folder of a corpus' tables; OSError if it cannot be written."""
    base = cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tresse")
    folder = Path(base, corpus.id).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder
