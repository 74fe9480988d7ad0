"""Shards that change while they are read, and tables of another corpus: an error, never a loop."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.corpora.in_memory import MemoryCorpus, packings, plan_or_reject, random_texts
from tresse.data.packing import table_cache
from tresse.data.packing.packer import Plan, plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.packing.sources import Sources
from tresse.data.store.corpus import Corpus

LANGUAGES = ("en", "fr")
STREAMS = [
    Stream(languages=("en",)),
    Stream(languages=LANGUAGES, mode="alternate"),
    Stream(languages=LANGUAGES, mode="sample"),
]
CONCAT, BEST_FIT = Packing(row_length=20), Packing(row_length=20, mode="best_fit")
ARRAYS = ("document_tokens", "document_sentences", "sentence_lengths", "document_lengths")
DEADLINE_S = 120.0


def within_deadline(work: Callable[[], Any]) -> Any:
    """Call `work` in a thread: a loop in C++ could be interrupted by nothing else."""
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(work())
        except ValueError as error:
            found.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert found, f"no answer within {DEADLINE_S} s"
    return found[0]


def backwards(plan: Plan) -> list[np.ndarray]:
    """Pack the rows one by one, the last first, so that each is searched for."""
    return [plan.fill(row, 1).tokens for row in reversed(range(plan.num_rows))]


def make_corpus(num_documents: int = 40) -> MemoryCorpus:
    return MemoryCorpus(random_texts(np.random.default_rng(0), LANGUAGES, num_documents))


@pytest.mark.parametrize("packing", [CONCAT, BEST_FIT], ids=lambda p: p.mode)
@pytest.mark.parametrize(
    ("stream", "name"),
    [(each, ARRAYS[0]) for each in STREAMS] + [(each, ARRAYS[1]) for each in STREAMS[1:]],
    ids=lambda each: each if isinstance(each, str) else each.mode,
)
def test_a_shard_that_became_zeros_is_an_error(stream: Stream, packing: Packing, name: str) -> None:
    corpus = make_corpus()
    plan = plan_rows(cast(Corpus, corpus), [stream], packing, tokens=3000, seed=1, stage=0)
    for shard in corpus.shards["en"]:
        getattr(shard, name)[:] = 0
    error = within_deadline(lambda: backwards(plan))
    assert isinstance(error, ValueError)
    assert "do not fit each other; the shards are damaged or were overwritten" in str(error)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_the_arrays_become_the_packer_answers(data: st.DataObject) -> None:
    corpus = make_corpus(12)
    stream, packing = data.draw(st.sampled_from(STREAMS)), data.draw(packings)
    plan = plan_or_reject(
        Sources((cast(Corpus, corpus),)),
        [stream],
        packing,
        tokens=200,
        seed=data.draw(st.integers(0, 9)),
        stage=0,
    )
    for shard in corpus.shards[data.draw(st.sampled_from(stream.languages))]:
        for name in data.draw(st.sets(st.sampled_from(ARRAYS), min_size=1)):
            array = getattr(shard, name)
            i = data.draw(st.integers(0, array.size - 1))
            limits = np.iinfo(array.dtype)
            near = st.integers(max(limits.min, -3), 80)
            array[i : i + data.draw(st.sampled_from([1, array.size]))] = data.draw(
                near | st.sampled_from([limits.min, limits.max])
            )
    answer = within_deadline(lambda: backwards(plan))
    if isinstance(answer, ValueError):
        assert "verify the corpus" in str(answer)


@pytest.mark.parametrize(
    ("packing", "num_documents", "changed"),
    [(CONCAT, 700, 1), (BEST_FIT, 3 * 4096, 80)],
    ids=["concat", "best_fit"],
)
def test_a_table_of_another_corpus_that_a_sample_does_not_show_is_an_error(
    packing: Packing,
    num_documents: int,
    changed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Documents change one by one, until one is not in the sample."""
    monkeypatch.setattr(table_cache, "MIN_DOCUMENTS", 1)
    monkeypatch.setenv("TRESSE_CACHE", str(tmp_path))
    texts = {str(i): [[1] * 8] for i in range(num_documents)}
    same = MemoryCorpus({"en": texts})
    same.id = "corpus"  # type: ignore[attr-defined]

    def plan(corpus: MemoryCorpus) -> Plan:
        tokens = 8 * num_documents - 100
        return plan_rows(cast(Corpus, corpus), STREAMS[:1], packing, tokens=tokens, seed=1, stage=0)

    plan(same).fill(0, 1)
    (table,) = (path for path in tmp_path.rglob("*.table") if "longer-" not in path.name)
    content = table.read_bytes()
    for key in list(texts)[:200]:
        other = MemoryCorpus({"en": texts | {key: [[1] * changed]}})
        other.id = "corpus"  # type: ignore[attr-defined]
        answer = within_deadline(lambda other=other: backwards(plan(other)))
        if isinstance(answer, ValueError):
            assert "cached table is of another corpus" in str(answer)
            assert table.read_bytes() == content
            return
        table.write_bytes(content)
    raise AssertionError("every change was found in the sample")
