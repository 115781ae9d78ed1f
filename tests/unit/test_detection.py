"""Alarms against a matcher that walks through the footage timestep by timestep, and by numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.evaluation import detection
from pipeline.evaluation.detection import Footage, detection_rows, detection_scores, sweep
from pipeline.evaluation.intervals import bootstrap_mean

CASES = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def watch(
    event: list[list[bool]], known: list[list[bool]], scores: list[list[float]], threshold: float, step: float
) -> tuple[list[float], int]:
    """Delay of each event in order (nan: not found), and how many false alarms: one timestep after the other."""
    delays, false = [], 0
    for truth, sure, values in zip(event, known, scores, strict=True):
        starts, ends = [], []
        for t in range(len(truth)):
            here = truth[t] and sure[t]
            before = t > 0 and truth[t - 1] and sure[t - 1]
            if here and not before:
                starts.append(t)
            if here and (t + 1 == len(truth) or not (truth[t + 1] and sure[t + 1])):
                ends.append(t + 1)
        found = [math.nan] * len(starts)
        sounds = False
        for t, value in enumerate(values):
            raised, sounds = value >= threshold and not sounds, value >= threshold
            if not raised:
                continue
            meant = [
                e for e in range(len(starts)) if (starts[e] - t) * step <= detection.TOLERANCE_SECONDS and t < ends[e]
            ]
            for e in meant:
                if math.isnan(found[e]):
                    found[e] = max(0, t - starts[e]) * step
            false += not meant and sure[t]
        delays += found
    return delays, false


@st.composite
def footages(draw):
    """Recordings with events in runs, unknown stretches, and scores of few values, so that thresholds are shared."""
    event, known, scores = [], [], []
    for _ in range(draw(st.integers(1, 4))):
        parts = draw(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 4)), max_size=7))
        truth = [value for value, _, length in parts for _ in range(length)]
        sure = [doubt > 0 for _, doubt, length in parts for _ in range(length)]
        event.append(truth)
        known.append(sure)
        scores.append([draw(st.integers(0, 4)) / 4 for _ in truth])
    return event, known, scores, draw(st.sampled_from([0.25, 0.5, 2.0]))


def footage_of(event, known, step, groups=None) -> Footage:
    return Footage(
        [np.array(video, dtype=bool) for video in event],
        [np.array(video, dtype=bool) for video in known],
        groups or [f"g{index}" for index in range(len(event))],
        np.full(len(event), step),
        has_delay=True,
    )


@pytest.mark.slow
@CASES
@given(footages())
def test_every_threshold_equals_the_walk_through_the_footage(case):
    event, known, scores, step = case
    found = sweep(footage_of(event, known, step), [np.array(video) for video in scores])
    assert found.thresholds.tolist() == sorted({value for video in scores for value in video})
    free = sum(s and not e for video, sure in zip(event, known, strict=True) for e, s in zip(video, sure, strict=True))
    assert found.hours_without == pytest.approx(free * step / 3600)
    for index, threshold in enumerate(found.thresholds):
        delays, false = watch(event, known, scores, threshold, step)
        assert found.num_events == len(delays)
        assert found.false[index] == false
        assert found.found[index] == sum(not math.isnan(delay) for delay in delays)
        assert found.delays(threshold).tolist() == pytest.approx(delays, nan_ok=True)


@pytest.mark.slow
@CASES
@given(footages(), st.sampled_from([0.0, 100.0, 1000.0, 1e6]))
def test_the_chosen_threshold_is_the_best_within_the_rate(case, rate):
    event, known, scores, step = case
    found = sweep(footage_of(event, known, step), [np.array(video) for video in scores])
    chosen = found.choose(rate)
    results = [(threshold, *watch(event, known, scores, threshold, step)) for threshold in found.thresholds]
    best = None
    for threshold, delays, false in results:
        hits = sum(not math.isnan(delay) for delay in delays)
        if hits and found.hours_without and false / found.hours_without <= rate:
            key = (-hits, false, threshold)
            best = key if best is None or key < best else best
    assert (chosen is None) == (best is None)
    if best is not None:
        assert found.thresholds[chosen] == best[2]


def test_alarms_worked_by_hand():
    # Half-second steps, so an alarm may be two steps early. Events at 2..5 and 10..11.
    event = [[False] * 2 + [True] * 4 + [False] * 4 + [True] * 2 + [False] * 2]
    known = [[True] * 14]
    scores = [[0.1, 0.6, 0.6, 0.9, 0.2, 0.8, 0.1, 0.7, 0.7, 0.1, 0.3, 0.5, 0.9, 0.1]]
    found = sweep(footage_of(event, known, 0.5), [np.array(video) for video in scores])
    at = {round(float(threshold), 1): index for index, threshold in enumerate(found.thresholds)}
    # 0.9: raised at 3 (in the first event, one step late) and at 12 (after the second).
    assert (found.found[at[0.9]], found.false[at[0.9]]) == (1, 1)
    assert found.delays(0.9).tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    # 0.6: raised at 1, one step early and so without delay, at 5, at 7 (false) and at 12 (false).
    assert (found.found[at[0.6]], found.false[at[0.6]]) == (1, 2)
    assert found.delays(0.6).tolist() == pytest.approx([0.0, math.nan], nan_ok=True)
    # 0.5: raised at 1, 5, 7 (false: three steps before the event) and 11, one step after its start.
    assert (found.found[at[0.5]], found.false[at[0.5]]) == (2, 1)
    assert found.delays(0.5).tolist() == pytest.approx([0.0, 0.5])
    assert found.median_delay(0.5) == 0.25
    assert found.hours_without == pytest.approx(8 * 0.5 / 3600)


def test_an_alarm_that_is_always_on_finds_nothing():
    event = [[False] * 5 + [True] * 3]
    scores = detection_scores(footage_of(event, [[True] * 8], 1.0), [[np.ones(8)]], 1e6, samples=20, seed=0)
    assert (scores["recall"], scores["false_alarms_per_hour"]) == (0, 0)
    assert math.isnan(scores["threshold"])


def test_what_nobody_knows_counts_nowhere():
    # An alarm raised where the truth is unknown is neither false nor, too early, of use; the event there is none.
    event = [[True, True, False, False, True, True, True, True]]
    known = [[False, False, False, True, True, True, True, True]]
    curve = sweep(footage_of(event, known, 2.0), [np.array([0.9, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1])])
    assert curve.num_events == 1
    at = int(np.flatnonzero(curve.thresholds == 0.9)[0])
    assert (curve.found[at], curve.false[at]) == (0, 0)
    assert curve.hours_without == pytest.approx(2 / 3600)


def clips(positive: list[bool], seconds: list[float], groups: list[str] | None = None) -> Footage:
    return Footage(
        [np.array([value]) for value in positive],
        [np.array([True])] * len(positive),
        groups or [str(index) for index in range(len(positive))],
        np.array(seconds),
        has_delay=False,
    )


def test_videos_as_events():
    watched = clips([True, True, True, False, False], [10, 10, 10, 1800, 1800], ["a", "a", "b", "b", "c"])
    scores = [np.array([value]) for value in (0.9, 0.6, 0.2, 0.7, 0.1)]
    one = detection_scores(watched, [scores], 1.0, samples=300, seed=0)
    # One hour without: one false alarm is allowed, and 0.2 is the threshold at which all three are found.
    assert one["rate_per_hour"] == 1
    assert (one["threshold"], one["recall"], one["false_alarms_per_hour"]) == (0.2, 1.0, 1.0)
    assert (one["num_events"], one["hours_without"]) == (3, 1.0)
    assert math.isnan(one["delay_seconds"])
    # At half of one an hour none is allowed: above 0.7 a single event is left.
    none = detection_scores(watched, [scores], 0.5, samples=300, seed=0)
    assert (none["threshold"], none["recall"], none["false_alarms_per_hour"]) == (0.9, pytest.approx(1 / 3), 0.0)
    # The interval is that of the mean over the events, drawn by groups; c, without an event, is drawn as well.
    assert (none["recall_low"], none["recall_high"]) == (0.0, 0.5)
    # The mean over two trainings, each with a threshold of its own.
    both = detection_scores(watched, [scores, scores[::-1]], 0.5, samples=300, seed=0)
    other = detection_scores(watched, [scores[::-1]], 0.5, samples=300, seed=0)
    assert both["recall"] == (none["recall"] + other["recall"]) / 2


def test_the_interval_is_that_of_the_mean_over_events():
    rng = np.random.default_rng(0)
    groups = [f"g{number}" for number in np.repeat(np.arange(12), 3)]
    watched = clips([True] * 36 + [False], [5.0] * 36 + [3600.0], [*groups, "g0"])
    scores = [np.array([value]) for value in [*rng.random(36), 0.5]]
    found = detection_scores(watched, [scores], 0.5, samples=200, seed=4)
    hits = np.array([value[0] >= found["threshold"] for value in scores[:36]], dtype=float)
    expected = bootstrap_mean(hits, groups, samples=200, seed=4)
    assert found["recall"] == hits.mean()
    assert (found["recall_low"], found["recall_high"]) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_without_events_or_without_other_footage_nothing_can_be_told(positive):
    scores = detection_scores(
        clips(positive, [4.0, 4.0]), [[np.array([0.9]), np.array([0.3])]], 1.0, samples=20, seed=0
    )
    unknown = ("threshold", "recall", "recall_low", "recall_high", "false_alarms_per_hour", "delay_seconds")
    assert all(math.isnan(scores[name]) for name in unknown)
    assert scores["num_events"] == sum(positive)
    assert scores["hours_without"] == (0.0 if all(positive) else pytest.approx(8 / 3600))


def test_the_curve_has_a_row_where_something_changes_and_at_the_chosen_threshold(monkeypatch):
    event = [[False] * 3 + [True] * 3]
    watched = footage_of(event, [[True] * 6], 2.0)
    values = [np.array([0.1, 0.5, 0.2, 0.3, 0.6, 0.9])]
    rows = detection_rows("fall", watched, values, 0.0)
    assert list(rows[0]) == list(detection.COLUMNS)
    # 0.1: always on. 0.3: raised at 1, which is false, and at 3. From 0.6 the event alone; 0.9 changes but its delay.
    table = {row["threshold"]: (row["recall"], row["false_alarms_per_hour"], row["delay_seconds"]) for row in rows}
    hour = pytest.approx(3600 / 6)
    assert table == {0.1: (0.0, hour, ""), 0.3: (1.0, hour, 0.0), 0.6: (1.0, 0.0, 2.0)}
    monkeypatch.setattr(detection, "MAX_ROWS", 2)
    rng = np.random.default_rng(0)
    noisy = [rng.random(6)]
    curve = sweep(watched, noisy)
    assert len(curve.rows(None)) == 2
    assert len(curve.rows(2)) <= 3
    assert float(curve.thresholds[2]) in [row["threshold"] for row in curve.rows(2)]


def test_many_timesteps_and_events():
    rng = np.random.default_rng(0)
    event = [np.repeat(rng.random(200) < 0.2, 50) for _ in range(10)]
    scores = [rng.random(10_000) * 0.6 + 0.4 * truth for truth in event]
    watched = Footage(event, [np.ones(10_000, bool)] * 10, list("abcdefghij"), np.full(10, 0.1), has_delay=True)
    found = detection_scores(watched, [scores], 60.0, samples=200, seed=0)
    assert found["recall"] > 0.9
    assert found["false_alarms_per_hour"] <= 60
    assert found["recall_low"] <= found["recall"] <= found["recall_high"]
    assert len(detection_rows("x", watched, scores, 60.0)) <= detection.MAX_ROWS + 1


def test_events_of_one_group_have_no_interval():
    """Drawn anew it is the same recall each time, which would look like certainty."""
    event = [[False, True, False, True], [False] * 4, [False] * 4]
    watched = footage_of(event, [[True] * 4] * 3, 1.0)
    scores = [np.array([0.1, 0.9, 0.1, 0.2]), np.full(4, 0.1), np.array([0.1, 0.5, 0.1, 0.1])]
    found = detection_scores(watched, [scores], 1.0, samples=50, seed=0)
    assert found["recall"] > 0
    assert math.isnan(found["recall_low"])
    assert math.isnan(found["recall_high"])


def test_nothing_at_all():
    empty = footage_of([[]], [[]], 1.0)
    scores = detection_scores(empty, [[np.empty(0)]], 1.0, samples=10, seed=0)
    assert (scores["num_events"], scores["hours_without"]) == (0, 0)
    assert detection_rows("x", empty, [np.empty(0)], 1.0) == []


def test_footage_of_different_lengths_is_refused():
    with pytest.raises(DataError, match="footage of"):
        footage_of([[True, False]], [[True]], 1.0)
    with pytest.raises(DataError, match="differ in length"):
        sweep(footage_of([[True, False]], [[True, True]], 1.0), [np.array([0.5])])
