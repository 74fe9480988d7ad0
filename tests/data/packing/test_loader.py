"""The steps of a stage are the same for any ranks, threads, micro-batches and interruptions."""

import threading
import time

import numpy as np
import pytest

from tests.support.corpora.in_memory import memory_corpus, random_texts
from tresse.data.packing.loader import Loader, micro_batches
from tresse.data.packing.packer import Batch, Plan, plan_rows
from tresse.data.packing.settings import Packing, Stream

R = 24


@pytest.fixture(scope="module")
def plan() -> Plan:
    corpus = memory_corpus(random_texts(np.random.default_rng(0), ("en", "fr"), 50))
    streams = [
        Stream(languages=("en",)),
        Stream(languages=("en", "fr"), mode="sample", weight=2),
        Stream(languages=("fr", "en"), mode="alternate"),
    ]
    return plan_rows(corpus, streams, Packing(row_length=16), tokens=5000, seed=0, stage=0)


def tokens(step: list[Batch]) -> np.ndarray:
    return np.concatenate([batch.tokens for batch in step])


def load(plan: Plan, **options) -> Loader[Batch]:
    return Loader(plan.fill, plan.num_rows, **{"rows_per_step": R, "micro_rows": 1, **options})


def steps(plan: Plan, **options) -> list[np.ndarray]:
    return [tokens(step) for step in load(plan, **options)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_share_the_rows_of_a_step(plan, world_size):
    ranks = [steps(plan, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len(ranks[0]) == -(-plan.num_rows // R)
    for number, parts in enumerate(zip(*ranks, strict=True)):
        assert np.array_equal(np.concatenate(parts), plan.fill(number * R, R).tokens)


@pytest.mark.parametrize(
    "options",
    [{"micro_rows": 24}, {"micro_rows": 8}, {"micro_rows": 7}, {"threads": 3}, {"depth": 5}],
)
def test_micro_batches_threads_and_depth_change_no_row(plan, options):
    for found, expected in zip(steps(plan, **options), steps(plan), strict=True):
        assert np.array_equal(found, expected)


def test_a_micro_batch_is_a_fill_of_its_rows(plan):
    step = load(plan, micro_rows=4, rank=1, world_size=2).step(3)
    for number, batch in enumerate(step):
        expected = plan.fill(3 * R + 12 + 4 * number, 4)
        for name, value in vars(batch).items():
            assert np.array_equal(value, getattr(expected, name)), name


def test_micro_batches_are_few_and_of_nearly_one_size():
    assert micro_batches(300, 38, 4) == [38, 37]
    assert micro_batches(300, 25, 4) == [25, 25, 25]
    assert micro_batches(300, 30, 4) == [25, 25, 25]
    assert micro_batches(7, 100, 1) == [7]
    assert micro_batches(24, 5, 2) == [4, 4, 4]


def test_steps_of_copies_are_those_of_the_same_rows(plan):
    loader = Loader(plan.copies, plan.num_rows, rows_per_step=R, micro_rows=4, rank=1, world_size=2)
    for number, step in enumerate(loader):
        for part, copies in enumerate(step):
            expected = plan.copies(number * R + 12 + 4 * part, 4)
            assert np.array_equal(copies.copies, expected.copies)
            assert np.array_equal(copies.num_valid, expected.num_valid)


def test_resuming_at_any_step_is_the_uninterrupted_run(plan):
    uninterrupted = steps(plan)
    for first in range(len(uninterrupted) + 1):
        resumed = steps(plan, first_step=first)
        assert len(resumed) == len(uninterrupted) - first
        for found, expected in zip(resumed, uninterrupted[first:], strict=True):
            assert np.array_equal(found, expected)


def test_a_run_may_resume_with_other_ranks_and_another_batch(plan):
    rows = np.concatenate(steps(plan))
    first = np.concatenate(steps(plan, rank=0, world_size=1)[:4])
    rest = [steps(plan, rows_per_step=48, first_step=2, rank=r, world_size=2) for r in (0, 1)]
    rest = [part for parts in zip(*rest, strict=True) for part in parts]
    together = np.concatenate([first, *rest])
    assert np.array_equal(together[: plan.num_rows], rows[: plan.num_rows])


def test_the_tail_of_the_last_step_counts_nothing(plan):
    last = list(load(plan, micro_rows=R))[-1][0]
    num_left = plan.num_rows % R
    assert num_left
    assert not last.num_valid[num_left:].any()
    assert (last.num_valid[:num_left] > 0).all()


def test_a_loader_that_is_left_early_ends_its_thread(plan):
    iterator = iter(load(plan, depth=1))
    next(iterator)
    assert any(thread.name == "tresse-loader" for thread in threading.enumerate())
    iterator.close()
    assert not any(thread.name == "tresse-loader" for thread in threading.enumerate())


def test_a_loader_packs_ahead_but_no_further_than_its_depth(plan):
    calls = []

    def allocate(shape, dtype):
        calls.append(shape)
        return np.empty(shape, dtype)

    iterator = iter(load(plan, micro_rows=R, depth=2, allocate=allocate))
    next(iterator)
    deadline = time.monotonic() + 120
    while len(calls) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    iterator.close()
    assert len(calls) == 8  # two arrays each: one step taken, two waiting, one that waits for room


def test_an_error_while_packing_is_raised_where_the_step_is_awaited(plan):
    def allocate(*_):
        raise MemoryError("no pinned memory")

    with pytest.raises(MemoryError, match="no pinned memory"):
        next(iter(load(plan, allocate=allocate)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows_per_step": 0}, "must be at least 1"),
        ({"micro_rows": 0}, "must be at least 1"),
        ({"world_size": 5}, "rows_per_step=24 is not a multiple of 5 ranks"),
        ({"world_size": 2, "rank": 2}, "rank=2 is not one of 2 ranks"),
        ({"depth": 0}, "depth=0"),
        ({"first_step": -1}, "first_step=-1"),
    ],
)
def test_a_split_that_leaves_rows_over_is_refused(plan, options, message):
    with pytest.raises(ValueError, match=message):
        load(plan, **options)
