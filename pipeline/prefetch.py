"""Objects fetched ahead of their readers, so that decoding and the network do not wait for each other."""

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

from pipeline import remote
from pipeline.cache import cache_bytes
from pipeline.remotenames import is_url

FETCHERS = 8
AHEAD = 16  # objects that wait for their readers; fewer where they fill half of the cache

T = TypeVar("T")

_all: list["_Ahead"] = []


@contextmanager
def fetching_ahead(paths: Iterable[str]) -> Iterator[None]:
    """In the block, the objects among the paths are fetched in this order, a few ahead of `remote.staged`."""
    urls = list(dict.fromkeys(path for path in paths if is_url(path)))
    if not urls:
        yield
        return
    ahead = _Ahead(urls)
    _all.append(ahead)
    try:
        with remote.interruptible():
            yield
    finally:
        _all.remove(ahead)
        ahead.stop()


def reading_ahead(paths: Iterable[str], results: Generator[T, None, None]) -> Generator[T, None, None]:
    """The results of reading these paths, while objects are fetched ahead; closing it closes `results`."""
    with fetching_ahead(paths):
        yield from results


def taken_ahead(path: str) -> AbstractContextManager[str] | None:
    """The local file of an object that was fetched ahead, or is just being; None where it was not begun."""
    for ahead in reversed(_all):
        future = ahead.take(path)
        if future is not None:
            return ahead.held(future)
    return None


class _Ahead:
    """Threads that fetch. What nobody takes keeps its place; when all places are so taken, readers fetch themselves."""

    def __init__(self, urls: list[str]) -> None:
        self._queue = deque(urls)
        self._waiting = set(urls)
        self._begun: dict[str, Future[tuple[ExitStack, str]]] = {}
        self._held_bytes: dict[int, int] = {}  # by id of the future
        self._changed = threading.Condition()
        self._max_bytes = cache_bytes() // 2
        self._is_over = False
        for number in range(min(FETCHERS, len(urls))):
            threading.Thread(target=self._work, name=f"fetch-{number}", daemon=True).start()

    def take(self, path: str) -> "Future[tuple[ExitStack, str]] | None":
        with self._changed:
            self._waiting.discard(path)
            return self._begun.pop(path, None)

    @contextmanager
    def held(self, future: "Future[tuple[ExitStack, str]]") -> Iterator[str]:
        try:
            stack, local = future.result()
            with stack:
                yield local
        finally:
            with self._changed:
                self._held_bytes.pop(id(future), None)
                self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._is_over = True
            left, self._begun = list(self._begun.values()), {}
            self._changed.notify_all()
        for future in left:
            future.add_done_callback(_release)

    def _work(self) -> None:
        while (next_one := self._next()) is not None:
            path, future = next_one
            stack = ExitStack()
            try:
                local = stack.enter_context(remote.fetched(path))
            except Exception as error:  # noqa: BLE001 - it is the reader's, who is told when it asks
                future.set_exception(error)
            else:
                future.set_result((stack, local))

    def _next(self) -> "tuple[str, Future[tuple[ExitStack, str]]] | None":
        with self._changed:
            while not self._is_over:
                while self._queue and self._queue[0] not in self._waiting:
                    self._queue.popleft()
                if not self._queue:
                    return None
                size = remote.known_size(self._queue[0])
                held = sum(self._held_bytes.values())
                if len(self._held_bytes) < AHEAD and (not held or held + size <= self._max_bytes):
                    path, future = self._queue.popleft(), Future[tuple[ExitStack, str]]()
                    self._waiting.discard(path)
                    self._begun[path], self._held_bytes[id(future)] = future, size
                    return path, future
                self._changed.wait()
        return None


def _release(future: "Future[tuple[ExitStack, str]]") -> None:
    if future.exception() is None:
        future.result()[0].close()
