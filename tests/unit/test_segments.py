import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inference.answers import Segment, Timesteps
from pipeline.inference.segments import segments_of, timesteps_of_windows

CLASSES = ["idle", "sit", "stand"]


def one_hot(text: str, step: float = 0.1) -> Timesteps:
    """A letter for each timestep: the class that has probability 0.9 there, the others share the rest."""
    probs = np.full((len(text), len(CLASSES)), 0.05, np.float32)
    for t, letter in enumerate(text):
        probs[t, ".ab".index(letter)] = 0.9
    return Timesteps(np.arange(len(text)) * step, probs)


def spans(text: str, min_seconds: float = 0.0, merge_gap_seconds: float = 0.0, background: str | None = "idle") -> str:
    found = segments_of(one_hot(text), CLASSES, background, 0.1, min_seconds, merge_gap_seconds)
    letters = ["."] * len(text)
    for segment in found:
        start, end = round(segment.start_seconds * 10), round(segment.end_seconds * 10)
        assert letters[start:end] == ["."] * (end - start)
        letters[start:end] = [".ab"[CLASSES.index(segment.label)]] * (end - start)
    return "".join(letters)


def test_runs_of_the_most_probable_class():
    probs = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.9, 0.0], [0.0, 0.1, 0.9], [1.0, 0.0, 0.0]])
    steps = Timesteps(np.arange(5) / 10, probs)
    found = segments_of(steps, CLASSES, "idle", 0.1)
    assert found == (Segment(0.1, 0.3, "sit", pytest.approx(0.8)), Segment(0.3, 0.4, "stand", 0.9))
    assert len(segments_of(steps, CLASSES, None, 0.1)) == 4


@pytest.mark.parametrize(
    ("text", "min_seconds", "merge_gap_seconds", "expected"),
    [
        ("aa..aa..bb", 0.0, 0.2, "aaaaaa..bb"),  # only background between two of one label is closed
        ("aa..aa", 0.0, 0.19, "aa..aa"),
        ("aa.b.aa", 0.0, 0.5, "aa.b.aa"),  # another action is no gap
        ("aa.b.aa", 0.2, 0.3, "aaaaaaa"),  # once dropped it is background, and the gap is closed after all
        ("aa.b.aa", 0.2, 0.2, "aa...aa"),
        ("a.a...b", 0.3, 0.1, "aaa...."),  # closing comes first: neither half would have been long enough
        ("..a..", 0.2, 0.0, "....."),
        (".....", 0.2, 0.2, "....."),
    ],
)
def test_gaps_are_closed_and_short_segments_dropped(text, min_seconds, merge_gap_seconds, expected):
    assert spans(text, min_seconds, merge_gap_seconds) == expected


@pytest.mark.parametrize(
    ("text", "min_seconds", "expected"),
    [
        ("aaabaaa", 0.2, "aaaaaaa"),
        ("aabbbbb", 0.3, "bbbbbbb"),
        ("ab", 0.3, "bb"),  # from the first to the last; then there is nobody left to give it to
        ("a", 0.3, "a"),
    ],
)
def test_without_background_a_short_segment_goes_to_a_neighbour(text, min_seconds, expected):
    assert spans(text, min_seconds, background=None) == expected


def test_the_more_probable_neighbour_takes_a_short_segment():
    probs = np.array([[0.8, 0.1, 0.1]] * 3 + [[0.1, 0.6, 0.3]] + [[0.1, 0.2, 0.7]] * 3, np.float32)
    found = segments_of(Timesteps(np.arange(7) / 10, probs), CLASSES, None, 0.1, min_seconds=0.2)
    assert [(s.start_seconds, s.end_seconds, s.label) for s in found] == [(0.0, 0.3, "idle"), (0.3, 0.7, "stand")]
    assert found[1].score == pytest.approx((0.3 + 3 * 0.7) / 4)


def test_a_closed_gap_counts_in_the_score():
    (found,) = segments_of(one_hot("aa.a"), CLASSES, "idle", 0.1, merge_gap_seconds=0.1)
    assert found == Segment(0.0, 0.4, "sit", pytest.approx((3 * 0.9 + 0.05) / 4))


def test_bounds_are_met_by_what_is_written():
    steps = one_hot("a.a", step=1 / 3)
    assert len(segments_of(steps, CLASSES, "idle", 1 / 3, min_seconds=0.333)) == 2
    assert len(segments_of(steps, CLASSES, "idle", 1 / 3, merge_gap_seconds=0.333)) == 1


def test_a_jump_in_time_ends_a_segment():
    steps = one_hot("aaaa")
    times = np.array([0.0, 0.1, 5.0, 5.1])
    found = segments_of(Timesteps(times, steps.probabilities), CLASSES, None, 0.1)
    assert [(s.start_seconds, s.end_seconds) for s in found] == [(0.0, 0.2), (5.0, 5.2)]


@settings(max_examples=60)
@given(
    text=st.text(".ab", min_size=1, max_size=40),
    min_steps=st.integers(0, 6),
    gap_steps=st.integers(0, 6),
    background=st.sampled_from(["idle", None]),
)
def test_segments_are_in_order_long_enough_far_enough_apart_and_final(text, min_steps, gap_steps, background):
    min_seconds, gap_seconds = min_steps * 0.1, gap_steps * 0.1
    found = segments_of(one_hot(text), CLASSES, background, 0.1, min_seconds, gap_seconds)
    times = [(round(s.start_seconds * 10), round(s.end_seconds * 10)) for s in found]
    assert all(start < end for start, end in times)
    for before, after, (_, end), (start, _) in zip(found[:-1], found[1:], times[:-1], times[1:], strict=True):
        assert end <= start
        assert before.label != after.label or start - end > (gap_steps if background else 0)
    if background is None:
        assert (times[0][0], times[-1][1]) == (0, len(text))
        assert sum(end - start for start, end in times) == len(text)
        assert len(found) == 1 or min(end - start for start, end in times) >= min_steps
    else:
        assert all(end - start >= min_steps for start, end in times)
    again = spans(text, min_seconds, gap_seconds, background)
    assert spans(again, min_seconds, gap_seconds, background) == again


def test_windows_become_timesteps_by_the_mean_of_those_that_cover_each():
    probs = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    steps = timesteps_of_windows([0, 2], 4, probs, np.arange(7) / 10)
    np.testing.assert_array_equal(steps.time_seconds, np.arange(6) / 10)  # nobody looked at the seventh
    np.testing.assert_array_equal(steps.probabilities[:, 0], np.float32([1, 1, 0.5, 0.5, 0, 0]))
    found = segments_of(steps, ["sit", "stand"], None, 0.1)
    assert [(s.start_seconds, s.end_seconds, s.label) for s in found] == [(0.0, 0.4, "sit"), (0.4, 0.6, "stand")]
