"""The progress bar of work on videos: on a terminal, and none in a log."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Progress:
    """Videos done of all, frames a second, and the time left.

    >>> progress = Progress("extract", len(videos))  # doctest: +SKIP
    >>> for key, features in progress.over(extractor.run(videos, progress.add_frames)): ...  # doctest: +SKIP
    """

    def __init__(self, name: str, num_videos: int) -> None:
        # miniters=0: frames move the bar too, when no video has ended for a while.
        self._bar: tqdm[Any] = tqdm(
            desc=name, total=num_videos, unit="video", miniters=0, disable=not sys.stderr.isatty()
        )
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._num_frames = 0

    def add_frames(self, count: int) -> None:
        """Count frames; any thread may call it."""
        with self._lock:
            self._num_frames += count
            rate = self._num_frames / max(time.monotonic() - self._begin, 1e-3)
            self._bar.set_postfix_str(f"{rate:.0f} frames/s", refresh=False)
            self._bar.update(0)

    def counting(self, frames: Iterable[T]) -> Iterator[T]:
        """The frames, counted as they come."""
        for frame in frames:
            self.add_frames(1)
            yield frame

    def over(self, results: Iterable[T]) -> Iterator[T]:
        """The results, one for each video, as they come; ends the bar behind the last one."""
        try:
            for result in results:
                yield result
                with self._lock:
                    self._bar.update()
        finally:
            self._bar.close()
