"""Decoding in threads, some recordings ahead of the device; libsndfile and soxr free the GIL.

Clips come one at a time, in the order of the recordings. Each recording that is being decoded may
hold a few MiB, so the number of threads bounds the memory, however long the recordings are.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Condition
from typing import Generic, TypeVar

RECORDINGS_PER_WORKER = 4
PIPE_BYTES = 8 << 20

Work = TypeVar("Work")
Piece = TypeVar("Piece")


class _ReaderGoneError(RuntimeError):
    """The reader of the pipe has stopped."""


class _Pipe(Generic[Piece]):
    """A queue of one writer and one reader; holds PIPE_BYTES, or a single larger piece."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[Piece, int]] = deque()
        self._held, self._ended, self._closed = 0, False, False
        self._changed = Condition()

    def put(self, piece: Piece, num_bytes: int) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not self._held or self._held + num_bytes <= PIPE_BYTES
            )
            if self._closed:
                raise _ReaderGoneError
            self._pieces.append((piece, num_bytes))
            self._held += num_bytes
            self._changed.notify_all()

    def end(self) -> None:
        """Say that the last piece was put; the writer calls it."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """End a waiting writer, as the reader has stopped; the reader calls it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Piece]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._ended)
                if not self._pieces:
                    return
                piece, num_bytes = self._pieces.popleft()
                self._held -= num_bytes
                self._changed.notify_all()
            yield piece


def run_ahead(
    work: Iterable[Work],
    decode: Callable[[Work], Iterator[tuple[Piece, int]]],
    num_workers: int,
) -> Generator[tuple[Work, Iterator[Piece]], None, None]:
    """Yield each item of work, in order, with an iterator over its pieces.

    decode: yields the pieces of an item, each with its number of bytes; runs in a thread.
    Read all pieces of an item before the next item. An error in `decode` is raised after the pieces
    that came before it.
    """
    todo = iter(work)
    pipes: deque[tuple[Work, _Pipe[Piece], Future[None]]] = deque()
    with ThreadPoolExecutor(num_workers, "decode") as pool:

        def start(item: Work) -> None:
            pipe: _Pipe[Piece] = _Pipe()
            pipes.append((item, pipe, pool.submit(_fill, pipe, decode, item)))

        try:
            for item in islice(todo, RECORDINGS_PER_WORKER * num_workers):
                start(item)
            while pipes:
                item, pipe, future = pipes[0]
                yield item, _drain(pipe, future)
                pipes.popleft()
                for following in islice(todo, 1):
                    start(following)
        finally:
            for _, pipe, future in pipes:
                future.cancel()
                pipe.close()


def _fill(
    pipe: _Pipe[Piece], decode: Callable[[Work], Iterator[tuple[Piece, int]]], item: Work
) -> None:
    try:
        for piece, num_bytes in decode(item):
            pipe.put(piece, num_bytes)
    except _ReaderGoneError:
        pass
    finally:
        pipe.end()


def _drain(pipe: _Pipe[Piece], future: "Future[None]") -> Iterator[Piece]:
    yield from pipe
    future.result()
