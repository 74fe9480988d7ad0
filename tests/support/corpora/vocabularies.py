"""Vocabularies of one tokenizer."""

from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.tokenizer import Tokenizer


def vocabulary_of(tokenizer: Tokenizer | int, has_specials: bool = False) -> Vocabulary:
    """Return the ids of a tokenizer, or of a number of nameless units."""
    if isinstance(tokenizer, int):
        tokenizer = Tokenizer("units", "", "25/2", tokenizer)
    return Vocabulary((tokenizer,), has_specials)
