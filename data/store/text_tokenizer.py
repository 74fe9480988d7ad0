"""The text tokenizer of a corpus: a `tokenizer.json` of the tokenizers package, beside its shards.

Its hash is in `corpus.json`, with its name. A run needs it for the fixed texts of a stream's
template, to read prompts, and to write an export that transformers loads.
"""

import shutil
import unicodedata
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tresse.data.durable import sync_path
from tresse.data.store.tensor_file import checksum_file
from tresse.data.store.tokenizer import Tokenizer

FILE = "tokenizer.json"
SPACES = ("Ġ", "▁")


def identify_text_tokenizer(path: Path) -> Tokenizer:
    """Return the identity of a `tokenizer.json`: its kind, such as bpe, its hash and its size.

    The same file has the same identity wherever it lies. ValueError if it cannot be read.
    """
    found = load_text_tokenizer(path)
    size = max(found.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return Tokenizer(type(found.model).__name__.lower(), checksum_file(path), "", size)


def find_tokenizer_file(place: Path) -> Path:
    """Return a tokenizer.json, given the file or a folder that holds it; ValueError without."""
    file = place / FILE if place.is_dir() else place
    if not file.is_file():
        raise ValueError(f"{file}: no such file; expected a tokenizer.json or its folder")
    return file


def check_package() -> None:
    """Raise ValueError unless the extra [text] is installed."""
    if find_spec("tokenizers") is None:
        raise ValueError("text needs tokenizers: pip install 'tresse[text]'")


def load_text_tokenizer(path: Path) -> Any:
    """Return the `tokenizers.Tokenizer` of a file, without truncation and padding.

    ValueError if the file cannot be read or the package is missing.
    """
    check_package()
    from tokenizers import Tokenizer as Tokenizers

    try:
        found = Tokenizers.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises bare Exception
        raise ValueError(f"{path}: not the tokenizer.json of a tokenizer: {error}") from None
    found.no_truncation()
    found.no_padding()
    return found


def tokenise_text(tokenizer: Any, text: str) -> Any:
    """Return the encoding of a text by a loaded tokenizer, without the tokens of its template.

    ValueError if a part of the text, spaces apart, has no token.
    """
    try:
        encoding = tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:  # the package raises bare Exception
        raise ValueError(f"the tokenizer cannot encode {text!r}: {error}") from None
    lost = _lost(text, encoding)
    if lost and tokenizer.normalizer is not None:  # it may have composed characters
        composed = unicodedata.normalize("NFC", text)
        again = tokenizer.encode(composed, add_special_tokens=False)
        lost = _lost(composed, again) if again.ids == encoding.ids else lost
    if lost:
        raise ValueError(f"the tokenizer loses characters of {text!r}, near {lost!r}")
    if not encoding.ids:
        raise ValueError(f"the tokenizer makes no tokens of {text!r}")
    return encoding


def _lost(text: str, encoding: Any) -> str:
    """Return the first part of a text that no token covers; marks and spaces may be left out.

    Where the package drops a character, the places of those after it are too small by one.
    """
    covered = 0
    for begin, end in [*encoding.offsets, (len(text), len(text))]:
        part = text[covered:begin]
        if part and any(unicodedata.category(each)[0] not in "MCZ" for each in part):
            return part.strip()
        covered = max(covered, end)
    return ""


def word_starts(tokenizer: Any) -> np.ndarray:
    """Return for each token whether a word begins with it, bool [ids].

    Where tokens carry the space before them (as `Ġ` or `▁`), those are the ones; elsewhere each is.
    """
    tokens = tokenizer.get_vocab(with_added_tokens=True)
    starts = np.zeros(max(tokens.values(), default=-1) + 1, bool)
    starts[[i for token, i in tokens.items() if token.startswith(SPACES)]] = True
    return starts if starts.any() else ~starts


def keep_text_tokenizer(folder: Path, path: Path, tokenizers: Iterable[Tokenizer]) -> None:
    """Copy the file of a tokenizer into the folder of a corpus or run, once.

    tokenizers: those of the folder. ValueError if the file there is of none of them.
    """
    own = folder / FILE
    if not own.exists():
        shutil.copyfile(path, own)
        sync_path(own)
    verify_text_tokenizer(folder, tokenizers)


def find_text_tokenizer(folder: Path, tokenizers: Iterable[Tokenizer]) -> Path:
    """Return the checked file of a corpus' text tokenizer; ValueError if it has none.

    tokenizers: those of the corpus.
    """
    if not (folder / FILE).exists():
        raise ValueError(f"{folder / FILE}: no such file; put the tokenizer of the texts there")
    verify_text_tokenizer(folder, tokenizers)
    return folder / FILE


def open_text_tokenizer(folder: Path, tokenizers: Iterable[Tokenizer]) -> Any:
    """Load the text tokenizer of a corpus; errors are those of finding and of loading it."""
    return load_text_tokenizer(find_text_tokenizer(folder, tokenizers))


def verify_text_tokenizer(folder: Path, tokenizers: Iterable[Tokenizer]) -> None:
    """Raise ValueError if the folder of a corpus has the file of another tokenizer than its own."""
    path = folder / FILE
    if not path.exists():
        return
    found, known = checksum_file(path), [each.hash for each in tokenizers if each.is_text]
    if found not in known:
        expected = known[0] if known else "no tokenizer of text"
        raise ValueError(f"{path}: hash {found}, the shards have {expected}; restore the file")
