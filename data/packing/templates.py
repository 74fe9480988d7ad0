"""The fixed tokens of a stream's templates: names of tags, and texts by the corpus' tokenizer."""

import re
from collections.abc import Callable
from typing import Any

from tresse.data.packing.settings import Stream
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.text_tokenizer import tokenise_text

Fixed = tuple[list[int], list[int]]
"""Ids before and after a stretch of a language."""


def template_ids(
    stream: Stream, vocabulary: Vocabulary, load_tokenizer: Callable[[], Any]
) -> list[Fixed]:
    """Return the ids around each of a stream's languages; empty if it has no templates.

    load_tokenizer: returns the `tokenizers.Tokenizer` of the vocabulary's text; called once if a
    template has text. ValueError for a text where there is no text tokenizer.
    """
    if not stream.templates:
        return []
    encode = _encoder(vocabulary, load_tokenizer)
    found = {each.language: (encode(each.before), encode(each.after)) for each in stream.templates}
    return [found.get(language, ([], [])) for language in stream.all_languages]


def _encoder(
    vocabulary: Vocabulary, load_tokenizer: Callable[[], Any]
) -> Callable[[str], list[int]]:
    names = "|".join(re.escape(tag) for tag in sorted(vocabulary.tags, key=len, reverse=True))
    loaded = None

    def encode(text: str) -> list[int]:
        nonlocal loaded
        ids: list[int] = []
        for piece in re.split(f"({names})", text) if names else [text]:
            if piece in vocabulary.tags:
                ids.append(vocabulary.tag(piece))
            elif piece:
                if vocabulary.text is None:
                    raise ValueError(
                        f"template {text!r}: {piece!r} is no tag of the packing, and no language "
                        "of the corpora is text, whose tokenizer could read it"
                    )
                loaded = loaded or load_tokenizer()
                first = vocabulary.first_id(vocabulary.text)
                ids += [first + i for i in _ids(loaded, piece, text)]
        return ids

    return encode


def _ids(tokenizer: Any, piece: str, template: str) -> list[int]:
    """Return the tokens of a piece of a template; spaces between tags may have none."""
    if not piece.strip():
        return tokenizer.encode(piece, add_special_tokens=False).ids
    try:
        return tokenise_text(tokenizer, piece).ids
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}") from None
