"""Work done in threads comes in order, in bounded memory, and stops when its reader stops."""

import threading
import time
from collections.abc import Iterator

import pytest

from tresse.data.audio import ahead
from tresse.data.audio.ahead import run_ahead


def test_pieces_come_in_order_from_any_number_of_threads() -> None:
    def decode(item: int) -> Iterator[tuple[str, int]]:
        for part in range(item % 4):
            time.sleep(0.001 * (item % 3))
            yield f"{item}.{part}", 1

    for workers in (1, 3):
        found = [(item, list(pieces)) for item, pieces in run_ahead(range(40), decode, workers)]
        assert found == [(i, [f"{i}.{part}" for part in range(i % 4)]) for i in range(40)]


def test_a_long_recording_waits_for_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PIPE_BYTES", 100)
    made = 0

    def decode(_: int) -> Iterator[tuple[int, int]]:
        nonlocal made
        for part in range(50):
            made += 1
            yield part, 30

    ((_, pieces),) = [next(run := run_ahead(range(1), decode, 2))]
    time.sleep(0.1)
    assert made == 4  # three are held, the fourth waits
    assert next(pieces) == 0
    assert list(pieces) == list(range(1, 50))
    run.close()


def test_a_piece_beyond_the_bound_passes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PIPE_BYTES", 100)
    run = run_ahead(range(3), lambda item: iter([(item, 1000), (-item, 1000)]), 2)
    assert [list(pieces) for _, pieces in run] == [[0, 0], [1, -1], [2, -2]]


def test_an_error_is_raised_where_its_pieces_end_and_the_threads_go() -> None:
    before = threading.active_count()

    def decode(item: int) -> Iterator[tuple[int, int]]:
        yield item, 1
        if item == 5:
            raise RuntimeError("broken")

    found = []

    def read() -> None:
        for _, pieces in run_ahead(range(100), decode, 3):
            found.extend(pieces)

    with pytest.raises(RuntimeError, match="broken"):
        read()
    assert found == list(range(6))
    assert threading.active_count() == before


def test_closing_ends_threads_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PIPE_BYTES", 1)
    before = threading.active_count()
    run = run_ahead(range(100), lambda item: iter([(item, 1)] * 1000), 3)
    next(run)
    run.close()
    assert threading.active_count() == before
