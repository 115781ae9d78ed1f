"""Scores over folds and seeds by numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.evaluation.clip_metrics import auc
from pipeline.evaluation.intervals import bootstrap_mean
from pipeline.evaluation.pooling import between_trainings, pool_clip, pool_frame

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


def test_trainings_have_a_mean_and_a_deviation_of_the_scores_that_all_have() -> None:
    trainings = [
        {"top1": 0.5, "auc": None, "num_videos": 10, "ece": 0.1},
        {"top1": 0.7, "auc": 0.9, "num_videos": 20, "ece": 0.1},
        {"top1": 0.9, "auc": 0.8, "num_videos": 30, "ece": 0.1},
    ]
    found = between_trainings(trainings)
    assert found["mean"] == pytest.approx({"top1": 0.7, "ece": 0.1})
    assert found["deviation"] == pytest.approx({"top1": 0.2, "ece": 0.0})
