"""The C++ packer (`csrc/bindings.cpp`), and files mapped for it.

Arrays must be C-contiguous and of exactly these dtypes.
"""

from collections.abc import Sequence

import numpy as np

class Corpus:
    """Shards by corpus and language, as views of arrays that it keeps alive."""

    def __init__(self) -> None: ...
    def add_view(self, language: int, token_bytes: int, first_id: int) -> int:
        """Add a view for the shards of a language of a corpus, and return its number.

        language: the one that a batch says its tokens have. first_id: added to its tokens.
        """

    def add_shard(
        self,
        view: int,
        tokens: np.ndarray,
        sentence_lengths: np.ndarray,
        document_lengths: np.ndarray,
        document_tokens: np.ndarray,
        document_sentences: np.ndarray,
        key_hash: np.ndarray,
        word_lengths: np.ndarray,
        document_words: np.ndarray,
    ) -> None: ...

class Packer:
    """The rows of streams. An id of -1 stands for a token that is not inserted."""

    def __init__(
        self,
        corpus: Corpus,
        row_length: int,
        mode: str,
        eos: int,
        bos: int,
        language_switch: int,
        mask_documents: bool,
    ) -> None: ...
    def find_uneven(
        self,
        views: Sequence[int],
        documents: Sequence[np.ndarray],
        unit: str,
        table_cache_prefix: str,
    ) -> int: ...
    def add_stream(
        self,
        views: Sequence[int],
        mode: str,
        random_order: bool,
        thresholds: Sequence[int],
        documents: Sequence[np.ndarray],
        seed: int,
        stage: int,
        index: int,
        num_given: int,
        unit: str,
        words: tuple[int, int],
        templates: Sequence[tuple[Sequence[int], Sequence[int]]],
        counted: Sequence[bool],
        targets: int,
        table_cache_prefix: str,
    ) -> int: ...
    def num_cut(self, stream: int) -> int: ...
    @property
    def num_rows(self) -> int: ...
    def fill(
        self, first_row: int, tokens: np.ndarray, num_valid: np.ndarray, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
    def copies(
        self, first_row: int, num_valid: np.ndarray, threads: int
    ) -> tuple[np.ndarray, np.ndarray]: ...

def map_file(path: bytes) -> np.ndarray:
    """Map a file for reading, as uint8 [bytes], without a descriptor that stays open.

    OSError when it cannot be read.
    """

def hash_words(words: Sequence[int]) -> int: ...
def permute(n: int, key: int) -> np.ndarray: ...
