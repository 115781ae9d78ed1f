"""The leakage premium: what a split that divides groups adds to a score, from the answers of two test sides."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.evaluation.intervals import bootstrap_interval


def premium_scores(grouped: pd.DataFrame, random: pd.DataFrame, *, samples: int, seed: int) -> dict[str, object]:
    """Scores of one model under two splits, and their difference, each with a 95 % interval.

    grouped, random: the rows of `predictions.csv` of all folds: `video_id`, `group`, `label`, `predicted`, one row a
    video (clip task) or a timestep (frame task); rows without a label do not count. A score is the share of right rows.
    Intervals come from drawing whole groups anew, for both splits together: where both test the same videos, the
    difference is paired. Resamples in which one of the two has no video are left out; where one of them has a single
    group, nothing varies, and there is no interval. Raises DataError without rows.
    """
    sides = [_counts(grouped), _counts(random)]
    counts = pd.concat(sides)
    is_random = np.repeat([False, True], [len(side) for side in sides])
    right, number = counts["right"].to_numpy(np.float64), counts["number"].to_numpy(np.float64)

    def share(chosen: np.ndarray) -> float:
        total = number[chosen].sum()
        return float(right[chosen].sum() / total) if total else float("nan")

    def difference(chosen: np.ndarray) -> float:
        return share(chosen[is_random[chosen]]) - share(chosen[~is_random[chosen]])

    def interval(statistic: Callable[[np.ndarray], float], rows: np.ndarray) -> tuple[float, float, float]:
        groups = counts["group"].to_numpy()[rows]
        bounds = bootstrap_interval(lambda chosen: statistic(rows[chosen]), groups, samples=samples, seed=seed)
        return statistic(rows), bounds.low, bounds.high

    every = np.arange(len(counts))
    parts = {
        name: dict(zip(("score", "low", "high"), interval(share, rows), strict=True))
        for name, rows in (("grouped", every[~is_random]), ("random", every[is_random]))
    }
    premium, low, high = interval(difference, every)
    if min(side["group"].nunique() for side in sides) < 2:
        low = high = float("nan")
    return {**parts, "premium": premium, "premium_low": low, "premium_high": high}


def _counts(answers: pd.DataFrame) -> pd.DataFrame:
    """Right and all rows of each video, with its group."""
    known = answers[answers["label"] != ""]
    right = known["label"] == known["predicted"]
    rows = pd.DataFrame({"video_id": known["video_id"], "group": known["group"], "right": right})
    return rows.groupby("video_id", sort=False).agg(
        group=("group", "first"), right=("right", "sum"), number=("right", "size")
    )
