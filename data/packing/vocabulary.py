"""The ids of a run: the tokens of its tokenizers, those of speech first, then special tokens."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tresse.data.packing.settings import Packing
from tresse.data.store.corpus import Corpus
from tresse.data.store.tokenizer import Tokenizer, join_tokenizers

SPECIALS = ("<eos>", "<bos>", "<switch>")


@dataclass(frozen=True, slots=True)
class Specials:
    """Ids of the special tokens that a packing inserts; None for one that it does not insert."""

    bos: int | None
    eos: int | None
    switch: int | None

    @property
    def num_separators(self) -> int:
        """Number of tokens that are inserted per document: 0, 1 or 2."""
        return (self.bos is not None) + (self.eos is not None)

    @property
    def before_document(self) -> int | None:
        """Id that stands before a document's first token: bos, else the eos of the one before."""
        return self.eos if self.bos is None else self.bos


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids of a run: tokens, then eos, bos and switch if any is inserted, then the tags.

    The tokens of each tokenizer are a part of the ids. A corpus numbers its tokens from 0, so those
    of text get their ids by adding the number of units.
    """

    tokenizers: tuple[Tokenizer, ...]
    """One of speech, one of text, or both in this order."""
    has_specials: bool = False
    """True if the vocabulary holds the three special tokens."""
    tags: tuple[str, ...] = ()
    """Names of the special tokens that templates use (`Packing.tags`)."""

    @staticmethod
    def of(tokenizers: Iterable[Tokenizer], packing: Packing) -> "Vocabulary":
        """Return the vocabulary of a run; ValueError if the tokenizers cannot be joined."""
        return Vocabulary(join_tokenizers(tokenizers), packing.uses_specials, packing.tags)

    @property
    def speech(self) -> Tokenizer | None:
        """The tokenizer of speech, if there is speech."""
        return next((each for each in self.tokenizers if not each.is_text), None)

    @property
    def text(self) -> Tokenizer | None:
        """The tokenizer of text, if there is text."""
        return next((each for each in self.tokenizers if each.is_text), None)

    @property
    def num_tokens(self) -> int:
        """Number of ids that are tokens; the special ones come after them."""
        return sum(each.vocab_size for each in self.tokenizers)

    def first_id(self, tokenizer: Tokenizer) -> int:
        """Return the id of a tokenizer's token 0; ValueError if it is none of these."""
        if tokenizer.is_mixed and tokenizer.parts == self.tokenizers:
            return 0
        first = 0
        for each in self.tokenizers:
            if each == tokenizer:
                return first
            first += each.vocab_size
        known = " and ".join(map(str, self.tokenizers))
        raise ValueError(f"tokens of {tokenizer}, but the vocabulary has {known}; tokenise alike")

    def text_first(self) -> np.ndarray:
        """Return all ids in an order that begins with those of text, int64 [num_used]."""
        ids = np.arange(self.num_used)
        if self.text is None:
            return ids
        first = self.first_id(self.text)
        end = first + self.text.vocab_size
        return np.concatenate([ids[first:end], ids[:first], ids[end:]])

    def sentences(self, corpus: Corpus, language: str, document: int) -> list[np.ndarray]:
        """Return the ids of each sentence of a document, int64."""
        first = self.first_id(corpus.tokenizer(language))
        return [each.astype(np.int64) + first for each in corpus.document(language, document)]

    @property
    def eos(self) -> int:
        """Id that ends a document."""
        return self.num_tokens

    @property
    def bos(self) -> int:
        """Id that begins a document."""
        return self.num_tokens + 1

    @property
    def switch(self) -> int:
        """Id that precedes a change of language."""
        return self.num_tokens + 2

    def tag(self, name: str) -> int:
        """Return the id of a tag."""
        return self.num_tokens + 3 * self.has_specials + self.tags.index(name)

    @property
    def special_names(self) -> tuple[str, ...]:
        """Names of the special tokens and tags in the order of their ids, which follow tokens."""
        return (*(SPECIALS if self.has_specials else ()), *self.tags)

    @property
    def num_used(self) -> int:
        """Number of ids: tokens and special tokens."""
        return self.num_tokens + len(self.special_names)

    @property
    def width(self) -> int:
        """Width of the logits: `num_used`, rounded up to a multiple of 128."""
        return -(-self.num_used // 128) * 128

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Smallest of uint16 and uint32 that holds every id."""
        return np.uint16 if self.num_used <= 1 << 16 else np.uint32

    def specials(self, packing: Packing) -> Specials:
        """Return the ids of the special tokens that a packing inserts."""
        return Specials(
            bos=self.bos if packing.separators == "bos_eos" else None,
            eos=self.eos if packing.separators != "none" else None,
            switch=self.switch if packing.language_switch else None,
        )
