"""Copies from the pool give the same batches as `fill`, bit for bit, with their labels."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.corpora.in_memory import (
    MemoryCorpus,
    memory_corpus,
    packings,
    plan_or_reject,
    random_texts,
    sources,
    streams_of,
)
from tests.support.corpora.unique import unique_corpus
from tests.support.small_run import KILLED, TRAIN, arguments, step_records
from tests.support.warm import torchrun
from tresse.data.packing.packer import Copies, Plan, plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.packing.sources import Sources
from tresse.data.store.corpus import Corpus
from tresse.engine import batches as batches_module
from tresse.engine.batches import DeviceBatch, to_device, upload_pool

CPU = torch.device("cpu")
EN = Stream(languages=("en",))
SAMPLE = Stream(languages=("en", "fr"), mode="sample")
BRAID = Stream(languages=("en", "fr"), mode="alternate", language_order="fixed")


def assert_same(found: DeviceBatch, expected: DeviceBatch) -> None:
    for name in ("tokens", "labels", "languages", "cu_seqlens"):
        left, right = getattr(found, name), getattr(expected, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype, name
            assert torch.equal(left, right), name


def copied(plan: Plan, pool: torch.Tensor, first: int, size: int, threads: int = 1) -> DeviceBatch:
    copies = plan.copies(first, size, threads=threads)
    return to_device(copies, CPU, plan.packing.mask_documents, pool)


def filled(plan: Plan, first: int, size: int) -> DeviceBatch:
    return to_device(plan.fill(first, size), CPU, plan.packing.mask_documents)


def plan_of(corpus: Corpus, *streams: Stream, packing: Packing, tokens: int = 2000) -> Plan:
    return plan_rows(corpus, streams, packing, tokens=tokens, seed=1, stage=0)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_batches_from_the_pool_are_those_of_a_fill(data: st.DataObject) -> None:
    read = data.draw(sources())
    streams = data.draw(st.lists(streams_of(read), min_size=1, max_size=3))
    packing = data.draw(packings)
    tokens, seed = data.draw(st.integers(100, 400)), data.draw(st.integers(0, 2**64 - 1))
    plan = plan_or_reject(read, streams, packing, tokens=tokens, seed=seed, stage=0)
    pool = upload_pool(read, CPU)
    size, threads = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    for first in range(0, plan.num_rows + 2, size):  # and rows past the end
        assert_same(copied(plan, pool, first, size, threads), filled(plan, first, size))


@pytest.mark.parametrize(
    ("vocab_size", "separators"), [(65536, "none"), (65536, "bos_eos"), (70000, "eos")]
)
def test_ids_keep_their_bits_in_every_dtype(vocab_size: int, separators) -> None:
    """With 65,536 units and specials the pool is uint16 and the batch uint32."""
    texts = random_texts(np.random.default_rng(0), ("en", "fr"), 30, vocab_size=vocab_size)
    texts["en"]["key 0"][0][0] = vocab_size - 1
    corpus = memory_corpus(texts, vocab_size=vocab_size)
    packing = Packing(row_length=31, separators=separators, language_switch=separators != "none")
    plan, pool = plan_of(corpus, SAMPLE, EN, packing=packing), upload_pool(Sources((corpus,)), CPU)
    batch = copied(plan, pool, 0, plan.num_rows)
    assert_same(batch, filled(plan, 0, plan.num_rows))
    assert int(batch.tokens.max()) >= vocab_size - 1


@pytest.mark.parametrize("mode", ["concat", "best_fit"])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_copies_depend_neither_on_threads_nor_on_the_batch(mode, threads: int) -> None:
    corpus = memory_corpus(random_texts(np.random.default_rng(0), ("en", "fr"), 40), num_shards=2)
    packing = Packing(row_length=31, mode=mode, separators="eos", language_switch=True)
    plan = plan_of(corpus, EN, BRAID, SAMPLE, packing=packing)
    whole = plan.copies(3, 40)
    found = plan.copies(3, 40, threads=threads)
    for name, value in vars(whole).items():
        assert np.array_equal(getattr(found, name), value), name
    rows = [plan.copies(row, 1).copies for row in range(3, 43)]
    for number, row in enumerate(rows):
        row[:, 1] += number * 32
    assert np.array_equal(np.concatenate(rows), whole.copies)


def lengths(copies: Copies) -> np.ndarray:
    starts = copies.copies[:, 1] & 0xFFFFFFFF
    return np.diff(starts, append=len(copies.num_valid) * (copies.row_length + 1))


def test_a_copy_ends_only_where_the_next_token_is_elsewhere() -> None:
    """Consecutive sentences of one language are one copy, and so is a document of one language."""
    corpus, _ = unique_corpus(("en", "fr"), 30)
    assert isinstance(corpus, MemoryCorpus)
    for stream in (EN, SAMPLE, BRAID):
        plan = plan_of(corpus, stream, packing=Packing(row_length=100))  # type: ignore[arg-type]
        copies = plan.copies(0, plan.num_rows)
        sources, languages = copies.copies[:, 0], copies.copies[:, 1] >> 32 & 0xFF
        begins = copies.copies[:, 1] >> 40
        starts = copies.copies[:, 1] & 0xFFFFFFFF
        follows = sources[1:] == sources[:-1] + lengths(copies)[:-1]
        allowed = (begins[1:] == 1) | (starts[1:] % 101 == 0) | (languages[1:] != languages[:-1])
        assert (lengths(copies) > 0).all()
        assert allowed[follows].all()


def test_documents_that_are_neighbours_in_the_pool_stay_apart() -> None:
    """With one document per language, the start of one follows the end of the other."""
    corpus = memory_corpus({"en": {"a": [[1, 2, 3]]}, "fr": {"a": [[4, 5]]}})
    packing = Packing(row_length=9, mask_documents=True)
    plan, pool = (
        plan_of(corpus, BRAID, packing=packing, tokens=50),
        upload_pool(Sources((corpus,)), CPU),
    )
    assert_same(copied(plan, pool, 0, plan.num_rows), filled(plan, 0, plan.num_rows))
    assert plan.copies(0, 1).copies[:, 0].tolist() == [0, 3, 0, 3]
    corpus = memory_corpus({"en": {f"{i}": [[i, i]] for i in range(9)}})  # some in their order
    plan, pool = (
        plan_of(corpus, EN, packing=packing, tokens=500),
        upload_pool(Sources((corpus,)), CPU),
    )
    assert_same(copied(plan, pool, 0, plan.num_rows), filled(plan, 0, plan.num_rows))


def test_the_pool_is_the_shards_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "SLICE_TOKENS", 7)
    corpus = memory_corpus(random_texts(np.random.default_rng(0), ("en", "fr"), 9), num_shards=3)
    shards = [s.tokens for s in itertools.chain(corpus.shards["en"], corpus.shards["fr"])]
    assert np.array_equal(upload_pool(Sources((corpus,)), CPU).numpy(), np.concatenate(shards))


def test_a_corpus_that_does_not_fit_is_an_error_that_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = memory_corpus({"en": {"a": [[1, 2, 3]]}})
    monkeypatch.setattr(batches_module, "_free_bytes", lambda _: 6)
    assert upload_pool(Sources((corpus,)), CPU).tolist() == [1, 2, 3]
    monkeypatch.setattr(batches_module, "_free_bytes", lambda _: 5)
    with pytest.raises(ValueError, match=r"need 6 bytes .*, 5 are free; .*--data.pack-on host"):
        upload_pool(Sources((corpus,)), CPU)


def test_offsets_beyond_2_to_the_31_in_the_pool() -> None:
    """A shard of 2^31 + 10 tokens that are only reserved, and a second shard after it."""
    size = (1 << 31) + 10
    corpus = MemoryCorpus({"en": {"a": [[1]]}, "fr": {"a": [[2, 3]]}})
    (shard,) = corpus.shards["en"]
    sentences = np.full(size // 65_535 + 1, 65_535, np.uint16)
    sentences[-1] = size % 65_535
    shard.tokens = np.zeros(size, np.uint16)  # reserved, not touched
    shard.sentence_lengths = sentences
    shard.document_lengths = np.array([size], np.uint32)
    shard.document_tokens = np.array([0, size], np.int64)
    shard.document_sentences = np.array([0, len(sentences)], np.int64)
    fr = Stream(languages=("fr",))
    plan = plan_of(corpus, fr, packing=Packing(row_length=4), tokens=8)  # type: ignore[arg-type]
    assert set(plan.copies(0, 1).copies[:, 0].tolist()) == {size}


@pytest.mark.slow
def test_a_run_packs_on_the_device_and_has_the_same_losses(
    world: Path, finished_run: Path, tmp_path: Path
) -> None:
    """The resumed run packs on the host: the place of packing changes no row."""
    run_dir = tmp_path / "run"
    job = [*arguments(world, run_dir), "--data.pack-on", "device"]
    torchrun(2, KILLED, "tresse.engine.step.apply_gradient", "6", "0", *job, check=False)
    torchrun(2, TRAIN, "--run-dir", str(run_dir), "--data.pack-on", "host", "--valid-every", "8")
    assert step_records(run_dir) == step_records(finished_run)
