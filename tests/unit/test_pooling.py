"""Scores over folds and seeds by numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.evaluation.clip_metrics import auc
from pipeline.evaluation.intervals import bootstrap_mean
from pipeline.evaluation.pooling import (
    Alarms,
    between_trainings,
    detection_table,
    pool_calibration,
    pool_clip,
    pool_detection,
    pool_frame,
)

CLASSES = ("no", "yes")
SETTINGS = {"samples": 200, "seed": 0}


def fold(start: int, yes: list[float], truth: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Videos numbered from `start`, in groups of two; the probability of `yes`, the truth (n or y) of each."""
    predictions = pd.DataFrame(
        {
            "video_id": [f"v{start + number}" for number in range(len(yes))],
            "group": [f"g{(start + number) // 2}" for number in range(len(yes))],
            "label": [{"n": "no", "y": "yes"}[letter] for letter in truth],
            "predicted": ["yes" if value > 0.5 else "no" for value in yes],
            "uncalibrated": [0.75] * len(yes),
            "sure": [int(max(value, 1 - value) >= 0.8) for value in yes],
            "score": [max(value, 1 - value) for value in yes],
            "no": [1 - value for value in yes],
            "yes": yes,
        }
    )
    controls = predictions.assign(no=0.9, yes=0.1)
    controls.insert(0, "control", "majority")
    return predictions, controls


# Folds of four and two videos; seed 0 has five of six right, seed 1 three.
FIRST = [fold(0, [0.1, 0.9, 0.2, 0.8], "nyny"), fold(4, [0.6, 0.7], "ny")]
SECOND = [fold(0, [0.6, 0.9, 0.7, 0.8], "nyny"), fold(4, [0.8, 0.7], "ny")]


def test_folds_are_put_together() -> None:
    scores = pool_clip({0: FIRST}, CLASSES, {}, **SETTINGS)
    own = scores["test"]["video"]
    assert own["top1"] == pytest.approx(5 / 6)
    assert own["auc"] == 1.0  # every yes above every no: 0.7 > 0.6
    assert (own["num_videos"], own["num_groups"]) == (6, 3)
    assert scores["controls"]["majority"]["top1"] == 0.5
    assert scores["controls"]["majority"]["difference"] == pytest.approx(1 / 3)
    assert "deviation" not in scores
    assert scores["seeds"]["0"]["top1"] == own["top1"]
    assert "num_videos" not in scores["seeds"]["0"]


def test_the_mean_over_seeds_and_its_interval() -> None:
    scores = pool_clip({0: FIRST, 1: SECOND}, CLASSES, {}, **SETTINGS)
    own = scores["test"]["video"]
    assert [scores["seeds"][seed]["top1"] for seed in ("0", "1")] == [pytest.approx(5 / 6), pytest.approx(3 / 6)]
    assert own["top1"] == pytest.approx(4 / 6)
    assert scores["deviation"]["top1"] == pytest.approx((5 / 6 - 3 / 6) / np.sqrt(2))
    # Seed 1: of nine pairs 0.9 wins three, 0.8 two and ties with 0.8, 0.7 wins one and ties with 0.7.
    assert scores["seeds"]["1"]["auc"] == pytest.approx((3 + 2.5 + 1.5) / 9)
    assert own["auc"] == pytest.approx((1 + 7 / 9) / 2)
    # The interval is that of the mean: each video counts with the share of the seeds that had it right.
    shares = np.array([0.5, 1, 0.5, 1, 0, 1])
    expected = bootstrap_mean(shares, ["g0", "g0", "g1", "g1", "g2", "g2"], **SETTINGS)
    assert (own["top1_low"], own["top1_high"]) == (expected.low, expected.high)
    assert own["auc_low"] <= own["auc"] <= own["auc_high"]
    assert scores["controls"]["majority"]["difference"] == pytest.approx(1 / 6)
    assert auc(np.array([0.9, 0.8, 0.7, 0.6, 0.7, 0.8]), np.arange(6) < 3) == pytest.approx(7 / 9)


def test_calibration_over_folds_and_seeds() -> None:
    own = pool_calibration({0: FIRST}, **SETTINGS)
    # Sure are 0.1, 0.9, 0.2 and 0.8, all right. Five of six are right, with a confidence of 0.75 before.
    assert (own["precision"], own["coverage"]) == (1.0, pytest.approx(4 / 6))
    assert own["ece_before"] == pytest.approx(5 / 6 - 0.75)
    # 0.9 twice, 0.8 twice, 0.6 (wrong) and 0.7; 0.8, 0.6 and 0.7 end bins of 1/15 each belongs to.
    assert own["ece_after"] == pytest.approx((2 * 0.1 + 2 * 0.2 + 0.6 + 0.3) / 6)
    both = pool_calibration({0: FIRST, 1: SECOND}, **SETTINGS)
    # Of seed 1 sure are 0.9, 0.8 and 0.8, the last of them wrong.
    assert (both["precision"], both["coverage"]) == (pytest.approx(6 / 7), pytest.approx(7 / 12))
    second = pool_calibration({1: SECOND}, **SETTINGS)
    for name in ("ece_before", "ece_after"):
        assert both[name] == pytest.approx((own[name] + second[name]) / 2)
    assert both["precision_low"] <= both["precision"] <= both["precision_high"]


def test_what_plays_backwards_is_the_mean_over_the_seeds() -> None:
    def with_reversed(folds: list[tuple[pd.DataFrame, pd.DataFrame]], turned: bool) -> list:
        found = []
        for predictions, _ in folds:
            rows = predictions.copy()
            if turned:
                rows[["no", "yes"]] = rows[["yes", "no"]].to_numpy()
            rows.insert(0, "control", "reversed")
            found.append((predictions, rows))
        return found

    tables = {0: with_reversed(FIRST, turned=True), 1: with_reversed(SECOND, turned=False)}
    assert pool_clip(tables, CLASSES, {0: 1, 1: 0}, **SETTINGS)["reversed_opposite"] == 0.5


def frames(video: str, yes: list[float], truth: str) -> pd.DataFrame:
    rows = fold(0, yes, truth)[0]
    return rows.assign(video_id=video, group=video, step=range(len(yes)), time_seconds=np.arange(len(yes)) / 10)


def test_recordings_of_two_folds_and_two_seeds() -> None:
    def tables(first: list[float], second: list[float]) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
        found = []
        for rows in (frames("a", first, "nyyn"), frames("a", second, "nn")):
            control = rows.assign(no=0.9, yes=0.1)
            control.insert(0, "control", "majority")
            found.append((rows, control))
        return found

    runs = {3: tables([0.1, 0.9, 0.9, 0.1], [0.1, 0.9]), 4: tables([0.1, 0.9, 0.1, 0.1], [0.1, 0.1])}
    scores = pool_frame(runs, CLASSES, 0, **SETTINGS)
    own = scores["test"]["frame"]
    assert (own["num_videos"], own["num_frames"]) == (2, 6)  # tested in two folds, the recording stands twice
    assert [scores["seeds"][seed]["acc"] for seed in ("3", "4")] == [pytest.approx(5 / 6), pytest.approx(5 / 6)]
    assert own["acc"] == pytest.approx(5 / 6)
    assert scores["deviation"]["acc"] == 0
    assert scores["controls"]["majority"]["acc"] == pytest.approx(4 / 6)
    assert scores["controls"]["majority"]["difference"] == pytest.approx(1 / 6)


def test_seeds_that_were_scored_on_other_videos_are_refused() -> None:
    with pytest.raises(DataError, match="seeds 0 and 1 were not scored on the same videos"):
        pool_clip({0: FIRST, 1: FIRST[::-1]}, CLASSES, {}, **SETTINGS)
    with pytest.raises(DataError, match="no fold to pool"):
        pool_clip({0: []}, CLASSES, {}, **SETTINGS)
    with pytest.raises(DataError, match="no fold to pool"):
        pool_frame({}, CLASSES, None, **SETTINGS)


def test_single_clips_over_folds_and_seeds() -> None:
    def with_clips(folds: list, right: list[int]) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
        numbers = iter(right)
        return [
            (rows.assign(clips=2, clips_right=[next(numbers) for _ in range(len(rows))]), controls)
            for rows, controls in folds
        ]

    scores = pool_clip({0: with_clips(FIRST, [2, 2, 1, 2, 0, 1])}, CLASSES, {}, **SETTINGS)
    assert scores["test"]["clip"]["top1"] == 8 / 12
    assert scores["test"]["clip"]["mean_class_accuracy"] == pytest.approx((3 / 6 + 5 / 6) / 2)
    assert scores["test"]["clip"]["num_clips"] == 12
    tables = {0: with_clips(FIRST, [2, 2, 1, 2, 0, 1]), 1: with_clips(SECOND, [0] * 6)}
    assert pool_clip(tables, CLASSES, {}, **SETTINGS)["test"]["clip"]["top1"] == 4 / 12
    assert "clip" not in pool_clip({0: FIRST}, CLASSES, {}, **SETTINGS)["test"]


def test_alarms_over_folds_and_seeds() -> None:
    def lasting(folds: list) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
        return [(rows.assign(seconds=[1800.0, 5.0] * (len(rows) // 2)), controls) for rows, controls in folds]

    watched = Alarms(["yes"], 1.0, 0.1)
    # Seed 0: every `yes` above every `no`. Seed 1: with two false alarms in an hour and a half 0.6 and 0.7 are too low.
    one = pool_detection({0: lasting(FIRST)}, watched, **SETTINGS)["yes"]
    assert (one["threshold"], one["recall"], one["false_alarms_per_hour"]) == (0.7, 1.0, 0.0)
    assert (one["num_events"], one["hours_without"], one["rate_per_hour"]) == (3, 1.5, 1.0)
    other = pool_detection({1: lasting(SECOND)}, watched, **SETTINGS)["yes"]
    assert (other["threshold"], other["recall"]) == (0.8, pytest.approx(2 / 3))
    assert other["false_alarms_per_hour"] == pytest.approx(1 / 1.5)
    both = pool_detection({0: lasting(FIRST), 1: lasting(SECOND)}, watched, **SETTINGS)["yes"]
    assert both["recall"] == pytest.approx(5 / 6)
    assert np.isnan(both["delay_seconds"])
    rows = detection_table([lasting(FIRST)[0][0]], watched)
    assert [(row["class"], row["threshold"], row["recall"]) for row in rows][-1] == ("yes", 0.9, 0.5)
    assert detection_table([lasting(FIRST)[0][0]], Alarms([], 1.0, 0.1)) == []


def test_alarms_in_recordings_have_a_delay() -> None:
    def recording(name: str, yes: list[float], truth: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        rows = frames(name, yes, truth)
        return rows, rows

    folds = [recording("a", [0.1, 0.2, 0.9, 0.1], "nyyn"), recording("b", [0.1, 0.2, 0.1], "nnn")]
    found = pool_detection({0: folds}, Alarms(["yes"], 1.0, 0.5), **SETTINGS)["yes"]
    assert (found["threshold"], found["recall"], found["delay_seconds"]) == (0.9, 1.0, 0.5)
    assert found["hours_without"] == pytest.approx(5 * 0.5 / 3600)


def test_the_curve_keeps_the_tests_of_a_recording_apart() -> None:
    folds = [frames("a", [0.1, 0.2], "ny"), frames("a", [0.9, 0.1], "yn")]  # tested in two folds: two events
    rows = detection_table(folds, Alarms(["yes"], 1.0, 0.5))
    assert [row["recall"] for row in rows if row["threshold"] == 0.9] == [0.5]
    assert (
        pool_detection({0: [(fold, fold) for fold in folds]}, Alarms(["yes"], 1.0, 0.5), **SETTINGS)["yes"][
            "num_events"
        ]
        == 2
    )


def test_trainings_have_a_mean_and_a_deviation_of_the_scores_that_all_have() -> None:
    trainings = [
        {"top1": 0.5, "auc": None, "num_videos": 10, "ece": 0.1},
        {"top1": 0.7, "auc": 0.9, "num_videos": 20, "ece": 0.1},
        {"top1": 0.9, "auc": 0.8, "num_videos": 30, "ece": 0.1},
    ]
    found = between_trainings(trainings)
    assert found["mean"] == pytest.approx({"top1": 0.7, "ece": 0.1})
    assert found["deviation"] == pytest.approx({"top1": 0.2, "ece": 0.0})
