"""Corpora of a few documents, and the content of any corpus."""

from pathlib import Path

from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer

UNITS = Tokenizer("units", "", "25/2", 2048)


def story(key: str, language: str, lengths=(2, 3), unit: int = 7) -> Document:
    return Document(key, language, [[unit] * length for length in lengths])


def stories(language: str, keys: str) -> list[Document]:
    return [story(key, language, unit=ord(key)) for key in keys]


def small(out: Path) -> Corpus:
    return write_corpus(out, stories("en", "abcd") + stories("fr", "dbe"), UNITS)


def contents(corpus: Corpus) -> dict:
    return {
        (language, corpus.key(language, i)): [x.tolist() for x in corpus.document(language, i)]
        for language in corpus.languages
        for i in range(corpus.num_documents(language))
    }
