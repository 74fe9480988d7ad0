"""Cached tables: rows are the same with and without them, and a bad file does no harm."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.support.corpora.in_memory import MemoryCorpus, random_texts
from tresse.data.packing import table_cache
from tresse.data.packing.packer import Plan, plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.store.corpus import Corpus
from tresse.data.store.tensor_file import checksum_file

TABLES = ["475708c8ab319af2", "f3432346e248dc0a"]
STREAMS = [
    Stream(languages=("en",)),
    Stream(languages=("en", "fr"), mode="alternate"),
    Stream(languages=("en", "fr"), mode="sample"),
    Stream(languages=("en", "fr"), mode="sample", probabilities=(0.3, 0.7)),
]
PACKINGS = [
    Packing(row_length=50),
    Packing(row_length=50, separators="bos_eos", language_switch=True, mask_documents=True),
    Packing(row_length=50, mode="best_fit"),
    Packing(row_length=50, mode="best_fit", mask_documents=True, separators="eos"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of cached tables; here small corpora have tables too."""
    monkeypatch.setattr(table_cache, "MIN_DOCUMENTS", 1)
    monkeypatch.setenv("TRESSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_corpus(seed: int = 0, corpus_id: str = "corpus") -> Corpus:
    texts = random_texts(np.random.default_rng(seed), ("en", "fr"), 700)
    corpus = MemoryCorpus(texts)
    corpus.id = corpus_id  # type: ignore[attr-defined]
    return cast(Corpus, corpus)


def plan(corpus: Corpus, stream: Stream, packing: Packing, **options: Any) -> Plan:
    """Plan rows of more than three epochs."""
    options = {"tokens": 60_000, "seed": 1, "stage": 0} | options
    return plan_rows(corpus, [stream], packing, **options)


def rows(made: Plan) -> tuple[np.ndarray, ...]:
    """Return the rows, packed from the last to the first, so that every table is used."""
    batches = [made.fill(row, 1) for row in reversed(range(made.num_rows))]
    return (
        np.stack([batch.tokens for batch in batches]),
        np.stack([batch.num_valid for batch in batches]),
    )


def assert_same(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda p: f"{p.mode}-{p.separators}")
@pytest.mark.parametrize("stream", STREAMS, ids=lambda s: f"{s.mode}{len(s.probabilities)}")
def test_rows_are_the_same_without_tables_and_with_those_of_an_earlier_run(
    stream: Stream, packing: Packing, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus()
    first = rows(plan(corpus, stream, packing))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert any(path.suffix == ".table" for path in before)
    assert_same(rows(plan(corpus, stream, packing)), first)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before  # used, not built
    monkeypatch.setenv("TRESSE_CACHE", "")
    assert_same(rows(plan(corpus, stream, packing)), first)


@pytest.mark.parametrize("packing", PACKINGS[::2], ids=lambda p: p.mode)
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content[:20],
        lambda content: content[:-8],
        lambda content: content + bytes(8),
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes(len(content)),
    ],
    ids=["empty", "header cut", "cut", "longer", "a bit", "zeros"],
)
def test_a_damaged_table_is_built_anew(
    packing: Packing, damage: Callable[[bytes], bytes], cache: Path
) -> None:
    corpus = make_corpus()
    expected = rows(plan(corpus, STREAMS[0], packing))
    whole = {path: path.read_bytes() for path in cache.rglob("*.table")}
    for path, content in whole.items():
        path.write_bytes(damage(content))
    assert_same(rows(plan(corpus, STREAMS[0], packing)), expected)
    assert {path: path.read_bytes() for path in cache.rglob("*.table")} == whole


@pytest.mark.parametrize("packing", PACKINGS[::2], ids=lambda p: p.mode)
def test_a_table_of_another_corpus_under_this_name_is_built_anew(
    packing: Packing, cache: Path
) -> None:
    expected = rows(plan(make_corpus(2), STREAMS[0], packing))
    for path in cache.rglob("*.table"):
        path.unlink()
    rows(plan(make_corpus(1), STREAMS[0], packing))
    assert_same(rows(plan(make_corpus(2), STREAMS[0], packing)), expected)


@pytest.mark.parametrize("change", [{"seed": 2}, {"stage": 1}, {"tokens": 61_000}])
def test_other_streams_have_tables_of_their_own(change: dict[str, int], cache: Path) -> None:
    corpus = make_corpus()
    packing = Packing(row_length=50, mode="best_fit")
    first = rows(plan(corpus, STREAMS[0], packing))
    before = {path: path.read_bytes() for path in cache.rglob("*.table")}
    plan(corpus, STREAMS[0], packing, **change)
    plan(corpus, STREAMS[2], packing)
    plan(make_corpus(0, "another"), STREAMS[0], packing)
    after = {path: path.read_bytes() for path in cache.rglob("*.table")}
    new = [path.name for path in after.keys() - before if "longer-" not in path.name]
    assert len(new) == 4  # of two languages there is one more: they are even
    assert before.items() <= after.items()
    assert_same(rows(plan(corpus, STREAMS[0], packing)), first)


def test_a_weight_changes_no_table(cache: Path) -> None:
    corpus = make_corpus()
    rows(plan(corpus, STREAMS[0], PACKINGS[0]))
    before = set(cache.rglob("*"))
    rows(plan(corpus, Stream(languages=("en",), weight=2.0), PACKINGS[0]))
    assert set(cache.rglob("*")) == before


def test_a_folder_that_cannot_be_created_is_named_and_nothing_is_cached(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = rows(plan(make_corpus(), STREAMS[0], PACKINGS[0]))
    for path in cache.rglob("*.table"):
        path.unlink()
    (cache / "corpus").rmdir()
    (cache / "corpus").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert_same(rows(plan(make_corpus(), STREAMS[0], PACKINGS[0])), expected)
    assert f"File exists: '{cache / 'corpus'}'" in caplog.text
    assert "set TRESSE_CACHE to a folder" in caplog.text


@pytest.mark.parametrize("cache_variable", [None, ""])
def test_a_user_without_a_home_has_no_tables(
    cache_variable: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_home(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TRESSE_CACHE")
    if cache_variable is not None:
        monkeypatch.setenv("TRESSE_CACHE", cache_variable)
    rows(plan(make_corpus(), STREAMS[0], PACKINGS[0]))
    assert ("Could not determine home" in caplog.text) == (cache_variable is None)


def test_the_default_is_the_user_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRESSE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    rows(plan(make_corpus(), STREAMS[0], PACKINGS[0]))
    assert list((tmp_path / ".cache" / "tresse" / "corpus").glob("*-epoch-0.table"))
    monkeypatch.setenv("TRESSE_CACHE", "~/elsewhere")
    rows(plan(make_corpus(), STREAMS[0], PACKINGS[0]))
    assert list((tmp_path / "elsewhere" / "corpus").glob("*-epoch-0.table"))


def test_tables_never_change_without_a_new_version(cache: Path) -> None:
    """Other bytes need a new VERSION in table_cache.py, or old tables would be used."""
    assert table_cache.VERSION == 1
    for packing in (PACKINGS[0], PACKINGS[2]):
        rows(plan(make_corpus(), STREAMS[3], packing))
    tables = sorted(cache.rglob("*.table"), key=lambda path: path.name.split("-", 1)[1])
    names = [path.name.split("-", 1)[1] for path in tables]
    assert names[:2] == ["best-fit-51-60000.table", "epoch-0.table"]
    assert [checksum_file(path) for path in tables[:2]] == TABLES


def test_a_full_or_vanished_folder_stops_nothing(cache: Path) -> None:
    made = plan(make_corpus(), STREAMS[0], PACKINGS[0])
    (cache / "corpus").rmdir()  # no epoch has been asked for yet
    found = rows(made)
    assert not list(cache.rglob("*.table"))
    assert_same(rows(plan(make_corpus(), STREAMS[0], PACKINGS[0])), found)


def test_small_corpora_have_no_tables(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_cache, "MIN_DOCUMENTS", 701)
    rows(plan(make_corpus(), STREAMS[0], PACKINGS[0]))
    assert not cache.exists()


def test_no_temporary_files_stay(cache: Path) -> None:
    rows(plan(make_corpus(), STREAMS[2], PACKINGS[0]))
    assert {path.suffix for path in cache.rglob("*") if path.is_file()} == {".table"}
