"""From the time stamps of a file to seconds from its first frame: missing, repeated and absurd stamps included."""

import math
from collections import Counter
from fractions import Fraction

from pipeline.video.sampling import LONGEST_STEP_SECONDS

# Rate for a stream that has neither time stamps nor a believable rate; FFmpeg's own choice for raw streams.
FALLBACK_FPS = Fraction(25)
BELIEVABLE_FPS = (1, 1000)


class Clock:
    """Turns the time stamps of frames, in the order they are shown, into times that never go back.

    A frame without a stamp follows the one before it at the stream's rate. A stamp that does not increase gives the
    time of the frame before. A stamp far ahead (LONGEST_STEP_SECONDS) is not believed: the frame gets no time.

    num_frames: frames that got a time.
    num_unstamped, num_repeated, num_unbelieved: how often the three cases above came up.
    """

    def __init__(self, time_base: Fraction, fps: Fraction | None) -> None:
        slowest, fastest = BELIEVABLE_FPS
        step = 1 / (fps if fps is not None and slowest <= fps <= fastest else FALLBACK_FPS)
        # Times are counted in integers, of which so many make a second that both a stamp and a step are whole
        # numbers: exact, and several times as fast as fractions.
        self._per_second = math.lcm(time_base.denominator, step.denominator)
        self._per_stamp = int(time_base * self._per_second)
        self._step = int(step * self._per_second)
        self._longest_step = int(LONGEST_STEP_SECONDS * self._per_second)
        # Of time 0; known from the first frame that has a stamp.
        self._origin: int | None = None
        self._latest = 0
        self.num_frames = 0
        self.num_unstamped = 0
        self.num_repeated = 0
        self.num_unbelieved = 0
        self._largest_return = 0
        # How often each time from a frame to the next came up, repeated stamps left out; few differ, however long the
        # video is.
        self._steps: Counter[int] = Counter()

    def tick(self, pts: int | None) -> float | None:
        """Seconds from the first frame shown, given the stamp of the next frame; None when it is not believed."""
        expected = self._latest + self._step if self.num_frames else 0
        if pts is None:
            self.num_unstamped += 1
            return self._accept(expected)
        if self._origin is None:
            self._origin = pts * self._per_stamp - expected
            return self._accept(expected)
        time = pts * self._per_stamp - self._origin
        if time - self._latest > self._longest_step:
            self.num_unbelieved += 1
            return None
        if time <= self._latest:
            self.num_repeated += 1
            self._largest_return = max(self._largest_return, self._latest - time)
            time = self._latest
        return self._accept(time)

    @property
    def first_pts_seconds(self) -> float | None:
        """Stamp of the first frame shown, in seconds; None when no frame has a stamp."""
        return None if self._origin is None else self._origin / self._per_second

    @property
    def duration_seconds(self) -> float:
        """From the first frame to the latest."""
        return self._latest / self._per_second

    @property
    def largest_return_seconds(self) -> float:
        """How far a stamp lay before the latest one, at most."""
        return self._largest_return / self._per_second

    @property
    def median_step_seconds(self) -> float:
        """Median time from one frame to the next, repeated stamps left out; 0 when there is none."""
        num_steps = self._steps.total()
        if not num_steps:
            return 0.0
        middle = {(num_steps - 1) // 2, num_steps // 2}  # two of an even number: their mean
        found, passed = [], 0
        for step in sorted(self._steps):
            found += [step for place in middle if passed <= place < passed + self._steps[step]]
            passed += self._steps[step]
        return sum(found) / len(found) / self._per_second

    @property
    def longest_step_seconds(self) -> float:
        """Longest time from one frame to the next; 0 when there is none."""
        return max(self._steps, default=0) / self._per_second

    def count_gaps(self) -> int:
        """Steps longer than 1.6 times the median one."""
        limit = 1.6 * self.median_step_seconds
        return sum(count for step, count in self._steps.items() if step / self._per_second > limit)

    def _accept(self, time: int) -> float:
        if self.num_frames and time > self._latest:
            self._steps[time - self._latest] += 1
        self._latest = time
        self.num_frames += 1
        return time / self._per_second
