"""Confidence intervals by bootstrap over groups.

Clips cut from one recording are alike, so single videos drawn anew understate the uncertainty. Whole groups are drawn
instead (cluster bootstrap; Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8), and the
interval is read off the percentiles. With few groups (below about 20) such intervals are too narrow; `num_groups`
stands beside every one of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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


class Resamples:
    """Groups drawn anew: one set of draws for every statistic of the same N items, so that differences are paired.

    group_of_item: (N,) int64, the number of each item's group in sorted order of the groups. times_drawn: (samples,
    num_groups) float64, how often a resample holds each group; without a row where there is a single group, which has
    no other to vary with. Equal arguments give equal draws, those of `bootstrap_interval`.
    """

    def __init__(self, groups: Groups, *, samples: int, seed: int) -> None:
        self.group_of_item, self.num_groups = _numbered(groups)
        counts = [np.bincount(draw, minlength=self.num_groups) for draw in _draws(self.num_groups, samples, seed)]
        self.times_drawn = np.array(counts, dtype=np.float64).reshape(-1, self.num_groups)

    def totals(self, values: np.ndarray) -> np.ndarray:
        """Sums of (N,) or (N, S) values over the items of each resample, (samples,) or (samples, S) float64."""
        values = np.asarray(values, dtype=np.float64)
        if len(values) != len(self.group_of_item):
            raise DataError(
                f"{len(values)} values but {len(self.group_of_item)} groups; expected one group for each value"
            )
        order = np.argsort(self.group_of_item, kind="stable")
        starts = np.searchsorted(self.group_of_item[order], np.arange(self.num_groups))
        totals: np.ndarray = self.times_drawn @ np.add.reduceat(values[order], starts, axis=0)
        return totals

    def interval(self, statistics: np.ndarray, level: float = 0.95) -> Interval:
        """Percentiles of a statistic, (samples,) float64, nan where a resample does not define it."""
        return _percentiles(statistics, self.num_groups, level)


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
    resamples = Resamples(groups, samples=samples, seed=seed)
    totals = resamples.totals(np.column_stack([values, np.ones(len(values))]))
    return resamples.interval(totals[:, 0] / totals[:, 1], level)


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
