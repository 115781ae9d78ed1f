"""Scores of bootstrap resamples, all at once: for each resample the score that its items, weighted, would have.

A resample holds each group some number of times, so a score of it is the same score with that number as the weight of
every item of the group. What can be summed by group is (accuracy, edit, F1: one matrix product for all resamples); the
rankings (AUC, average precision) are sorted once. All functions give `(samples,)` float64, nan where a resample does
not define the score, and leave the order of the resamples as it is, so that differences of two results are paired.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.evaluation.frame_metrics import VideoScores, overlap_f1
from pipeline.evaluation.intervals import Resamples

CELLS = 4_000_000  # numbers held at a time, 32 MB
# The average precision of a resample costs a pass over all timesteps; of long recordings fewer resamples are taken.
RANKED_CELLS = 200_000_000
LEAST_SAMPLES = 100


def means(resamples: Resamples, values: np.ndarray) -> np.ndarray:
    """Mean of (N,) values."""
    totals = resamples.totals(np.column_stack([values, np.ones(len(values))]))
    return np.asarray(totals[:, 0] / totals[:, 1])


def class_means(
    resamples: Resamples, labels: np.ndarray, predicted: np.ndarray, num_classes: int
) -> dict[str, np.ndarray]:
    """`mean_class_accuracy` and `macro_f1` of (N,) class indices; over the classes that a resample has videos of."""
    right, support, given = (
        _by_class(resamples, classes, num_classes, chosen)
        for classes, chosen in ((labels, labels == predicted), (labels, None), (predicted, None))
    )
    present = support > 0
    recall = np.where(present, right / np.maximum(support, 1), 0.0)
    f1 = np.where(present, 2 * right / np.maximum(support + given, 1), 0.0)
    number = present.sum(axis=1)
    return {"mean_class_accuracy": recall.sum(axis=1) / number, "macro_f1": f1.sum(axis=1) / number}


def aucs(resamples: Resamples, scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of (N,) scores, as in `clip_metrics.auc`; positive: (N,) bool."""
    order = np.argsort(scores, kind="stable")
    ranked, is_positive, groups = scores[order], positive[order], resamples.group_of_item[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    values = []
    for times in _slices(resamples.times_drawn, len(scores)):
        weights = times[:, groups]
        above, below = (np.add.reduceat(weights * side, starts, axis=1) for side in (is_positive, ~is_positive))
        won = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
        pairs = above.sum(axis=1) * below.sum(axis=1)
        values.append(np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan))
    return np.concatenate(values) if values else np.empty(0)


def frame_means(resamples: Resamples, videos: VideoScores) -> dict[str, np.ndarray]:
    """`acc`, `edit` and `f1_..` of the frame task; the items of the resamples are these videos."""
    names = list(videos.overlaps)
    columns = [videos.right, videos.frames, videos.edit, np.ones(len(videos.edit)), *videos.overlaps.values()]
    totals = resamples.totals(np.column_stack(columns))
    overlaps = {name: overlap_f1(totals[:, 4 + 3 * at : 7 + 3 * at]) for at, name in enumerate(names)}
    return {"acc": totals[:, 0] / totals[:, 1], "edit": totals[:, 2] / totals[:, 3], **overlaps}


def average_precisions(
    resamples: Resamples, group_of_frame: np.ndarray, truth: np.ndarray, probs: np.ndarray, background: int | None
) -> np.ndarray:
    """`frame_map` of the first resamples, as many as RANKED_CELLS allows, at least LEAST_SAMPLES.

    group_of_frame: (T,) int64, numbers of groups as in `Resamples.group_of_item`; truth: (T,) class indices; probs:
    (T, K). The mean is over the classes without background that a resample has timesteps of.
    """
    classes = [index for index in np.unique(truth) if index != background]
    number = max(LEAST_SAMPLES, RANKED_CELLS // max(1, int(np.isin(truth, classes).sum())))
    times = resamples.times_drawn[:number]
    each = np.array([_average_precision(times, group_of_frame, truth == index, probs[:, index]) for index in classes])
    each = each.reshape(len(classes), len(times))
    known = ~np.isnan(each)
    present = known.sum(axis=0)
    total = np.where(known, each, 0.0).sum(axis=0)
    return np.asarray(np.where(present > 0, total / np.maximum(present, 1), np.nan))


def _average_precision(times: np.ndarray, groups: np.ndarray, positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Sum over the scores that positives have, from the highest, of precision there times gain in recall."""
    bounds = -np.unique(-scores[positive])  # descending; only there recall grows
    entry = np.searchsorted(-bounds, -scores, side="left")  # the first bound that takes a timestep in
    entered = entry < len(bounds)
    order = np.flatnonzero(entered)[np.argsort(entry[entered], kind="stable")]
    entry, groups, positive = entry[order], groups[order], positive[order]
    area, right, taken = np.zeros(len(times)), np.zeros(len(times)), np.zeros(len(times))
    step = max(1, CELLS // max(1, len(times)))
    for first in range(0, len(bounds), step):
        width = min(step, len(bounds) - first)
        at = slice(*np.searchsorted(entry, [first, first + width]))
        cells = groups[at] * width + entry[at] - first
        size = times.shape[1] * width
        every = times @ np.bincount(cells, minlength=size).reshape(-1, width).astype(np.float64)
        gained = times @ np.bincount(cells[positive[at]], minlength=size).reshape(-1, width).astype(np.float64)
        rights = right[:, None] + np.cumsum(gained, axis=1)
        takens = taken[:, None] + np.cumsum(every, axis=1)
        area += (gained * rights / np.maximum(takens, 1)).sum(axis=1)
        right, taken = rights[:, -1], takens[:, -1]
    return np.where(right > 0, area / np.maximum(right, 1), np.nan)


def _by_class(resamples: Resamples, classes: np.ndarray, num_classes: int, chosen: np.ndarray | None) -> np.ndarray:
    """(samples, K): how many items of each class a resample holds, of the chosen ones."""
    cells = resamples.group_of_item * num_classes + classes
    counts = np.bincount(cells if chosen is None else cells[chosen], minlength=resamples.num_groups * num_classes)
    return np.asarray(resamples.times_drawn @ counts.reshape(-1, num_classes).astype(np.float64))


def _slices(times: np.ndarray, num_items: int) -> Iterator[np.ndarray]:
    step = max(1, CELLS // max(1, num_items))
    for first in range(0, len(times), step):
        yield times[first : first + step]
