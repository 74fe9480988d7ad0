"""Texts as tokens of a text tokenizer, with the tokens at which their words begin.

Sentences are encoded one by one, each after the first with the space before it, so that the tokens
of a document read as its text. The first sentence of a text that continues another, such as the
ending of a story, has this space too: prompt and ending have the tokens of the whole story. A word
is what stands between spaces, with its punctuation.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tresse.data.durable import write_text
from tresse.data.left_out import LeftOut
from tresse.data.store.documents import Document
from tresse.data.store.text_tokenizer import check_package, tokenise_text
from tresse.data.texts.texts import Text


def encode_texts(
    texts: Iterable[Text], tokenizer: Any, suffix: str, left_out: LeftOut
) -> Iterator[Document]:
    """Yield texts as documents of tokens with words, in languages such as `en-text`.

    tokenizer: a `tokenizers.Tokenizer`. suffix: end of the languages' names, by which a text and
    its speech differ. `left_out` gets a text whose words cannot be told apart in its tokens.
    """
    for text in texts:
        try:
            pieces = [
                _encode(tokenizer, f" {sentence}" if number or text.continues else sentence)
                for number, sentence in enumerate(text.sentences)
            ]
        except ValueError as error:
            left_out.add(text.where or str(text), str(error), text.key, text.language)
            continue
        ids, words = zip(*pieces, strict=True)
        yield Document(text.key, f"{text.language}{suffix}", ids, words, text.where)


def _encode(tokenizer: Any, sentence: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a sentence, and the places of those that begin a word."""
    encoding = tokenise_text(tokenizer, sentence)
    words = [match.span() for match in re.finditer(r"\S+", sentence)]
    starts: list[int] = []
    word = -1
    for place, (begin, end) in enumerate(encoding.offsets):
        own = _word_at(words, sentence, begin, end)
        if own == word or own is None:  # own is None for spaces, which go with the word before
            continue
        if own != word + 1:
            missing = sentence[slice(*words[word + 1])]
            raise ValueError(
                f"sentence {sentence!r}: the word {missing!r} has no token of its own; use another "
                "tokenizer"
            )
        starts.append(place)
        word = own
    if word != len(words) - 1:
        missing = sentence[slice(*words[word + 1])]
        raise ValueError(f"sentence {sentence!r}: the tokenizer makes no token of {missing!r}")
    return encoding.ids, [0, *starts[1:]]


def _word_at(words: list[tuple[int, int]], sentence: str, begin: int, end: int) -> int | None:
    """Return the word of a token, which lies between two characters; None for spaces."""
    inside = [i for i in range(begin, end) if not sentence[i].isspace()]
    if not inside:
        return None
    ends = [word[1] for word in words]
    first, last = (bisect_right(ends, place) for place in (inside[0], inside[-1]))
    if first != last:
        token = sentence[begin:end]
        raise ValueError(
            f"sentence {sentence!r}: the token {token!r} belongs to several words; use a tokenizer "
            "that splits at spaces"
        )
    return first


def train_tokenizer(texts: Iterable[Text], out: Path, size: int) -> int:
    """Train a BPE of bytes, as GPT-2, Llama 3 and Qwen have, and write its tokenizer.json.

    Returns the number of its tokens, at most `size`. Equal texts give equal files. ValueError if
    `out` exists, or if `size` leaves no room beyond the 256 bytes.
    """
    check_package()
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    if out.exists():
        raise ValueError(f"{out}: exists already; remove it or choose another file")
    if size <= 256:
        raise ValueError(f"--size is {size}, expected more than the 256 bytes")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = Decoder()
    trainer = BpeTrainer(
        vocab_size=size, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((" ".join(text.sentences) for text in texts), trainer)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, tokenizer.to_str(pretty=True) + "\n")
    return tokenizer.get_vocab_size()
