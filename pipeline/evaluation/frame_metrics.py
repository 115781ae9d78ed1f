"""Scores of frame labelling: one class per timestep. T timesteps of a video, K classes, class indices 0 .. K - 1.

Edit score and F1@k as in Lea et al. 2017, "Temporal Convolutional Networks for Action Segmentation and Detection", and
in the evaluation of MS-TCN (Farha and Gall 2019, github.com/yabufarha/ms-tcn, eval.py), here as fractions.

A segment is a longest run of timesteps with one label, `[start, end)`. Timesteps whose truth is `IGNORED` (-100)
count nowhere; a segment, true or predicted, ends where they begin, for nothing is known about what lies between.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.data.labels import IGNORED
from pipeline.errors import DataError
from pipeline.evaluation.clip_metrics import check_labels, check_probs, confusion_matrix

OVERLAPS = {"f1_10": 0.10, "f1_25": 0.25, "f1_50": 0.50}


class Segments(NamedTuple):
    """Segments of one video in order of time: three `(S,)` int64 arrays, `[start, end)` in timesteps."""

    labels: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


class VideoScores(NamedTuple):
    """What the scores of a test set are put together from: a number for each of the V videos with a labelled timestep.

    position: (V,) int64, place among the videos given. right, frames: (V,) int64, timesteps that are right, and all
    that have a label. edit: (V,) float64. overlaps: by score, (V, 3) int64 true and false positives and false
    negatives. segments: (V, 2) int64, true and predicted ones without background.
    """

    position: np.ndarray
    right: np.ndarray
    frames: np.ndarray
    edit: np.ndarray
    overlaps: dict[str, np.ndarray]
    segments: np.ndarray


def frame_metrics(
    truth: Sequence[np.ndarray],
    predicted: Sequence[np.ndarray],
    *,
    num_classes: int,
    background: int | None,
    probs: Sequence[np.ndarray] | None = None,
) -> dict[str, float]:
    """Every score of one test set; all but the counts lie in [0, 1].

    truth, predicted: a `(T,)` int array per video, equally long; truth may hold `IGNORED`. probs: a `(T, K)` float
    array per video, rows sum to 1. background: the class that means "none of the actions", None when there is no such
    class. Keys:

    - acc: share of right timesteps, all videos pooled. acc_without_background: the same over the timesteps whose truth
      is not background; nan when there are none.
    - mean_class_accuracy: mean recall of the classes, background included, that occur in the truth.
    - edit: mean over videos of `edit_score`. f1_10, f1_25, f1_50: 2 tp / (2 tp + fp + fn) of `overlap_counts` at an
      intersection over union of 0.10, 0.25, 0.50, counts pooled over videos. Background segments are left out of both.
    - frame_map (only with probs): mean average precision. Per class, timesteps of all videos are ranked by its
      probability (timesteps of equal probability enter together; AP = sum of precision x step in recall); mean over
      the classes that occur in the truth without background, whose timesteps stay as negatives. nan without any.
    - background_class: the statement that belongs to the scores: index of the class left out, -1 when none was.
    - num_videos, num_frames (what was scored), num_videos_ignored, num_frames_ignored, num_classes_present (background
      included), num_truth_segments, num_predicted_segments (background left out).

    A video without any action, true or predicted, is a right prediction: edit 1. F1 is 1 when that holds for all videos
    (no tp, fp or fn). Leaving such videos out would score models on different videos: the one that invents an action
    there is counted with edit 0. A video whose every timestep is ignored is left out of all scores, for any model.

    Raises DataError when nothing is left to score, lengths differ, or an entry is not a class.
    """
    videos = _checked(truth, predicted, num_classes, background)
    scored = [true != IGNORED for true, _ in videos]
    all_true = np.concatenate([true[keep] for (true, _), keep in zip(videos, scored, strict=True)])
    all_predicted = np.concatenate([given[keep] for (_, given), keep in zip(videos, scored, strict=True)])
    each = video_scores(truth, predicted, num_classes=num_classes, background=background)

    metrics = _frame_accuracies(confusion_matrix(all_true, all_predicted, num_classes), background)
    metrics["edit"] = float(np.mean(each.edit))
    for name, counts in each.overlaps.items():
        metrics[name] = float(overlap_f1(counts.sum(axis=0)))
    if probs is not None:
        rows = np.concatenate(_scored_probs(probs, scored, num_classes))
        metrics["frame_map"] = _mean_average_precision(all_true, rows, background)
    metrics["background_class"] = -1.0 if background is None else float(background)
    metrics["num_videos"] = float(len(each.position))
    metrics["num_videos_ignored"] = float(len(videos) - len(each.position))
    metrics["num_frames"] = float(len(all_true))
    metrics["num_frames_ignored"] = float(sum(len(keep) for keep in scored) - len(all_true))
    metrics["num_classes_present"] = float(len(np.unique(all_true)))
    metrics["num_truth_segments"], metrics["num_predicted_segments"] = map(float, each.segments.sum(axis=0))
    return metrics


def video_scores(
    truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray], *, num_classes: int, background: int | None
) -> VideoScores:
    """The parts of `frame_metrics` by video; arguments and errors as there."""
    videos = _checked(truth, predicted, num_classes, background)
    scored = [true != IGNORED for true, _ in videos]
    position = np.array([index for index, keep in enumerate(scored) if keep.any()], dtype=np.int64)
    if len(position) == 0:
        raise DataError(f"no timestep to score in {len(videos)} videos; expected 1 or more with a label")
    chosen = [(*videos[index], scored[index]) for index in position]
    pairs = [
        (segments(true, background), segments(np.where(keep, given, IGNORED), background))
        for true, given, keep in chosen
    ]
    overlaps = [(true, *_best_overlaps(true, given)) for true, given in pairs]
    return VideoScores(
        position=position,
        right=np.array([(true == given).sum() for true, given, _ in chosen]),
        frames=np.array([keep.sum() for *_, keep in chosen]),
        edit=np.array([edit_score(true.labels, given.labels) for true, given in pairs]),
        overlaps={name: np.array([_counts(*each, overlap) for each in overlaps]) for name, overlap in OVERLAPS.items()},
        segments=np.array([(len(true.labels), len(given.labels)) for true, given in pairs]),
    )


def overlap_f1(counts: np.ndarray) -> np.ndarray:
    """2 tp / (2 tp + fp + fn) of (..., 3) counts, 1 where all are 0."""
    tp, errors = 2.0 * counts[..., 0], counts[..., 1] + counts[..., 2]
    return np.asarray(np.where(tp + errors > 0, tp / np.maximum(tp + errors, 1), 1.0))


def segments(labels: np.ndarray, background: int | None) -> Segments:
    """Segments of a `(T,)` int array, T >= 0, without those of `IGNORED` and of the background class.

    >>> [part.tolist() for part in segments(np.array([0, 2, 2, 0, 2, 1]), background=0)]
    [[2, 2, 1], [1, 4, 5], [3, 5, 6]]
    """
    labels = np.asarray(labels, dtype=np.int64)
    change = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    starts = np.concatenate([[0], change]).astype(np.int64)[: len(labels)]
    ends = np.concatenate([change, [len(labels)]]).astype(np.int64)[: len(labels)]
    names = labels[starts]
    keep = names != IGNORED
    if background is not None:
        keep &= names != background
    return Segments(names[keep], starts[keep], ends[keep])


def edit_score(truth: np.ndarray, predicted: np.ndarray) -> float:
    """1 - Levenshtein distance / length of the longer, of two sequences of segment labels; 1 when both are empty.

    >>> round(edit_score(np.array([1, 2, 3]), np.array([1, 3])), 4)
    0.6667
    """
    longer, shorter = sorted((np.asarray(truth), np.asarray(predicted)), key=len, reverse=True)
    if len(longer) == 0:
        return 1.0
    steps = np.arange(len(longer) + 1)
    distance = steps
    for row, label in enumerate(shorter, start=1):
        best = np.concatenate([[row], np.minimum(distance[:-1] + (longer != label), distance[1:] + 1)])
        # A step along the row costs 1 each: the running minimum of best - position, put back, is all of them at once.
        distance = np.minimum.accumulate(best - steps) + steps
    return float(1 - distance[-1] / len(longer))


def overlap_counts(truth: Segments, predicted: Segments, overlap: float) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of one video's segments at one overlap, 0 < overlap <= 1.

    Each predicted segment, in order of time, is compared with the true segment of its class that it overlaps most
    (intersection over union, the earlier of equals). It is right when the overlap reaches the bound and no predicted
    segment before it was right by the same true segment. There is no second choice; as in MS-TCN.
    """
    return _counts(truth, *_best_overlaps(truth, predicted), overlap)


def _best_overlaps(truth: Segments, predicted: Segments) -> tuple[np.ndarray, np.ndarray]:
    """Of each predicted segment the true one of its class that it overlaps most, `(P,)` int64, and how much.

    -1 where there is none of its class.
    """
    best, ratio = np.zeros(len(predicted.labels), dtype=np.int64), np.full(len(predicted.labels), -1.0)
    for label in np.intersect1d(truth.labels, predicted.labels):
        theirs, own = np.flatnonzero(truth.labels == label), np.flatnonzero(predicted.labels == label)
        starts, ends = truth.starts[theirs], truth.ends[theirs]
        first, last = predicted.starts[own, None], predicted.ends[own, None]
        # Of segments apart the intersection is negative, which is below every bound.
        ratios = (np.minimum(ends, last) - np.maximum(starts, first)) / (
            np.maximum(ends, last) - np.minimum(starts, first)
        )
        most = ratios.argmax(axis=1)
        best[own], ratio[own] = theirs[most], ratios[np.arange(len(own)), most]
    return best, ratio


def _counts(truth: Segments, best: np.ndarray, ratio: np.ndarray, overlap: float) -> tuple[int, int, int]:
    found = len(np.unique(best[ratio >= overlap]))
    return found, len(best) - found, len(truth.labels) - found


def _frame_accuracies(confusion: np.ndarray, background: int | None) -> dict[str, float]:
    support, right = confusion.sum(axis=1), confusion.diagonal()
    present = support > 0
    action = np.arange(len(support)) != (-1 if background is None else background)
    num_action = support[action].sum()
    return {
        "acc": float(right.sum() / support.sum()),
        "acc_without_background": float(right[action].sum() / num_action) if num_action else float("nan"),
        "mean_class_accuracy": float(np.mean(right[present] / support[present])),
    }


def _mean_average_precision(truth: np.ndarray, probs: np.ndarray, background: int | None) -> float:
    from sklearn.metrics import average_precision_score

    classes = [index for index in np.unique(truth) if index != background]
    values = [average_precision_score(truth == index, probs[:, index]) for index in classes]
    return float(np.mean(values)) if values else float("nan")


def _checked(
    truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray], num_classes: int, background: int | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    if background is not None and not 0 <= background < num_classes:
        raise DataError(f"background is class {background}; expected 0 to {num_classes - 1}, or None")
    if len(truth) != len(predicted) or len(truth) == 0:
        raise DataError(f"truth of {len(truth)} videos, predictions of {len(predicted)}; expected as many, 1 or more")
    videos = []
    for index, (true, given) in enumerate(zip(truth, predicted, strict=True)):
        true = np.asarray(true)
        kept = check_labels(np.where(true == IGNORED, 0, true), num_classes, f"truth of video {index}")
        checked = check_labels(given, num_classes, f"prediction of video {index}")
        if len(kept) != len(checked):
            raise DataError(
                f"video {index} has {len(kept)} labels but {len(checked)} predictions; expected one for each timestep. "
                "Were labels and features made at the same rate?"
            )
        videos.append((np.where(true == IGNORED, IGNORED, kept), checked))
    return videos


def _scored_probs(probs: Sequence[np.ndarray], scored: list[np.ndarray], num_classes: int) -> list[np.ndarray]:
    if len(probs) != len(scored):
        raise DataError(f"probabilities of {len(probs)} videos, truth of {len(scored)}; expected as many")
    rows = []
    for index, (values, keep) in enumerate(zip(probs, scored, strict=True)):
        checked = check_probs(values, f"probs of video {index}")
        if checked.shape != (len(keep), num_classes):
            raise DataError(f"probs of video {index} has shape {checked.shape}; expected ({len(keep)}, {num_classes})")
        rows.append(checked[keep])
    return rows
