"""Scores of clip classification from class probabilities. N videos, K classes, class indices 0 .. K - 1."""

from collections.abc import Sequence

import numpy as np

from pipeline.errors import DataError

BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks", Table 1
_SUM_TOLERANCE = 1e-3  # float16 rounding of a softmax over a few hundred classes stays below it


def clip_metrics(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every score of one test set; all but `nll` and the counts lie in [0, 1].

    probs: `(N, K)` float, rows sum to 1, K >= 2; labels: `(N,)` int; N >= 1. Keys:

    - top1, top5: share of videos whose class is among the k most probable. Of equally probable classes the one with
      the lower index comes first (as in argmax), so a constant prediction is right for exactly one class.
      top5 only with more than 5 classes.
    - mean_class_accuracy: mean of the recalls; macro_f1: mean of 2 tp / (2 tp + fp + fn). Both over the classes that
      have videos here, and only those: a class nobody could get right does not lower the score.
    - auc (K = 2 only): see `auc`; the last class is the positive one.
    - ece: expected calibration error, Guo et al. 2017, eq. 3: the mean of |accuracy - mean confidence| over 15 bins
      (see `reliability`), weighted by the videos in the bin.
    - nll: mean of -log(probability of the true class) in nats, probabilities clipped at the smallest step of a float64
      (2.2e-16, scikit-learn's log_loss), so at most 36.04.
    - num_videos, num_classes_present: N, and the number of classes with videos here.

    Raises DataError when there is no video, a label is not a class, or a row is no probability distribution.
    """
    probs, labels = _checked(probs, labels)
    num_videos, num_classes = probs.shape
    confusion = confusion_matrix(labels, probs.argmax(axis=1), num_classes)
    support, right = confusion.sum(axis=1), confusion.diagonal()
    present = support > 0
    of_truth = probs[np.arange(num_videos), labels]
    rank = _rank(probs, labels)

    metrics = {"top1": float(np.mean(rank < 1))}
    if num_classes > 5:
        metrics["top5"] = float(np.mean(rank < 5))
    metrics["mean_class_accuracy"] = float(np.mean(right[present] / support[present]))
    metrics["macro_f1"] = float(np.mean(2 * right[present] / (support + confusion.sum(axis=0))[present]))
    if num_classes == 2:
        metrics["auc"] = auc(probs[:, 1], labels == 1)
    metrics["ece"] = calibration_error(probs.max(axis=1), rank < 1)
    metrics["nll"] = float(np.mean(-np.log(np.maximum(of_truth, np.finfo(np.float64).eps))))
    metrics["num_videos"] = float(num_videos)
    metrics["num_classes_present"] = float(present.sum())
    return metrics


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """`(K, K)` int64 counts; row = true class, column = predicted class.

    labels, predicted: `(N,)` int of one length; N may be 0. Raises DataError when an entry is not a class.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    labels = check_labels(labels, num_classes, "labels")
    predicted = check_labels(predicted, num_classes, "predicted")
    if len(labels) != len(predicted):
        raise DataError(
            f"{len(labels)} labels but {len(predicted)} predictions; expected one prediction for each label"
        )
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in which the positive scores higher.

    scores: `(N,)` float; positive: `(N,)` bool. A pair of equal scores counts one half; nan without any pair.

    >>> auc(np.array([0.9, 0.4, 0.4]), np.array([True, True, False]))
    0.75
    """
    above, below = scores[positive], np.sort(scores[~positive])
    if len(above) == 0 or len(below) == 0:
        return float("nan")
    won = np.searchsorted(below, above, side="left") + np.searchsorted(below, above, side="right")
    return float(won.sum() / (2 * len(above) * len(below)))


def per_class_table(
    probs: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, str | int | float]]:
    """One row per class, in class order; arguments and errors as for `clip_metrics`, plus K names.

    Row: class (name), support (videos of the class), predicted (videos given the class), recall, precision, f1, and
    mean_confidence: the mean probability of this class over the videos given it; above the precision = overconfident.
    nan where nothing defines the value: recall and f1 without support, precision and mean_confidence when no video was
    given the class. A class with support that is never predicted has f1 0.
    """
    probs, labels = _checked(probs, labels)
    num_classes = probs.shape[1]
    if len(class_names) != num_classes:
        raise DataError(f"{len(class_names)} class names but {num_classes} columns of probabilities; expected as many")
    predicted = probs.argmax(axis=1)
    confusion = confusion_matrix(labels, predicted, num_classes)
    rows: list[dict[str, str | int | float]] = []
    for index, name in enumerate(class_names):
        right = int(confusion[index, index])
        support, given = int(confusion[index].sum()), int(confusion[:, index].sum())
        rows.append(
            {
                "class": name,
                "support": support,
                "predicted": given,
                "recall": right / support if support else float("nan"),
                "precision": right / given if given else float("nan"),
                "f1": 2 * right / (support + given) if support else float("nan"),
                "mean_confidence": float(probs[predicted == index, index].mean()) if given else float("nan"),
            }
        )
    return rows


def reliability(probs: np.ndarray, labels: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """Rows of a reliability diagram: confidence against accuracy in bins of equal width (Guo et al. 2017, section 2).

    Confidence is the probability of the predicted class. Bin m of M holds the confidences in ((m - 1) / M, m / M].
    Row: low, high (edges of the bin), count, mean_confidence, accuracy; the last two nan in an empty bin.
    Arguments and errors as for `clip_metrics`; ValueError when bins < 1.
    """
    probs, labels = _checked(probs, labels)
    return reliability_bins(probs.max(axis=1), probs.argmax(axis=1) == labels, bins)


def reliability_bins(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """The rows of `reliability` from the confidence of each answer, (N,) float, and whether it is right, (N,) bool."""
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected 1 or more")
    edges = np.arange(bins + 1) / bins
    # The clip takes a confidence of 1 plus rounding into the last bin.
    bin_of_video = np.searchsorted(edges[1:], confidence, side="left").clip(max=bins - 1)
    rows = []
    for index in range(bins):
        inside = bin_of_video == index
        some = bool(inside.any())
        rows.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "count": float(inside.sum()),
                "mean_confidence": float(confidence[inside].mean()) if some else float("nan"),
                "accuracy": float(right[inside].mean()) if some else float("nan"),
            }
        )
    return rows


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """`ece` of `clip_metrics`. confidence: (N,) float, of N >= 1 answers; right: (N,) bool, whether they are."""
    rows = [row for row in reliability_bins(confidence, right) if row["count"]]
    return float(sum(row["count"] / len(right) * abs(row["accuracy"] - row["mean_confidence"]) for row in rows))


def check_labels(labels: np.ndarray, num_classes: int, name: str) -> np.ndarray:
    """`(N,)` int64 copy of class indices; raises DataError naming the first entry that is not one of 0 .. K - 1."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
        raise DataError(f"{name} has shape {labels.shape} and type {labels.dtype}; expected (N,) integers")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise DataError(
            f"{name}[{wrong[0]}] is {labels[wrong[0]]}; expected a class index from 0 to {num_classes - 1}. "
            "Were labels and classes made from the same class list?"
        )
    return labels.astype(np.int64)


def check_probs(probs: np.ndarray, name: str) -> np.ndarray:
    """`(N, K)` float64 copy of class probabilities; raises DataError naming the first row that is no distribution."""
    probs = np.asarray(probs)
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise DataError(f"{name} has shape {probs.shape}; expected (N, K) with 2 or more classes")
    probs = probs.astype(np.float64)
    fits = (probs >= 0).all(axis=1) & (np.abs(probs.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    if not fits.all():
        row = int(np.flatnonzero(~fits)[0])
        raise DataError(
            f"{name}[{row}] sums to {probs[row].sum():.6g}, its least value is {probs[row].min():.6g}; "
            "expected probabilities that sum to 1. Are these logits, or is a feature not finite?"
        )
    return probs


def _checked(probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probs = check_probs(probs, "probs")
    labels = check_labels(labels, probs.shape[1], "labels")
    if len(probs) != len(labels):
        raise DataError(f"{len(probs)} rows of probabilities but {len(labels)} labels; expected one label for each row")
    if len(labels) == 0:
        raise DataError("no video to score; expected 1 or more. Does this fold have a test split?")
    return probs, labels


def _rank(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(N,)` number of classes that stand before the true one: more probable, or as probable with a lower index."""
    of_truth = probs[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probs.shape[1]) < labels[:, None]
    rank: np.ndarray = ((probs > of_truth) | ((probs == of_truth) & earlier)).sum(axis=1)
    return rank
