"""The time grid: which frame of a video stands at which instant. Numbers in, numbers out; no decoder here.

Grid time k is t_k = k / fps, in seconds from the first frame shown. At t_k stands the last frame whose time is at most
t_k + 1e-6 (the slack takes up the rounding of time stamps). The grid ends with the last frame: it holds every t_k
before the end of the last frame, and at least t_0.
"""

import math
from collections.abc import Sequence

import numpy as np

SLACK_SECONDS = 1e-6

# A frame that lasts longer than this, or comes later than this after the one before, has a broken time stamp. Without
# the limit one flipped bit in a header would ask for years of repeated frames.
LONGEST_STEP_SECONDS = 3600.0


class TimeGrid:
    """The grid of one video, fed with the times of its frames one by one.

    >>> grid = TimeGrid(fps=2)
    >>> [list(grid.feed(time)) for time in (0.0, 0.4, 1.2)]  # a frame's times are known when the next one comes
    [[], [0], [1, 2]]
    >>> list(grid.finish(end_seconds=2.1))
    [3, 4]
    """

    def __init__(self, fps: float) -> None:
        if not (fps > 0 and math.isfinite(fps)):
            raise ValueError(f"fps is {fps}; expected a rate above 0 frames per second")
        self._fps = fps
        self._next = 0
        self._latest = 0.0

    def time(self, k: int) -> float:
        """Grid time k in seconds from the first frame shown."""
        return k / self._fps

    def expects(self, end_seconds: float) -> bool:
        """Whether the latest frame stands on the grid if it is shown until then."""
        return self.time(self._next) < end_seconds - SLACK_SECONDS

    def feed(self, time_seconds: float) -> range:
        """Take the next frame's time; the grid times that the frame before it covers come back.

        A time that does not increase gives nothing: the new frame then stands in place of the one before it.
        """
        stop = self._next
        if time_seconds > self._latest:
            stop = self._first(time_seconds - SLACK_SECONDS)
            self._latest = time_seconds
        return self._advance(stop)

    def finish(self, end_seconds: float) -> range:
        """Grid times that the last frame covers, given the time at which it ends."""
        return self._advance(max(self._first(end_seconds - SLACK_SECONDS), 1))

    def _first(self, limit_seconds: float) -> int:
        # First k with t_k >= limit. The product can miss it by rounding, so it is only where the search begins.
        k = max(math.ceil(limit_seconds * self._fps), 0)
        while k > 0 and self.time(k - 1) >= limit_seconds:
            k -= 1
        while self.time(k) < limit_seconds:
            k += 1
        return k

    def _advance(self, stop: int) -> range:
        covered = range(self._next, max(stop, self._next))
        self._next = covered.stop
        return covered


def last_frame_duration(own_seconds: float | None, median_step: float, longest_step: float, fps: float) -> float:
    """How long the last frame lasts: as long as it says itself, else the median step between frames, else 1 / fps.

    median_step, longest_step: of the times in seconds from each frame to the next, 0 when there is none. A duration of
    more than ten times the longest step is not believed: no later frame bears it out, and it may be as wrong as
    anything in a broken header.
    """
    longest = min(10 * longest_step, LONGEST_STEP_SECONDS) if longest_step else LONGEST_STEP_SECONDS
    if own_seconds is not None and 0 < own_seconds <= longest:
        return own_seconds
    return median_step or 1 / fps


def frames_on_grid(times_seconds: Sequence[float], fps: float, end_seconds: float) -> list[int]:
    """Frame index at every grid time of a video whose frame times are all known: the definition, written down.

    times_seconds: of the frames in presentation order, the first 0; a time that does not increase puts its frame in
    the place of the one before. end_seconds: when the last frame ends.

    >>> frames_on_grid([0.0, 0.4, 1.2], fps=2, end_seconds=2.1)
    [0, 1, 1, 2, 2]
    """
    times = np.maximum.accumulate(np.asarray(times_seconds, dtype=np.float64))
    num_steps = 1
    while num_steps / fps < end_seconds - SLACK_SECONDS:
        num_steps += 1
    return [int(np.flatnonzero(times - SLACK_SECONDS <= k / fps)[-1]) for k in range(num_steps)]
