"""Write new corpora: from documents, or by merging other corpora.

A corpus is built in a folder `{out}.{random}.tmp`, which is renamed to `out` when it is complete.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from tresse.data.durable import link_or_copy, staged_folder
from tresse.data.left_out import ContradictionError, LeftOut
from tresse.data.store.cloze import merge_items
from tresse.data.store.corpus import Corpus, check_tokenizers
from tresse.data.store.documents import Document, key_hash
from tresse.data.store.index import FILE, AlignmentEntry, CorpusIndex, write_index
from tresse.data.store.shard_checks import check_normal_keys
from tresse.data.store.shards import Shard, ShardEntry, ShardWriter
from tresse.data.store.text_tokenizer import FILE as TEXT_TOKENIZER
from tresse.data.store.text_tokenizer import keep_text_tokenizer
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.store.translations import (
    Misaligned,
    build_table,
    check_aligned,
    describe_misaligned,
    find_misaligned,
    write_translations,
)
from tresse.data.store.unshared_keys import warn_of_unshared_keys

logger = logging.getLogger(__name__)

Tokenizers = Mapping[str, Tokenizer]
"""The tokenizer of each language."""
Entries = Mapping[str, Sequence[ShardEntry]]
"""Shards of each language that lie in a folder."""


def write_corpus(
    out: str | Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    text_tokenizer: Path | None = None,
    skip_misaligned: bool = False,
    left_out: LeftOut | None = None,
) -> Corpus:
    """Write documents of any languages, in any order, as a corpus; they are not held in memory.

    text_tokenizer: file of a tokenizer of text, which is kept beside the shards.

    Documents that share a key need equally many sentences: else ValueError lists such keys, or with
    `skip_misaligned` they are left out in every language, with a warning. ValueError also for a bad
    document, with its place, unless `left_out` gets it, and for a key that occurs twice in a
    language. On an error nothing is left at `out`.
    """
    _check_free(out)
    left_out = left_out or LeftOut()
    with staged_folder(out) as folder:
        entries = _write_shards(folder, documents, tokenizer, left_out)
        left_out.write(folder)
        _commit(folder, entries, dict.fromkeys(entries, tokenizer), skip_misaligned)
        if text_tokenizer is not None:
            keep_text_tokenizer(folder, text_tokenizer, tokenizer.parts)
    return _open(out)


def merge_corpora(
    inputs: Sequence[str | Path], out: str | Path, *, skip_misaligned: bool = False
) -> Corpus:
    """Write a corpus of all shards of several corpora, in that order, as hard links or copies.

    Languages of text may join languages of speech. ValueError when two tokenizers of speech or two
    of text differ, a language has a key twice, or documents that share a key differ in their number
    of sentences. With `skip_misaligned` the latter are left out in every
    language, with a warning, and the shards that held them are written anew. Cloze items keep the
    languages of the corpus that they come from.
    """
    if not inputs:
        raise ValueError("no corpora to merge")
    corpora = [Corpus.open(path) for path in inputs]
    tokenizers = check_tokenizers(corpora)
    _check_free(out)
    with staged_folder(out) as folder:
        _commit(folder, _link_shards(folder, corpora), tokenizers, skip_misaligned)
        for corpus in corpora:
            if (corpus.path / TEXT_TOKENIZER).exists():
                keep_text_tokenizer(folder, corpus.path / TEXT_TOKENIZER, corpus.tokenizers)
        merge_items({corpus.path: corpus.languages for corpus in corpora}, folder)
    return _open(out)


def _open(out: str | Path) -> Corpus:
    """Open the corpus that was just written, with a warning if its languages share no keys."""
    corpus = Corpus.open(out)
    warn_of_unshared_keys(corpus)
    return corpus


def _check_free(out: str | Path) -> None:
    if (Path(out) / FILE).exists():
        raise ValueError(f"{out} already holds a corpus; remove it or choose another folder")


def _write_shards(
    folder: Path, documents: Iterable[Document], tokenizer: Tokenizer, left_out: LeftOut
) -> Entries:
    writers: dict[str, ShardWriter] = {}
    with ExitStack() as stack:
        for document in documents:
            try:
                if document.language not in writers:
                    writer = ShardWriter(folder, document.language, tokenizer)
                    writers[document.language] = stack.enter_context(writer)
                writers[document.language].add(document.key, document.sentences, document.words)
            except ContradictionError as error:
                where = f"{document.where}: " if document.where else ""
                raise ContradictionError(f"{where}{error}") from None
            except ValueError as error:
                where = document.where or f"document {document.key!r}"
                left_out.add(where, str(error), document.key, document.language)
        written = {language: writer.close() for language, writer in sorted(writers.items())}
        return {language: entries for language, entries in written.items() if entries}


def _link_shards(folder: Path, corpora: Sequence[Corpus]) -> Entries:
    linked: dict[str, list[ShardEntry]] = {}
    for corpus in corpora:
        for shard in chain.from_iterable(corpus.shards.values()):
            check_normal_keys(shard.file)
        for language, entries in corpus.index.languages.items():
            for entry in entries:
                if (folder / entry.file).exists():
                    raise ValueError(
                        f"{corpus.path / entry.file} is in an earlier input too; give each once"
                    )
                link_or_copy(corpus.path / entry.file, folder / entry.file)
            linked.setdefault(language, []).extend(entries)
    return linked


def _commit(folder: Path, entries: Entries, tokenizers: Tokenizers, skip_misaligned: bool) -> None:
    """Write the translations of the shards in a folder, and `corpus.json`."""
    shards = _map_shards(folder, entries)
    table = build_table(shards)
    misaligned = find_misaligned(shards, table)
    if misaligned and skip_misaligned:
        entries = _leave_out(folder, misaligned, shards, entries, tokenizers)
        shards = _map_shards(folder, entries)
        table = build_table(shards)
    else:
        check_aligned(misaligned)
    alignment = None
    if len(shards) > 1:
        path, hashes = write_translations(folder, tuple(shards), table)
        alignment = AlignmentEntry(path.name, path.stat().st_size, hashes)
    committed = {language: tuple(entries[language]) for language in shards}
    used = {language: tokenizers[language] for language in committed}
    write_index(folder, CorpusIndex(used, committed, alignment))


def _map_shards(folder: Path, entries: Entries) -> dict[str, tuple[Shard, ...]]:
    """Map shards that were just written, or checked when the inputs of a merge were opened."""
    if not entries:
        raise ValueError("no documents: a corpus needs at least one")
    return {
        language: tuple(Shard.map(folder / entry.file) for entry in entries[language])
        for language in sorted(entries)
    }


def _leave_out(
    folder: Path,
    misaligned: Sequence[Misaligned],
    shards: Mapping[str, Sequence[Shard]],
    entries: Entries,
    tokenizers: Tokenizers,
) -> Entries:
    """Write the shards that hold misaligned documents anew, without them."""
    logger.warning(
        "left out %d keys, whose documents differ in their number of sentences:\n%s",
        len(misaligned), describe_misaligned(misaligned),
    )  # fmt: skip
    dropped = {key_hash(m.key) for m in misaligned}
    kept: dict[str, list[ShardEntry]] = {}
    for language, own in shards.items():
        for shard, entry in zip(own, entries[language], strict=True):
            if dropped.isdisjoint(shard.key_hash.tolist()):
                kept.setdefault(language, []).append(entry)
                continue
            shard.path.unlink()  # stays mapped while we read it
            rest = _documents(shard, dropped)
            written = _write_shards(folder, rest, tokenizers[language], LeftOut())
            if language in written:
                kept.setdefault(language, []).extend(written[language])
    return kept


def _documents(shard: Shard, dropped: set[int]) -> Iterator[Document]:
    for i, hash_ in enumerate(shard.key_hash.tolist()):
        if hash_ not in dropped:
            yield Document(shard.key(i), shard.language, shard.document(i), shard.words(i))
