"""Shards: they read back as written, equal content gives equal bytes, each fault has a message."""

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.support.corpora.sparse import poke, write_sparse_corpus
from tresse.data._packer import map_file
from tresse.data.naming import normal_key
from tresse.data.store.documents import key_hash, pack
from tresse.data.store.shards import Shard, ShardWriter
from tresse.data.store.tensor_file import open_tensors
from tresse.data.store.tokenizer import Tokenizer

UNITS = Tokenizer("units", "", "25/2", 2048)
WIDE = Tokenizer("text", "", "25/2", 70_000)
STORY = [[1, 2, 3], [2047], [0, 0]]
WORDS = [[0, 1], [0], [0, 1]]


def write(folder: Path, documents, tokenizer=UNITS, **options) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder, "en", tokenizer, **options) as writer:
        for document in documents:
            writer.add(*document)
        return [folder / entry.file for entry in writer.close()]


def read(paths: list[Path]) -> list[tuple]:
    shards = [Shard.open(path) for path in paths]
    return [
        (s.key(i), [x.tolist() for x in s.document(i)], s.words(i))
        for s in shards
        for i in range(s.num_documents)
    ]


@st.composite
def documents(draw, vocab_size: int):
    sentence = st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=6)
    keys = draw(st.lists(st.text(max_size=5).map(normal_key), min_size=1, unique=True))
    with_words = draw(st.booleans())
    result = []
    for key in keys:
        sentences = draw(st.lists(sentence, min_size=1, max_size=4))
        words = None
        if with_words:
            words = [
                [0, *(i for i in range(1, len(sentence)) if draw(st.booleans()))]
                for sentence in sentences
            ]
        result.append((key, sentences, words))
    return result


@pytest.mark.parametrize("tokenizer", [UNITS, WIDE])
def test_what_is_written_is_read_back_over_any_number_of_shards(tokenizer, tmp_path_factory):
    @settings(max_examples=40, deadline=None)
    @given(documents(tokenizer.vocab_size), st.sampled_from([1, 4300, 1 << 32]))
    def check(content, max_bytes):
        folder = tmp_path_factory.mktemp("shards")
        paths = write(folder, content, tokenizer, max_bytes=max_bytes)
        assert read(paths) == content
        assert sorted(folder.iterdir()) == sorted(paths)  # no temporary file is left
        if max_bytes == 1:
            assert len(paths) == len(content)

    check()


def test_a_shard_stays_below_its_size_limit(tmp_path):
    content = [(f"{i:06d}", [[i % 2048] * 9] * 3, None) for i in range(4000)]
    paths = write(tmp_path, content, max_bytes=100_000)
    assert len(paths) > 2
    assert all(85_000 < path.stat().st_size <= 100_000 for path in paths[:-1])
    assert read(paths) == content


def test_the_dtype_follows_the_vocabulary(tmp_path):
    for size, dtype in ((65_536, np.uint16), (65_537, np.uint32)):
        tokenizer = Tokenizer("t", "", "25/2", size)
        path = write(tmp_path / str(size), [("a", [[size - 1]], None)], tokenizer)[0]
        assert Shard.open(path).tokens.dtype == dtype
        assert Shard.open(path).tokens.tolist() == [size - 1]


def test_arrays_and_lists_give_equal_bytes_under_equal_names(tmp_path):
    lists = [("a", STORY, None), ("é", [[5]], None)]
    arrays = [(k, [np.array(x, np.int32) for x in s], w) for k, s, w in lists]
    one, two = write(tmp_path / "1", lists)[0], write(tmp_path / "2", arrays)[0]
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()
    assert write(tmp_path / "3", lists[:1])[0].name != one.name


def test_the_header_is_sorted_and_arrays_start_at_a_multiple_of_64(tmp_path):
    content = write(tmp_path, [("a", STORY, WORDS)])[0].read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].decode()
    expected = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert text.rstrip(" ") == expected
    assert (8 + length) % 64 == 0


def test_the_safetensors_library_reads_our_shards(tmp_path):
    path = write(tmp_path, [("a", STORY, WORDS), ("b", [[7]], [[0]])])[0]
    tensors = load_file(path)
    ours = open_tensors(path).tensors
    assert tensors.keys() == ours.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, ours[name])
        assert tensor.dtype == ours[name].dtype
        assert ours[name].ctypes.data % tensor.itemsize == 0
    with safe_open(path, "numpy") as file:
        assert file.metadata()["language"] == "en"


def test_we_read_shards_of_the_safetensors_library(tmp_path):
    path = write(tmp_path, [("a", STORY, WORDS), ("b", [[7]], [[0]])])[0]
    with safe_open(path, "numpy") as file:
        save_file(load_file(path), tmp_path / "theirs.safetensors", file.metadata())
    assert read([tmp_path / "theirs.safetensors"]) == read([path])


def test_arrays_are_views_of_the_file_that_cannot_be_written(tmp_path):
    shard = Shard.open(write(tmp_path, [("a", STORY, None)])[0])
    with pytest.raises(ValueError, match="read-only"):
        shard.document(0)[0][0] = 1


def test_a_shard_keeps_its_map_as_long_as_its_arrays_and_no_descriptor(tmp_path):
    path = write(tmp_path, [("a", STORY, None)])[0]
    before = len(list(Path("/proc/self/fd").iterdir()))
    shard = Shard.open(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    path.unlink()
    tokens = shard.tokens
    del shard
    assert tokens.tolist() == [1, 2, 3, 2047, 0, 0]
    assert str(path) in Path("/proc/self/maps").read_text()
    del tokens
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_any_file_is_mapped_or_refused_by_name(tmp_path):
    path = tmp_path / "\udcff"  # a name that is not UTF-8
    path.write_bytes(b"ab")
    assert map_file(os.fsencode(path)).tolist() == [97, 98]
    path.write_bytes(b"")
    assert map_file(os.fsencode(path)).shape == (0,)
    with pytest.raises(FileNotFoundError) as caught:
        map_file(b"/none")
    assert caught.value.filename == b"/none"
    with pytest.raises(OSError, match="No such device"):
        map_file(os.fsencode(tmp_path))


@pytest.mark.parametrize(
    ("sentences", "words", "message"),
    [
        ([], None, "no sentences"),
        ([[1], []], None, "sentence 1 has 0 tokens"),
        ([[1] * 65_536], None, "sentence 0 has 65536 tokens, expected 1 to 65535"),
        ([[1], [5, 2048]], None, "sentence 1, token 1 is 2048, outside the vocabulary 0 to 2047"),
        ([[1], [5, -1]], None, "sentence 1, token 1 is -1, outside"),
        ([[70_000]], None, "sentence 0, token 0 is 70000, outside"),
        ([[1 << 70]], None, "a token is beyond 64 bits"),
        ([[1], [2, True]], None, "sentence 1, token 1 is True, expected an integer"),
        ([[1, 1.0]], None, "sentence 0, token 1 is 1.0, expected an integer"),
        ([[1, None]], None, "sentence 0, token 1 is None, expected an integer"),
        ([[1, [2]]], None, r"sentence 0, token 1 is \[2\], expected an integer"),
        ([["1"]], None, "sentence 0, token 0 is '1', expected an integer"),
        ([np.array([1.5])], None, "expected an integer"),
        ([np.array([True])], None, "expected an integer"),
        (STORY, WORDS[:2], "words of 2 sentences, expected 3"),
        (STORY, [[1], [0], [0]], "sentence 0: word offsets"),
        (STORY, [[0], [], [0]], "sentence 1: word offsets"),
        (STORY, [[0], [0], [0, 2]], "sentence 2: word offsets"),
        (STORY, [[0, 2, 1], [0], [0]], "sentence 0: word offsets"),
        (STORY, [[0, 1, 1], [0], [0]], "sentence 0: word offsets"),
        (STORY, [[0, 1.5], [0], [0]], "sentence 0, word offset 1 is 1.5, expected an integer"),
    ],
)
def test_a_bad_document_is_refused_with_its_place(sentences, words, message, tmp_path):
    with (
        ShardWriter(tmp_path, "en", UNITS) as writer,
        pytest.raises(ValueError, match=rf"document 'k' \(en\): .*{message}"),
    ):
        writer.add("k", sentences, words)
    assert list(tmp_path.iterdir()) == []


def test_a_sentence_of_65535_tokens_fits(tmp_path):
    content = [("a", [[3] * 65_535], None)]
    assert read(write(tmp_path, content)) == content


def test_a_key_that_is_taken_or_not_unicode_is_refused(tmp_path):
    with ShardWriter(tmp_path, "en", UNITS, max_bytes=1) as writer:
        writer.add("a", [[1]])
        writer.add("b", [[1]])  # the shard with "a" is closed by now
        with pytest.raises(ValueError, match=r"document 'a' \(en\): this key is taken"):
            writer.add("a", [[2]])
        with pytest.raises(ValueError, match="surrogates"):
            writer.add("\ud800", [[2]])


def test_documents_with_and_without_words_do_not_mix(tmp_path):
    with ShardWriter(tmp_path, "en", UNITS) as writer:
        writer.add("a", STORY, WORDS)
        with pytest.raises(ValueError, match="some documents have words, some do not"):
            writer.add("b", STORY)


@pytest.mark.parametrize("language", ["", "../en", "e n", "-en", "é", "e" * 33])
def test_a_language_that_is_no_file_name_is_refused(language, tmp_path):
    with pytest.raises(ValueError, match="language"):
        ShardWriter(tmp_path, language, UNITS)


@pytest.mark.parametrize(("rate", "vocabulary"), [("12.5", 8), ("25/0", 8), ("0", 8), ("25", 0)])
def test_a_tokenizer_without_a_sensible_rate_or_vocabulary_is_refused(rate, vocabulary):
    with pytest.raises(ValueError, match=r"frame_rate|vocab_size"):
        Tokenizer("t", "", rate, vocabulary)


def test_hours_are_exact_fractions_of_the_frame_rate():
    assert UNITS.hours(45_000) == 1.0


def test_key_hashes_are_those_of_the_published_algorithm():
    assert key_hash("") == 0x2D06800538D394C2  # xxHash's own test vector for XXH3_64bits, seed 0


def test_pack_keeps_the_order_of_tokens_and_sentences():
    packed = pack(STORY, WORDS, UNITS)
    assert packed.tokens.tolist() == [1, 2, 3, 2047, 0, 0]
    assert packed.sentence_lengths.tolist() == [3, 1, 2]
    assert packed.word_lengths.tolist() == [1, 2, 1, 1, 1]


# Damaged files: each case edits the tensors, the header or the bytes of a good shard


@pytest.fixture
def good(tmp_path) -> Path:
    return write(tmp_path, [("a", STORY, WORDS), ("bé", [[7], [8]], [[0], [0]])])[0]


def rewritten(good: Path, **changes) -> Path:
    """Write the shard by the library with other metadata or tensors; None drops a tensor."""
    with safe_open(good, "numpy") as file:
        metadata = dict(file.metadata()) | changes.pop("metadata", {})
    tensors = {k: v for k, v in (load_file(good) | changes).items() if v is not None}
    path = good.with_name("bad.safetensors")
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": np.zeros(8, np.uint32)}, "tokens are uint32, a vocab.* needs uint16"),
        ({"tokens": np.zeros(8, np.int64)}, "tokens is I64, expected U16 or U32"),
        ({"tokens": np.zeros(7, np.uint16)}, "metadata says 8 tokens, the arrays hold 7"),
        ({"tokens": None}, "tensor tokens is missing"),
        ({"extra": np.zeros(2, np.uint8)}, "unknown tensor 'extra'"),
        ({"word_lengths": None}, "word_lengths and document_words come together"),
        ({"document_tokens": np.array([0, 9, 8])}, "document_tokens goes from 0 to 9; .*by 8"),
        ({"document_tokens": np.array([1, 6, 8])}, "document_tokens runs from 1 to 8"),
        ({"document_tokens": np.array([0, 6, 9])}, "document_tokens runs from 0 to 9"),
        ({"document_tokens": np.array([0, 0, 8])}, "document 0: document_tokens goes from 0 to 0"),
        ({"document_tokens": np.array([0, -1, 8])}, "document_tokens goes from 0 to -1"),
        ({"document_tokens": np.array([0, 8])}, "document_tokens has 2 elements, expected 3"),
        ({"document_tokens": np.array([0, 5, 8])}, "document 0: document_lengths is not what"),
        ({"document_lengths": np.array([6], np.uint32)}, "document_lengths has 1 elements"),
        ({"document_sentences": np.array([0, 2, 5])}, "document 0: its sentences do not add up"),
        ({"document_sentences": np.array([0, 5, 5])}, "document 1: document_sentences goes from 5"),
        ({"sentence_lengths": np.array([3, 1, 2, 2, 0], np.uint16)}, "sentence 4 is empty"),
        ({"sentence_lengths": np.array([3, 1, 2, 3, 1], np.uint16)}, "document 1: its sent"),
        ({"key_offsets": np.array([0, 9, 4])}, "document 0: key_offsets goes from 0 to 9"),
        ({"keys": np.zeros(3, np.uint8)}, "key_offsets runs from 0 to 4, expected 0 to 3"),
        ({"word_lengths": np.array([1, 3, 1, 0, 1, 1, 1], np.uint16)}, "word 3 is empty"),
        ({"word_lengths": np.array([1, 3, 0, 1, 1, 1, 1], np.uint16)}, "word 2 is empty"),
        ({"word_lengths": np.array([2, 2, 1, 0, 1, 1, 1], np.uint16)}, "is empty"),
        ({"word_lengths": np.array([2, 2, 1, 1, 1, 1, 1], np.uint16)}, "document 0: its words do"),
        ({"word_lengths": np.array([1, 1, 2, 1, 1, 1, 1], np.uint16)}, "crosses .* sentence 0"),
        ({"metadata": {"format": "other"}}, "format 'other' version '1', expected 'tresse-shard'"),
        ({"metadata": {"version": "2"}}, "format 'tresse-shard' version '2'"),
        ({"metadata": {"num_tokens": "7"}}, "metadata says 7 tokens, the arrays hold 8"),
        ({"metadata": {"num_tokens": "x"}}, "metadata: invalid literal"),
        ({"metadata": {"num_tokens": " 8"}}, "fields or forms beyond version 1"),
        ({"metadata": {"more": "1"}}, "fields or forms beyond version 1"),
        ({"metadata": {"language": "../x"}}, "metadata: language '../x'"),
        ({"metadata": {"tokenizer_frame_rate": "0"}}, "metadata: frame_rate is '0'"),
    ],
)  # fmt: skip
def test_a_shard_whose_arrays_disagree_is_refused(changes, message, good):
    path = rewritten(good, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        Shard.open(path)
    assert str(path) in str(caught.value)


def test_a_shard_cut_or_extended_anywhere_is_refused(good):
    content = good.read_bytes()
    bad = good.with_name("bad.safetensors")
    for size in range(len(content)):
        bad.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"bad\.safetensors"):
            Shard.open(bad)
    bad.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match=r"the header describes .* bytes, the file holds"):
        Shard.open(bad)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.safetensors: cannot be read"):
        Shard.open(tmp_path / "none.safetensors")


def with_header(good: Path, edit) -> Path:
    content = good.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = edit(content[8 : 8 + length])
    path = good.with_name("bad.safetensors")
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return path


def changed(name: str, **fields):
    def edit(text: bytes) -> bytes:
        header = json.loads(text)
        header[name] |= fields
        encoded = json.dumps(header, separators=(",", ":")).encode()
        return encoded + b" " * (-(8 + len(encoded)) % 64)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: b"\xff" + text[1:], "the header is not JSON"),
        (lambda text: b"x" + text[1:], "the header is not JSON"),
        (lambda text: b"[]" + b" " * (len(text) - 2), "the header is not a JSON object"),
        (lambda text: b"[" * len(text), "the header is not JSON"),
        (lambda text: text.replace(b'"keys"', b'"tokens"'), "field 'tokens' occurs twice"),
        (lambda _: b"{" + b" " * (1 << 20) + b"}", "with a header of"),
        (changed("tokens", dtype="F16"), "tokens has dtype 'F16'"),
        (changed("tokens", dtype=3), "tokens has dtype 3"),
        (changed("tokens", shape=[2, 4]), "tokens has shape"),
        (changed("tokens", shape=[8.0]), "tokens has shape"),
        (changed("tokens", shape=[-8]), "tokens has shape"),
        (changed("tokens", shape=[1 << 62]), "tokens has 4611686018427387904"),
        (changed("tokens", data_offsets=[0, 16]), "starts at byte|tokens has 8"),
        (changed("tokens", extra=1), "needs dtype, shape and data_offsets"),
        (changed("__metadata__", language=1), "__metadata__ is not a map of strings"),
        (
            lambda text: text.rstrip() + b" " * ((1 - len(text.rstrip())) % 8),
            "at bytes",
        ),  # unaligned
    ],
)
def test_a_header_that_lies_is_refused(edit, message, good):
    path = with_header(good, edit)
    with pytest.raises(ValueError, match=message) as caught:
        Shard.open(path)
    assert str(path) in str(caught.value)


def test_any_changed_byte_of_the_header_or_index_is_an_error_or_harmless(good):
    content = bytearray(good.read_bytes())
    bad = good.with_name("bad.safetensors")
    for place in range(len(content)):
        for flip in (1, 0x80):
            changed_content = bytearray(content)
            changed_content[place] ^= flip
            bad.write_bytes(changed_content)
            with suppress(ValueError):
                shard = Shard.open(bad)
                assert [len(shard.document(i)) for i in range(2)] == [3, 2]


def test_offsets_beyond_32_bits_are_kept(tmp_path):
    keys = [[f"{s}/{i}" for i in range(3)] for s in range(2)]
    lengths = [65_535] * 16_000  # 1.05 G tokens a document, 3.1 G a shard, 6.3 G in all
    corpus = write_sparse_corpus(tmp_path / "c", {"en": keys}, lengths, UNITS)
    last = corpus.shards["en"][1]
    assert corpus.num_tokens("en") == 6 * 16_000 * 65_535 > 1 << 32
    poke(last.path, last.tokens.size - 2, [11, 12])
    assert corpus.document("en", 5)[-1][-3:].tolist() == [0, 11, 12]
    blocks = sum(s.path.stat().st_blocks for s in corpus.shards["en"])
    assert blocks * 512 < 10_000_000  # the tokens are a hole
