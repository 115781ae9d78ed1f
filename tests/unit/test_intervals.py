import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.errors import DataError
from pipeline.evaluation.intervals import Interval, Resamples, bootstrap_interval, bootstrap_mean


def drawn(seed: int, num_groups: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Values around 0 whose groups differ (deviation 1) as much as items within a group; 1 to 12 items a group."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), rng.integers(1, 13, num_groups))
    values = rng.normal(size=num_groups)[groups] + rng.normal(size=len(groups))
    shuffled = rng.permutation(len(groups))
    return values[shuffled], groups[shuffled]


def test_fast_and_general_way_agree():
    for seed in range(5):
        values, groups = drawn(seed)
        fast = bootstrap_mean(values, groups, samples=200, seed=seed)
        general = bootstrap_interval(lambda at: float(values[at].mean()), groups, samples=200, seed=seed)  # noqa: B023
        assert (fast.low, fast.high) == pytest.approx((general.low, general.high), abs=1e-12)
        assert (fast.num_groups, fast.num_samples) == (general.num_groups, general.num_samples) == (30, 200)


def test_equal_seeds_give_equal_bounds():
    values, groups = drawn(0)
    first = bootstrap_mean(values, groups, samples=100, seed=4)
    assert bootstrap_mean(values, groups, samples=100, seed=4) == first
    assert bootstrap_mean(values, groups, samples=100, seed=5) != first
    # The order of the items and the names of the groups (in the same order) do not matter either.
    names = np.array([f"source {group:03d}" for group in groups])
    renamed = bootstrap_mean(values[::-1], names[::-1].tolist(), samples=100, seed=4)
    assert (renamed.low, renamed.high) == pytest.approx((first.low, first.high), abs=1e-12)


def test_bounds_worked_by_hand():
    # Two groups of one item: the mean of a resample is 0, 1/2, 1/2 or 1 with equal chance.
    interval = bootstrap_mean(np.array([0.0, 1.0]), ["a", "b"], samples=400, seed=0)
    assert interval == Interval(0.0, 1.0, 2, 400)
    middle = bootstrap_mean(np.array([0.0, 1.0]), ["a", "b"], samples=400, seed=0, level=0.2)
    assert (middle.low, middle.high) == (0.5, 0.5)


def test_whole_groups_are_drawn_and_items_weigh_the_same():
    groups = np.array([2, 0, 1, 0, 2, 2])
    seen = []

    def record(at: np.ndarray) -> float:
        counts = np.bincount(at, minlength=6)
        assert counts[1] == counts[3]
        assert counts[0] == counts[4] == counts[5]
        assert counts[1] + counts[2] + counts[0] == 3  # three groups were drawn
        seen.append(len(at))
        return float(len(at))

    interval = bootstrap_interval(record, groups, samples=300, seed=1)
    assert set(seen) == {3, 4, 5, 6, 7, 8, 9}
    assert (interval.low, interval.high) == (np.quantile(seen, 0.025), np.quantile(seen, 0.975))


def coverage(of_groups: bool) -> float:
    hits = 0
    for seed in range(200):
        values, groups = drawn(seed, num_groups=40)
        interval = bootstrap_mean(values, groups if of_groups else np.arange(len(values)), samples=150, seed=seed)
        hits += interval.low <= 0 <= interval.high
    return hits / 200


def test_intervals_over_groups_cover_the_truth():
    # 0.95 is promised; 40 groups and 200 trials leave it within 0.88 and 0.98.
    assert 0.88 <= coverage(of_groups=True) <= 0.98
    # Single items drawn anew pretend to know more: this is why groups are drawn.
    assert coverage(of_groups=False) < 0.8


def test_a_single_group_has_no_interval():
    interval = bootstrap_mean(np.array([0.0, 1.0, 1.0]), ["a", "a", "a"], samples=50, seed=0)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert (interval.num_groups, interval.num_samples) == (1, 0)
    general = bootstrap_interval(lambda at: float(at.mean()), ["a", "a"], samples=50, seed=0)
    assert math.isnan(general.low)


def test_resamples_without_a_value_are_left_out_and_counted():
    labels = np.array([0, 0, 1, 1, 0, 1])
    scores = np.array([0.1, 0.6, 0.4, 0.9, 0.2, 0.8])
    groups = np.array([0, 0, 1, 1, 2, 3])

    def auc(at: np.ndarray) -> float:
        return float(roc_auc_score(labels[at], scores[at])) if len(set(labels[at])) == 2 else math.nan

    interval = bootstrap_interval(auc, groups, samples=200, seed=0)
    assert 0 < interval.num_samples < 200
    assert 0 <= interval.low <= interval.high == 1
    never = bootstrap_interval(lambda at: math.nan, groups, samples=20, seed=0)
    assert never.num_samples == 0
    assert math.isnan(never.low)


def test_one_set_of_draws_pairs_differences():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 4)
    hardness = rng.normal(size=200)
    a, b = hardness + 0.1, hardness + 0.01 * rng.normal(size=200)
    resamples = Resamples(groups, samples=300, seed=0)
    means = resamples.totals(np.column_stack([a, b])) / 200
    paired = resamples.interval(means[:, 0] - means[:, 1])
    assert 0.09 < paired.low < np.mean(a - b) < paired.high < 0.11
    directly = bootstrap_mean(a - b, groups, samples=300, seed=0)
    assert (paired.low, paired.high) == pytest.approx((directly.low, directly.high), abs=1e-12)
    alone = resamples.interval(means[:, 0])
    assert alone.high - alone.low > 10 * (paired.high - paired.low)


def test_unusable_arguments_are_named():
    values, groups = np.array([0.0, 1.0]), ["a", "b"]
    with pytest.raises(DataError, match="2 values but 3 groups"):
        bootstrap_mean(values, ["a", "b", "c"], samples=10, seed=0)
    with pytest.raises(DataError, match="groups has shape"):
        bootstrap_mean(np.array([]), [], samples=10, seed=0)
    with pytest.raises(DataError, match=r"values has shape .* not finite"):
        bootstrap_mean(np.array([0.0, np.nan]), groups, samples=10, seed=0)
    with pytest.raises(ValueError, match="samples is 0; expected 1 or more"):
        bootstrap_mean(values, groups, samples=0, seed=0)
    with pytest.raises(ValueError, match="level is 95; expected a share between 0 and 1"):
        bootstrap_mean(values, groups, samples=10, seed=0, level=95)
