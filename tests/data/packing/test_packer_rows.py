"""Rows of a stage: shares, budgets, boundaries, sizes beyond 32 bits, and errors."""

import mmap
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.support.corpora.in_memory import MemoryCorpus, memory_corpus, random_texts
from tests.support.corpora.unique import batches, unique_corpus
from tests.support.corpora.vocabularies import vocabulary_of
from tests.support.labels import counted_labels
from tresse.data.packing import reference
from tresse.data.packing.packer import Batch, Plan, _open_packer, plan_rows
from tresse.data.packing.settings import Packing, Stream, split_targets
from tresse.data.packing.sources import Sources
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer

EN, FR, DE = (Stream(languages=(name,)) for name in ("en", "fr", "de"))
SAMPLE = Stream(languages=("en", "fr"), mode="sample")
ALTERNATE = Stream(languages=("en", "fr"), mode="alternate")
BRAID = Stream(languages=("en", "fr"), mode="alternate")
PACKINGS = [
    Packing(row_length=31),
    Packing(row_length=31, mask_documents=True),
    Packing(row_length=31, mode="best_fit", separators="eos"),
    Packing(row_length=31, mode="best_fit", separators="bos_eos", mask_documents=True),
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    texts = random_texts(np.random.default_rng(0), ("de", "en", "fr"), 40)
    return memory_corpus(texts, num_shards=2)


def plan(corpus: Any, *streams: Stream, packing: Packing, tokens: int) -> Plan:
    return plan_rows(cast(Corpus, corpus), streams, packing, tokens=tokens, seed=1, stage=0)


def contents(batch: Batch) -> list[bytes]:
    """Return the bytes of all arrays of a batch."""
    return [value.tobytes() for value in vars(batch).values()]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("streams", [(EN,), (SAMPLE,), (EN, FR), (EN, BRAID, SAMPLE)])
@pytest.mark.parametrize("tokens", [3, 31, 1009, 20_000])
def test_counted_targets_are_the_budget(corpus, packing, streams, tokens):
    planned = plan(corpus, *streams, packing=packing, tokens=tokens)
    counted = sum(int(counted_labels(b, packing.mask_documents).sum()) for b in batches(planned))
    assert counted == tokens == planned.num_targets


@pytest.mark.parametrize("packing", PACKINGS)
def test_mono_streams_meet_their_language_budgets_to_the_token(corpus, packing):
    streams = [Stream(languages=(n,), weight=w) for n, w in (("en", 0.3), ("fr", 0.5), ("de", 0.2))]
    planned = plan(corpus, *streams, packing=packing, tokens=10_007)
    counts = np.zeros(len(planned.languages), int)
    for batch in batches(planned):
        labels = batch.language_ids()[:, 1:][counted_labels(batch, packing.mask_documents)]
        counts += np.bincount(labels, minlength=len(counts))
    shares = split_targets(10_007, streams)
    assert sum(shares) == 10_007
    assert dict(zip(planned.languages, counts.tolist(), strict=True)) == {
        "en": shares[0], "fr": shares[1], "de": shares[2]
    }  # fmt: skip
    assert all(abs(s - w) < 3 for s, w in zip(shares, (3002.1, 5003.5, 2001.4), strict=True))


@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 3), (0.1, 0.7, 0.2), (5, 1, 1, 1, 3)])
def test_every_prefix_has_its_shares_to_within_a_row_per_stream(weights):
    sizes = [round(1000 * w) for w in weights]
    counts = np.zeros(len(sizes), int)
    for row in range(sum(sizes)):
        stream, index = reference.slot(row, sizes)
        assert index == counts[stream]  # consecutive
        counts[stream] += 1
        exact = (row + 1) * np.array(sizes) / sum(sizes)
        assert (abs(counts - exact) < len(sizes)).all()
    assert counts.tolist() == sizes


def test_weights_split_targets_as_the_decimals_they_are():
    streams = [Stream(languages=("en",), weight=w) for w in (0.3, 0.7)]
    assert split_targets(10, streams) == [3, 7]
    assert split_targets(1, streams[:1]) == [1]


@pytest.mark.parametrize("stream", [EN, BRAID, SAMPLE])
def test_labels_of_concat_continue_across_rows(stream):
    corpus, _ = unique_corpus(("en", "fr"), 30)
    planned = plan(corpus, stream, packing=Packing(row_length=13), tokens=5000)
    rows = np.concatenate([b.tokens for b in batches(planned)])
    languages = np.concatenate([b.language_ids() for b in batches(planned)])
    assert np.array_equal(rows[:-1, -1], rows[1:, 0])
    assert np.array_equal(languages[:-1, -1], languages[1:, 0])


def test_best_fit_keeps_every_document_whole_and_wastes_little():
    rng = np.random.default_rng(0)
    texts = random_texts(rng, ("en",), 5000, max_sentences=4, max_tokens=60)
    packing = Packing(row_length=255, mode="best_fit", separators="eos")
    corpus = memory_corpus(texts)
    per_epoch = sum(int(s.document_lengths.sum()) for s in corpus.shards["en"]) + 5000
    planned = plan(corpus, EN, packing=packing, tokens=per_epoch)
    seen: list[bytes] = []
    for batch in batches(planned):
        ends = batch.num_valid + 1
        for tokens, end in zip(batch.tokens, ends, strict=True):
            parts = np.split(tokens[:end], np.flatnonzero(tokens[:end] == 2048) + 1)
            seen += [part.tobytes() for part in parts if len(part)]
    whole = [
        np.array([u for s in text for u in s] + [2048], np.uint16).tobytes()
        for text in texts["en"].values()
    ]
    assert Counter(seen[:5000]) == Counter(whole)
    used = np.concatenate([b.num_valid + 1 for b in batches(planned)])[:-1]
    assert used.sum() / (used.size * 256) > 0.99


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("threads", [2, 3, 8, 100])
def test_threads_and_batches_change_nothing(corpus, packing, threads):
    planned = plan(corpus, EN, BRAID, SAMPLE, packing=packing, tokens=9000)
    assert contents(planned.fill(5, 64, threads=threads)) == contents(planned.fill(5, 64))
    whole = planned.fill(0, planned.num_rows).tokens
    for first, num in ((0, 1), (planned.num_rows - 1, 1), (17, 9), (3, 100)):
        assert np.array_equal(planned.fill(first, num).tokens, whole[first : first + num])


@pytest.mark.parametrize("packing", PACKINGS)
def test_more_steps_change_no_earlier_row(corpus, packing):
    """All rows but the last of each stream, where the smaller budget masks the end."""
    short = plan(corpus, EN, packing=packing, tokens=3000)
    long = plan(corpus, EN, packing=packing, tokens=300_000)
    num = short.num_rows - 1
    assert contents(short.fill(0, num)) == contents(long.fill(0, num))


def test_more_steps_change_no_earlier_row_of_a_mixture(corpus):
    streams = [EN, Stream(languages=("en", "fr"), mode="sample", weight=2)]
    short = plan(corpus, *streams, packing=PACKINGS[0], tokens=31 * 300)
    long = plan(corpus, *streams, packing=PACKINGS[0], tokens=31 * 300_000)
    assert short.num_rows == 300
    assert contents(short.fill(0, 300)) == contents(long.fill(0, 300))


def test_rows_past_the_end_are_empty(corpus):
    planned = plan(corpus, EN, packing=PACKINGS[0], tokens=100)
    batch = planned.fill(planned.num_rows, 3)
    assert not batch.tokens.any()
    assert batch.num_valid.tolist() == [0, 0, 0]
    assert batch.cu_seqlens.tolist() == [0, 31, 62, 93]
    assert batch.language_ids().shape == (3, 32)


@pytest.mark.parametrize("stream", [EN, BRAID, SAMPLE])
def test_a_row_after_a_trillion_tokens_is_the_one_of_its_epoch(corpus, stream):
    T = 31
    planned = plan(corpus, stream, packing=Packing(row_length=T), tokens=10**15)
    row = 10**12 // T
    # In `sample`, two epochs have all the sentences; in the other modes every epoch has.
    period = 2 if stream is SAMPLE else 1
    epochs = [epoch_of(corpus, stream, e) for e in range(period)]
    size = sum(map(len, epochs))
    epoch, offset = row * T // size * period, row * T % size
    tokens = [t for e in range(period + 1) for t in epoch_of(corpus, stream, epoch + e)]
    assert planned.fill(row, 1).tokens[0].tolist() == tokens[offset : offset + T + 1]


def epoch_of(corpus: Corpus, stream: Stream, epoch: int) -> list[int]:
    documents = reference.epoch_documents(
        corpus, stream, Packing(), Vocabulary(corpus.tokenizers), (1, 0, 0), epoch
    )
    return [token.id for document in documents for token in document]


def sparse_tokens(path: Path, size: int, marks: list[int]) -> np.ndarray:
    """Write a file of zeros, with 1, 2, 3 ... at each mark."""
    with path.open("wb") as file:
        file.truncate(2 * size)
    tokens = np.memmap(path, np.uint16, "r+")
    for mark in marks:
        end = min(mark + 64, size)
        tokens[mark:end] = np.arange(1, end - mark + 1)
    return np.memmap(path, np.uint16, "r")


def test_offsets_beyond_2_to_the_32_in_sparse_shards(tmp_path):
    """Two shards of 2.6e9 and 2.3e9 tokens, one document each, that take almost no disk space."""
    sentence = 65_535
    sizes = [40_000 * sentence, 35_000 * sentence]
    assert sizes[0] > 2**31
    assert sum(sizes) > 2**32
    corpus = MemoryCorpus(
        {"en": {"a": [[0]], "b": [[0]]}, "fr": {"a": [[0]], "b": [[0]]}}, num_shards=2
    )
    marks = [0, 2**31 - 31, sizes[0] - 20]
    for i, (en, fr) in enumerate(zip(*(corpus.shards[n] for n in ("en", "fr")), strict=True)):
        size = sizes[i]
        for shard in (en, fr):
            shard.tokens = sparse_tokens(
                tmp_path / f"{i}{shard is fr}", size, [m for m in marks if m < size]
            )
            shard.sentence_lengths = np.full(size // sentence, sentence, np.uint16)
            shard.document_lengths = np.array([size], np.uint32)
            shard.document_tokens = np.array([0, size], np.int64)
            shard.document_sentences = np.array([0, size // sentence], np.int64)
    T = 2048
    planned = plan(corpus, EN, packing=Packing(row_length=T), tokens=2 * sum(sizes))
    order = [
        reference.permute(2, reference.hash_words(1, reference.ORDER, 0, 0, 0), i) for i in (0, 1)
    ]
    starts = {order[0]: 0, order[1]: sizes[order[0]]}
    for shard, mark in [(0, m) for m in marks] + [(1, 0), (1, 2**31 - 31)]:
        position = starts[shard] + mark
        row = planned.fill(position // T, 2).tokens[:, :-1].reshape(-1)
        start = position % T
        num = min(64, sizes[shard] - mark)
        assert row[start : start + num].tolist() == list(range(1, num + 1))
    braid = Stream(languages=("en", "fr"), mode="alternate", language_order="fixed")
    planned = plan(corpus, braid, packing=Packing(row_length=T), tokens=4 * sum(sizes))
    sentence_of = (2**31 - 31) // sentence  # the mark's; before it the other language's turns
    position = 2 * starts[0] + 2 * sentence_of * sentence + (2**31 - 31) % sentence
    row = planned.fill(position // T, 2).tokens[:, :-1].reshape(-1)
    assert row[position % T : position % T + 64].tolist() == list(range(1, 65))


def test_masked_documents_give_no_label_across_documents(corpus):
    packing = Packing(row_length=16, separators="eos", mask_documents=True)
    planned = plan(corpus, EN, packing=packing, tokens=4000)
    for batch in batches(planned):
        ends = batch.tokens[:, :-1] == planned.vocabulary.eos
        assert not (counted_labels(batch, True) & ends).any()
        before = counted_labels(batch, True) | ends
        assert (before == (np.arange(16) < batch.num_valid[:, None]) | ends).all()


def test_a_real_corpus_packs_and_outlives_its_python_objects(tmp_path):
    units = np.arange(100, dtype=np.uint16)
    texts = [
        Document(f"{i}", n, [units[: 5 + i], units[:3]]) for i in range(9) for n in ("en", "fr")
    ]
    corpus = write_corpus(tmp_path / "corpus", texts, Tokenizer("test", "", "25/2", 2048))
    arguments = (SAMPLE,), Packing(row_length=16, separators="eos")
    options: Any = {"tokens": 500, "seed": 0, "stage": 0}
    rows = reference.reference_rows(Sources((corpus,)), *arguments, **options)
    planned = plan_rows(corpus, *arguments, **options)
    del corpus
    batch = planned.fill(0, planned.num_rows)
    assert batch.tokens.tolist() == [[t.id for t in row.tokens] for row in rows]


def test_the_summary_says_what_a_stage_takes():
    texts = random_texts(np.random.default_rng(0), ("en", "fr"), 10)
    texts["fr"] |= {f"only {i}": [[1, 2]] for i in range(3)}
    planned = plan(memory_corpus(texts), SAMPLE, packing=Packing(row_length=8), tokens=1000)
    assert "10 documents" in planned.summary()
    assert "left out: fr 3" in planned.summary()
    stream = planned.streams[0]
    assert sum(stream.targets.values()) == pytest.approx(1000)
    assert planned.num_rows == stream.num_rows == 125


def test_a_vocabulary_pads_the_logits_and_holds_the_specials():
    assert (vocabulary_of(2048).num_used, vocabulary_of(2048).width) == (2048, 2048)
    special = vocabulary_of(2048, has_specials=True)
    assert (special.eos, special.bos, special.switch) == (2048, 2049, 2050)
    assert (special.num_used, special.width) == (2051, 2176)
    assert vocabulary_of(65_536).dtype == np.uint16
    assert vocabulary_of(65_536, has_specials=True).dtype == np.uint32


@pytest.mark.parametrize(
    ("separators", "bos", "eos", "before"),
    [("none", None, None, None), ("eos", None, 2048, 2048), ("bos_eos", 2049, 2048, 2049)],
)
@pytest.mark.parametrize("switch", [False, True])
def test_a_packing_inserts_the_specials_that_it_names(separators, bos, eos, before, switch):
    packing = Packing(separators=separators, language_switch=switch)
    specials = vocabulary_of(2048, has_specials=packing.uses_specials).specials(packing)
    assert (specials.bos, specials.eos) == (bos, eos)
    assert specials.switch == (2050 if switch else None)
    assert specials.before_document == before
    assert specials.num_separators == (bos is not None) + (eos is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ()}, "takes one language"),
        ({"languages": ("en", "fr")}, "mono takes one language"),
        ({"languages": ("en",), "mode": "alternate"}, "takes two or more"),
        ({"languages": ("en",), "mode": "sample"}, "takes two or more"),
        ({"languages": ("en", "en"), "mode": "sample"}, "named twice"),
        ({"languages": ("en",), "mode": "mixed"}, "'mixed'"),
        ({"languages": ("en",), "weight": 0.0}, "weight is 0.0"),
        ({"languages": ("en",), "weight": -1.0}, "weight is -1.0"),
        ({"languages": ("en",), "weight": float("nan")}, "weight is nan"),
        ({"languages": ("en",), "weight": float("inf")}, "weight is inf"),
        ({"languages": ("en",), "probabilities": (1.0,)}, "probabilities are for mode sample"),
        ({"languages": ("en", "fr"), "mode": "sample", "probabilities": (1.0,)}, "1 probabilities"),
        ({"languages": ("en", "fr"), "mode": "sample", "probabilities": (0.5, 0.6)}, "sum to 1"),
        ({"languages": ("en", "fr"), "mode": "sample", "probabilities": (1.5, -0.5)}, "sum to 1"),
        ({"languages": ("en", "fr"), "mode": "alternate", "language_order": "en"}, "'en'"),
    ],
)
def test_a_stream_that_means_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Stream(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row_length": 0}, "row_length is 0"),
        ({"mode": "pad"}, "'pad'"),
        ({"separators": "bos"}, "'bos'"),
    ],
)
def test_a_packing_that_means_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Packing(**options)


def test_what_a_corpus_cannot_give_is_refused(corpus):
    packing = Packing(row_length=8)
    with pytest.raises(ValueError, match="no language 'it'; there are de, en, fr"):
        plan(corpus, Stream(languages=("it",)), packing=packing, tokens=10)
    apart = memory_corpus({"en": {"a": [[1]]}, "fr": {"b": [[1]]}})
    with pytest.raises(ValueError, match="no key is in all of en, fr"):
        plan(apart, SAMPLE, packing=packing, tokens=10)
    uneven = memory_corpus({"en": {"a": [[1], [2]]}, "fr": {"a": [[1]]}})
    for stream in (SAMPLE, ALTERNATE):
        with pytest.raises(ValueError, match="key 'a' has 2 sentences in en, 1 sentences in fr"):
            plan(uneven, stream, packing=packing, tokens=2)
    with pytest.raises(ValueError, match="0 targets"):
        plan(corpus, EN, packing=packing, tokens=0)
    with pytest.raises(ValueError, match="leaves it 0 targets"):
        plan(corpus, Stream(languages=("en",), weight=1e-9), FR, packing=packing, tokens=1000)
    with pytest.raises(ValueError, match="at least one stream"):
        plan(corpus, packing=packing, tokens=10)


@pytest.mark.parametrize("uneven", [[0], [4999], [2600, 4998], [17, 18, 2500]])
def test_the_first_key_of_different_numbers_of_sentences_is_named(uneven):
    """There are so many documents that several threads search them."""
    texts = {name: {str(i): [[1], [2]] for i in range(5000)} for name in ("en", "fr")}
    for i in uneven:
        texts["fr"][str(i)] = [[1]]
    message = f"key '{uneven[0]}' has 2 sentences in en, 1 sentences in fr"
    with pytest.raises(ValueError, match=message):
        plan(memory_corpus(texts), SAMPLE, packing=Packing(row_length=8), tokens=10)


@pytest.mark.parametrize(
    "column",
    [np.zeros(2, np.int32), np.zeros(2), np.zeros(4, np.int64)[::2]],
    ids=["int32", "float64", "strided"],
)
def test_columns_are_never_copied_into_another_type(corpus, column):
    vocabulary = Vocabulary(corpus.tokenizers)
    packer, _ = _open_packer(Sources((corpus,)), vocabulary, Packing(row_length=8))
    assert packer.find_uneven([1, 1], [np.zeros(2, np.int64)] * 2, "sentence", "") == -1
    with pytest.raises(TypeError, match="incompatible function arguments"):
        packer.find_uneven([1, 1], [column, column], "sentence", "")


@pytest.mark.parametrize("mode", ["concat", "best_fit"])
def test_documents_without_any_target_are_refused(mode):
    corpus = memory_corpus({"en": {"a": [[1]]}})
    packing = Packing(row_length=8, mode=mode, mask_documents=True)
    with pytest.raises(ValueError, match="no targets"):
        plan(corpus, EN, packing=packing, tokens=10)


def test_a_fill_that_cannot_be_is_refused(corpus):
    planned = plan(corpus, EN, packing=Packing(row_length=8), tokens=100)
    for first, num, threads in ((-1, 1, 1), (0, 1, 0)):
        with pytest.raises(ValueError, match="a batch needs"):
            planned.fill(first, num, threads=threads)
    with pytest.raises(TypeError):
        planned.fill(0, 4, allocate=lambda shape, _: np.zeros(shape, np.int64))
    with pytest.raises(ValueError, match=r"tokens must be \[rows, 9\]"):
        planned.fill(0, 4, allocate=lambda shape, dtype: np.zeros((4, 8)[: len(shape)], dtype))
    wide = plan(corpus, EN, packing=Packing(row_length=1 << 20), tokens=100)
    with pytest.raises(ValueError, match="too large"):
        wide.fill(0, 1 << 12, allocate=untouched)


def untouched(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return memory that is only reserved."""
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, num_bytes), dtype).reshape(shape)


def test_sentences_that_do_not_add_up_are_refused():
    corpus = MemoryCorpus({"en": {"a": [[1, 2], [3]]}, "fr": {"a": [[1, 2], [3]]}})
    corpus.shards["fr"][0].sentence_lengths[1] = 60_000
    with pytest.raises(ValueError, match="do not fit each other"):
        plan(corpus, BRAID, packing=Packing(row_length=8), tokens=100).fill(0, 1)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_packs_without_the_threads_it_left_behind(corpus):
    planned = plan(corpus, EN, BRAID, packing=PACKINGS[0], tokens=9000)
    expected = contents(planned.fill(0, 64, threads=3))
    child = os.fork()
    if child == 0:
        same = contents(planned.fill(0, 64, threads=3)) == expected
        del planned
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_packer_needs_no_torch():
    code = "import sys, tresse.data.packing.loader; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
