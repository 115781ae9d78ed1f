import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.evaluation.intervals import bootstrap_mean
from pipeline.evaluation.premium import premium_scores


def answers(right: list[int], groups: list[str], first: int = 0) -> pd.DataFrame:
    """One row a video: right or wrong, numbered from `first`."""
    return pd.DataFrame(
        {
            "video_id": [f"{first + number}.mp4" for number in range(len(right))],
            "group": groups,
            "label": "up",
            "predicted": ["up" if one else "down" for one in right],
        }
    )


def test_the_same_videos_on_both_sides_give_the_paired_difference():
    rng = np.random.default_rng(0)
    groups = [f"g{number}" for number in rng.integers(12, size=80)]
    grouped, random = rng.integers(2, size=80), rng.integers(3, size=80) > 0
    order = rng.permutation(80)
    found = premium_scores(
        answers(grouped.tolist(), groups), answers(random.tolist(), groups).iloc[order], samples=300, seed=4
    )
    for name, right in (("grouped", grouped), ("random", random)):
        interval = bootstrap_mean(right, groups, samples=300, seed=4)
        expected = {"score": right.mean(), "low": interval.low, "high": interval.high}
        assert found[name] == pytest.approx(expected, abs=1e-12)
    paired = bootstrap_mean(random - grouped, groups, samples=300, seed=4)
    names = ("premium", "premium_low", "premium_high")
    expected = [np.mean(random - grouped), paired.low, paired.high]
    assert [found[name] for name in names] == pytest.approx(expected, abs=1e-12)


def test_other_videos_are_compared_by_their_shares():
    grouped = answers([1, 0, 0, 1, 0], ["a", "a", "b", "b", "b"])
    random = answers([1, 1, 1, 0], ["a", "b", "c", "d"], first=10)
    found = premium_scores(grouped, random, samples=500, seed=0)
    assert found["premium"] == pytest.approx(3 / 4 - 2 / 5)
    assert found["premium_low"] < found["premium"] < found["premium_high"]
    assert found["random"]["low"] <= 0.75 <= found["random"]["high"]


def test_timesteps_without_a_label_do_not_count():
    def steps(labels: str, predicted: str, group: str) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "video_id": f"{group}.mp4",
                "group": group,
                "label": [label.strip() for label in labels],
                "predicted": list(predicted),
            }
        )

    grouped = pd.concat([steps("aab ", "abbb", "p"), steps("b", "a", "q")])
    random = pd.concat([steps("aab ", "aaba", "p"), steps("b", "a", "q")])
    found = premium_scores(grouped, random, samples=50, seed=0)
    assert (found["grouped"]["score"], found["random"]["score"]) == (0.5, 0.75)
    assert found["premium"] == 0.25


def test_a_single_group_has_no_interval_and_nothing_has_no_score():
    one = answers([1, 0], ["a", "a"])
    found = premium_scores(one, one, samples=50, seed=0)
    assert found["premium"] == 0
    assert np.isnan([found["premium_low"], found["grouped"]["high"]]).all()
    # Of two sides of one group each the pairs that can be drawn are one: no spread is no certainty.
    found = premium_scores(one, answers([1, 1], ["b", "b"]), samples=50, seed=0)
    assert found["premium"] == 0.5
    assert np.isnan([found["premium_low"], found["premium_high"]]).all()
    with pytest.raises(DataError, match="one group for each of 1 or more items"):
        premium_scores(one, one[:0], samples=50, seed=0)
