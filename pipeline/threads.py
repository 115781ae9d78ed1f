"""Work in several threads that a stopped command does not wait for."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

SIGNAL_SECONDS = 1.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """Results of a function in the order of the items; raises what the first failed call raised.

    After an error, Ctrl-C included, calls that have not begun are dropped and those under way are not waited for.
    (Leaving a ThreadPoolExecutor's own block waits for every item.)
    """
    pool = ThreadPoolExecutor(workers)
    try:
        futures = deque(pool.submit(function, item) for item in items)
        while futures:
            # In short waits: a signal that another thread takes does not end a wait of the main thread.
            if wait([futures[0]], timeout=SIGNAL_SECONDS).done:
                yield futures.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
