"""Confidence intervals by bootstrap over groups.

Clips cut from one recording are alike, so single videos drawn anew understate the uncertainty. Whole groups are drawn
instead (cluster bootstrap; Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8), and the
interval is read off the percentiles. With few groups (below about 20) such intervals are too narrow; `num_groups`
stands beside every one of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.errors import DataError

Groups = np.ndarray | Sequence[str] | Sequence[int]


@dataclass(frozen=True)
class Interval:
    """low, high: the bounds, nan when there are none: with a single group, or with a statistic nan in every resample.

    num_groups: groups drawn from. num_samples: resamples the bounds rest on, those in which the statistic was a number.
    """

    low: float
    high: float
    num_groups: int
    num_samples: int


class Difference(NamedTuple):
    """Mean of a minus mean of b, and the bounds of its interval (nan with a single group)."""

    difference: float
    low: float
    high: float


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], groups: Groups, *, samples: int, seed: int, level: float = 0.95
) -> Interval:
    """Interval of any statistic of N items.

    statistic: takes `(M,)` int64 item indices, in which an item stands once for each time its group was drawn, and
    gives a number, or nan where it is not defined (the AUC of a resample with one class); such resamples are left out
    and `Interval.num_samples` says so. groups: `(N,)`, the group of each item. level: 0.95 = from 2.5 % to 97.5 %.
    Equal arguments give equal bounds. Raises DataError without items, ValueError for samples < 1 or a level not inside
    (0, 1).
    """
    group_of_item, num_groups = _numbered(groups)
    members = np.split(np.argsort(group_of_item, kind="stable"), np.cumsum(np.bincount(group_of_item))[:-1])
    values = [
        statistic(np.concatenate([members[group] for group in draw])) for draw in _draws(num_groups, samples, seed)
    ]
    return _percentiles(np.array(values, dtype=np.float64), num_groups, level)


def bootstrap_mean(values: np.ndarray, groups: Groups, *, samples: int, seed: int, level: float = 0.95) -> Interval:
    """`bootstrap_interval` of the mean of `(N,)` finite values, with the same draws, but without a loop over items.

    Every item weighs the same, so a big group weighs more. Accuracy = the mean of right (1) and wrong (0).
    """
    values = _finite(values, "values")
    group_of_item, num_groups = _numbered(groups)
    if len(values) != len(group_of_item):
        raise DataError(f"{len(values)} values but {len(group_of_item)} groups; expected one group for each value")
    sums, sizes = np.bincount(group_of_item, weights=values), np.bincount(group_of_item)
    means = [sums[draw].sum() / sizes[draw].sum() for draw in _draws(num_groups, samples, seed)]
    return _percentiles(np.array(means, dtype=np.float64), num_groups, level)


def paired_difference(
    values_a: np.ndarray, values_b: np.ndarray, groups: Groups, *, samples: int, seed: int, level: float = 0.95
) -> Difference:
    """Mean of a - mean of b over the same N items, with an interval from drawing both together.

    Pairing removes what makes an item hard for both models: the interval is that of the differences.
    """
    values_a, values_b = _finite(values_a, "values_a"), _finite(values_b, "values_b")
    if len(values_a) != len(values_b):
        raise DataError(f"{len(values_a)} values of a but {len(values_b)} of b; expected the same items in one order")
    values = values_a - values_b
    interval = bootstrap_mean(values, groups, samples=samples, seed=seed, level=level)
    return Difference(float(values.mean()), interval.low, interval.high)


def _draws(num_groups: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Group numbers of each resample, `(num_groups,)`; nothing with a single group, which has no other to vary with."""
    if samples < 1:
        raise ValueError(f"samples is {samples}; expected 1 or more resamples")
    if num_groups > 1:
        rng = np.random.default_rng(seed)
        for _ in range(samples):
            yield rng.integers(num_groups, size=num_groups)


def _percentiles(values: np.ndarray, num_groups: int, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a share between 0 and 1, such as 0.95")
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Interval(float("nan"), float("nan"), num_groups, 0)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), num_groups, len(values))


def _numbered(groups: Groups) -> tuple[np.ndarray, int]:
    """`(N,)` number of each item's group, in sorted order of the groups, and how many groups there are."""
    groups = np.asarray(groups)
    if groups.ndim != 1 or len(groups) == 0:
        raise DataError(f"groups has shape {groups.shape}; expected (N,), one group for each of 1 or more items")
    names, group_of_item = np.unique(groups, return_inverse=True)
    return group_of_item, len(names)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise DataError(f"{name} has shape {values.shape} or holds values that are not finite; expected (N,) numbers")
    return values
