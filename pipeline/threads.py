"""Work in several threads that a stopped command does not wait for."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Results of a function in the order of the items; raises what the first failed call raised.

    After an error, Ctrl-C included, calls that have not begun are dropped and those under way are not waited for.
    (Leaving a ThreadPoolExecutor's own block waits for every item.)
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
