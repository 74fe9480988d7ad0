"""The cache of tables that the packer builds for a large corpus.

A table holds the number of tokens before every 64th document of an epoch, or the rows into which
best fit packs it. Building one reads the length of every document. With ten million documents that
takes seconds, at every start and on every rank. Tables are cached in `$TRESSE_CACHE/{corpus id}/`,
by default `~/.cache/tresse/{corpus id}/`, in 8 bytes per 64 documents and epoch. The folder may be
removed at any time. If TRESSE_CACHE is empty, nothing is cached.
"""

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path

import xxhash

from tresse.data.packing.settings import Packing, Stream
from tresse.data.store.corpus import Corpus

MIN_DOCUMENTS = 500_000  # measuring fewer takes some 20 ms
VERSION = 1  # of the order of documents, of draws and of tables

logger = logging.getLogger(__name__)


def table_cache_prefix(
    corpus: Corpus,
    stream: Stream,
    packing: Packing,
    num_documents: int,
    *,
    seed: int,
    stage: int,
    index: int,
) -> str:
    """Return the prefix of this stream's cache files, or "" when nothing is to be cached."""
    cache = os.environ.get("TRESSE_CACHE")
    if num_documents < MIN_DOCUMENTS or cache == "":
        return ""
    try:
        folder = _folder(cache, corpus)
    except (OSError, RuntimeError) as error:  # RuntimeError for a user without a home folder
        logger.warning(
            "tables cannot be cached (%s), so every start measures all documents of %s; set "
            "TRESSE_CACHE to a folder that can be written, or to nothing to cache none",
            error, corpus.path,
        )  # fmt: skip
        return ""
    lengths = (replace(stream, weight=1.0), packing.separators, packing.language_switch)
    if stream.templates:
        lengths = (*lengths, packing.tags)
    content = repr((VERSION, lengths, seed, stage, index)).encode()
    return str(folder / f"{xxhash.xxh3_64_hexdigest(content)}-")


def _folder(cache: str | None, corpus: Corpus) -> Path:
    """Create the folder for the tables of a corpus; OSError if it cannot be written."""
    base = cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tresse")
    folder = Path(base, corpus.id).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder
