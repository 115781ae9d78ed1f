"""From the time stamps of a file to seconds from its first frame: missing, repeated and absurd stamps included."""

import statistics
from array import array
from fractions import Fraction

from pipeline.video.sampling import LONGEST_STEP_SECONDS

# Rate for a stream that has neither time stamps nor a believable rate; FFmpeg's own choice for raw streams.
FALLBACK_FPS = Fraction(25)
BELIEVABLE_FPS = (1, 1000)


class Clock:
    """Turns the time stamps of frames, in the order they are shown, into times that never go back.

    A frame without a stamp follows the one before it at the stream's rate. A stamp that does not increase gives the
    time of the frame before. A stamp far ahead (LONGEST_STEP_SECONDS) is not believed: the frame gets no time.

    num_frames: frames that got a time. steps_seconds: times from each of them to the next.
    num_unstamped, num_repeated, num_unbelieved: how often the three cases above came up.
    largest_return_seconds: how far a stamp lay before the latest one, at most.
    """

    def __init__(self, time_base: Fraction, fps: Fraction | None) -> None:
        self._time_base = time_base
        slowest, fastest = BELIEVABLE_FPS
        self._step = 1 / (fps if fps is not None and slowest <= fps <= fastest else FALLBACK_FPS)
        # Pts, in time-base units, of time 0; known from the first frame that has a stamp.
        self._origin: Fraction | None = None
        self._latest = Fraction(0)
        self.num_frames = 0
        self.num_unstamped = 0
        self.num_repeated = 0
        self.num_unbelieved = 0
        self.largest_return_seconds = 0.0
        self.steps_seconds = array("d")

    def tick(self, pts: int | None) -> float | None:
        """Seconds from the first frame shown, given the stamp of the next frame; None when it is not believed."""
        expected = self._latest + self._step if self.num_frames else Fraction(0)
        if pts is None:
            self.num_unstamped += 1
            return self._accept(expected)
        if self._origin is None:
            self._origin = pts - expected / self._time_base
            return self._accept(expected)
        time = (pts - self._origin) * self._time_base
        if time - self._latest > LONGEST_STEP_SECONDS:
            self.num_unbelieved += 1
            return None
        if time <= self._latest:
            self.num_repeated += 1
            self.largest_return_seconds = max(self.largest_return_seconds, float(self._latest - time))
            time = self._latest
        return self._accept(time)

    @property
    def first_pts_seconds(self) -> float | None:
        """Stamp of the first frame shown, in seconds; None when no frame has a stamp."""
        return None if self._origin is None else float(self._origin * self._time_base)

    @property
    def duration_seconds(self) -> float:
        """From the first frame to the latest."""
        return float(self._latest)

    @property
    def median_step_seconds(self) -> float:
        """Median time from one frame to the next, repeated stamps left out; 0 when there is none."""
        steps = [step for step in self.steps_seconds if step > 0]
        return statistics.median(steps) if steps else 0.0

    def count_gaps(self) -> int:
        """Steps longer than 1.6 times the median one."""
        limit = 1.6 * self.median_step_seconds
        return sum(step > limit for step in self.steps_seconds) if limit else 0

    def _accept(self, time: Fraction) -> float:
        if self.num_frames:
            self.steps_seconds.append(float(time - self._latest))
        self._latest = time
        self.num_frames += 1
        return float(time)
