from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.video.clock import Clock
from pipeline.video.sampling import SLACK_SECONDS, TimeGrid, frames_on_grid, last_frame_duration

TIMES = st.lists(st.floats(-0.5, 3.0), max_size=30).map(lambda steps: [0.0, *steps])


def run_grid(times: list[float], fps: float, end: float) -> list[int]:
    """Frame index at each grid time, as a reader gets it: frame by frame, never knowing the next time."""
    grid = TimeGrid(fps)
    found: list[int] = []
    for index, time in enumerate(times):
        covered = grid.feed(time)
        assert covered.start == len(found)
        found += [index - 1] * len(covered)
    return found + [len(times) - 1] * len(grid.finish(end))


@pytest.mark.parametrize(
    ("times", "fps", "end", "expected"),
    [
        ([0.0], 8, 0.04, [0]),
        ([0.0], 8, 1.0, [0] * 8),
        ([0.0, 0.04, 0.08, 0.12, 0.16], 12.5, 0.2, [0, 2, 4]),
        ([0.0, 0.1, 1.0], 4, 1.1, [0, 1, 1, 1, 2]),  # a long gap repeats the frame that is shown
        ([0.0, 0.25, 0.5], 4, 0.75, [0, 1, 2]),  # a frame exactly at t_k is the one shown at t_k
        ([0.0, 0.25 + 2e-6, 0.5], 4, 0.75, [0, 0, 2]),  # and one just after it is not
        ([0.0, 0.25 + 0.5e-6, 0.5], 4, 0.75, [0, 1, 2]),  # unless by less than the slack
        ([0.0, 0.0, 0.0], 8, 0.04, [2]),  # equal times: the later frame stands in place of the earlier
        ([0.0, 0.5, 0.3, 0.6], 10, 0.7, [0, 0, 0, 0, 0, 2, 3]),  # as does one that goes back
    ],
)
def test_known_grids(times: list[float], fps: float, end: float, expected: list[int]) -> None:
    assert run_grid(times, fps, end) == expected
    assert frames_on_grid(times, fps, end) == expected


@given(TIMES, st.floats(0.1, 60.0), st.floats(0.001, 2.0))
def test_the_grid_fed_frame_by_frame_is_the_one_written_down(times: list[float], fps: float, last: float) -> None:
    assert run_grid(times, fps, max(times) + last) == frames_on_grid(times, fps, max(times) + last)


@given(st.lists(st.floats(0.001, 3.0), max_size=30), st.floats(0.1, 60.0), st.floats(0.001, 2.0))
def test_every_grid_time_shows_the_last_frame_at_or_before_it(steps: list[float], fps: float, last: float) -> None:
    times = [sum(steps[:n]) for n in range(len(steps) + 1)]
    found = run_grid(times, fps, times[-1] + last)
    assert len(found) >= 1
    assert (len(found) - 1) / fps < times[-1] + last <= len(found) / fps + 2 * SLACK_SECONDS or len(found) == 1
    for k, index in enumerate(found):
        assert abs(index - (bisect_right(times, k / fps) - 1)) <= (
            1 if any(abs(time - k / fps) <= 2 * SLACK_SECONDS for time in times) else 0
        )


def test_the_grid_of_a_long_video_does_not_drift() -> None:
    grid = TimeGrid(fps=30)
    found = sum(len(grid.feed(number * 1001 / 30000)) for number in range(200_000))
    assert found == 200_199  # k / 30 < 199 999 * 1001 / 30000 for k up to 200 198


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="expected a rate above 0"):
        TimeGrid(fps)


@pytest.mark.parametrize(
    ("own", "steps_ms", "expected"),
    [
        (0.5, [100, 100], 0.5),
        (1.1, [100, 100], 0.1),  # more than ten times the longest step
        (60.0, [], 60.0),
        (None, [100, 200, 300], 0.2),
        (None, [100, 200], 0.15),
        (0.0, [100, 0, 200, 300], 0.2),
        (1e6, [100], 0.1),  # eleven days: a broken header, not a frame
        (None, [], 0.125),
        (None, [0], 0.125),
    ],
)
def test_duration_of_the_last_frame(own: float | None, steps_ms: list[int], expected: float) -> None:
    clock = Clock(Fraction(1, 1000), None)
    for pts in accumulate(steps_ms, initial=0):
        clock.tick(pts)
    assert last_frame_duration(own, clock.median_step_seconds, clock.longest_step_seconds, fps=8) == expected


def test_clock_counts_from_the_first_stamp() -> None:
    clock = Clock(Fraction(1, 90000), Fraction(30))
    assert [clock.tick(90_000_000 + 3003 * n) for n in range(3)] == [0.0, 3003 / 90000, 6006 / 90000]
    assert clock.first_pts_seconds == 1000.0
    assert clock.duration_seconds == 6006 / 90000
    assert clock.median_step_seconds == clock.longest_step_seconds == 3003 / 90000


def test_clock_without_stamps_follows_the_rate() -> None:
    clock = Clock(Fraction(1, 1000), Fraction(20))
    assert [clock.tick(None) for _ in range(3)] == [0.0, 0.05, 0.1]
    assert clock.first_pts_seconds is None
    assert clock.num_unstamped == 3


@pytest.mark.parametrize("fps", [None, Fraction(1, 1672), Fraction(90000)])
def test_clock_without_stamps_and_without_a_believable_rate(fps: Fraction | None) -> None:
    clock = Clock(Fraction(1, 1000), fps)
    assert [clock.tick(None) for _ in range(3)] == [0.0, 0.04, 0.08]


def test_clock_with_stamps_from_the_third_frame_on() -> None:
    clock = Clock(Fraction(1, 1000), Fraction(20))
    assert [clock.tick(pts) for pts in (None, None, 0, 50)] == [0.0, 0.05, 0.1, 0.15]
    assert clock.first_pts_seconds == -0.1


def test_clock_with_stamps_that_go_back() -> None:
    clock = Clock(Fraction(1, 1000), Fraction(10))
    assert [clock.tick(pts) for pts in (0, 100, 40, 100, 200)] == [0.0, 0.1, 0.1, 0.1, 0.2]
    assert clock.num_repeated == 2
    assert clock.largest_return_seconds == 0.06
    assert clock.num_frames == 5


def test_clock_does_not_believe_a_jump_of_years() -> None:
    clock = Clock(Fraction(1, 1000), Fraction(10))
    assert [clock.tick(pts) for pts in (0, 100, 2**50, 200)] == [0.0, 0.1, None, 0.2]
    assert clock.num_unbelieved == 1
    assert clock.duration_seconds == 0.2


def test_clock_counts_gaps() -> None:
    clock = Clock(Fraction(1, 1000), None)
    for pts in (0, 40, 80, 120, 200, 240, 400):
        clock.tick(pts)
    assert clock.median_step_seconds == 0.04
    assert clock.count_gaps() == 2
