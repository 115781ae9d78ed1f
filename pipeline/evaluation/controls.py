"""The control ladder: what a score is worth without recurrence. Fitted on the training split of the same features.

A control chooses nothing on test or validation data: every constant is fixed below. Arguments of all of them:
train_features and test_features: a finite `(T, D)` float array per video, T >= 1, one D for all; labels: class indices
0 .. K - 1; seed: one argument for the whole ladder, of which only the random forest makes use (lbfgs draws nothing).
A class without training data has probability 0. Equal arguments give equal results. DataError for anything else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.labels import IGNORED
from pipeline.errors import DataError
from pipeline.evaluation.clip_metrics import check_labels

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

# Neighbouring frames are near copies: more of them cost time and teach a single-frame model little.
FRAMES_PER_VIDEO = 8
MAX_TRAINING_FRAMES = 20_000  # 160 MB at D = 2048, seconds to fit

# Inverse strength of the L2 penalty, times D: with C = 10 / D the penalty does not grow with the number of standardised
# features. On MobileNetV2 features of 300 real clips the grouped accuracy moves by 3 points between 0.03 and 100.
INVERSE_PENALTY = 10.0
# Channels almost silent in training have a tiny deviation; unbounded, one such channel would decide a test video.
MAX_DEVIATIONS = 10.0
NUM_TREES = 200


def majority(train_labels: np.ndarray, num_test: int, num_classes: int) -> np.ndarray:
    """`(num_test, K)` float64: the class frequencies of the training labels `(N,)`, for every video alike.

    The most probable class is the majority class, the lower index among equals, as argmax takes it.
    """
    labels = _some(check_labels(train_labels, num_classes, "train_labels"))
    frequencies = np.bincount(labels, minlength=num_classes) / len(labels)
    return np.tile(frequencies, (num_test, 1))


def majority_labels(
    train_labels: Sequence[np.ndarray], test_lengths: Sequence[int], num_classes: int
) -> list[np.ndarray]:
    """`majority` per timestep: labels `(T,)` per training video, `IGNORED` left out; `(T, K)` per test video."""
    labels = np.concatenate([np.asarray(video) for video in train_labels]) if train_labels else np.empty(0, np.int64)
    labels = labels[labels != IGNORED]
    return [majority(labels, length, num_classes) for length in test_lengths]


def file_properties(
    train_table: np.ndarray,
    train_labels: np.ndarray,
    test_table: np.ndarray,
    num_classes: int,
    seed: int,
    *,
    least_in_leaf: int = 1,
) -> np.ndarray:
    """`(N_test, K)` float64 by a random forest on what a file's header says; the content is not looked at.

    Tables: `(N, P)` float, one row per video (width, height, rate, duration, ...), nan = unknown. least_in_leaf: rows
    that a leaf of a tree holds, more than 1 where rows are near copies of each other. A high score means
    that the classes were recorded differently, and that any model may have learned just this.
    """
    labels = _some(check_labels(train_labels, num_classes, "train_labels"))
    train_table, test_table = (np.asarray(table, dtype=np.float64) for table in (train_table, test_table))
    if train_table.ndim != 2 or test_table.ndim != 2 or train_table.shape[1] != test_table.shape[1]:
        raise DataError(f"tables have shapes {train_table.shape} and {test_table.shape}; expected (N, P) with one P")
    if len(train_table) != len(labels):
        raise DataError(f"{len(train_table)} rows but {len(labels)} labels; expected one row for each training video")
    for table in (train_table, test_table):
        if (np.abs(table) > np.finfo(np.float32).max).any():
            raise DataError("a file property is infinite or beyond 3.4e38; expected numbers, nan where one is unknown")
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_estimators=NUM_TREES, min_samples_leaf=least_in_leaf, random_state=seed)
    forest.fit(train_table, labels)
    return (
        _spread(forest.predict_proba(test_table), forest.classes_, num_classes)
        if len(test_table)
        else _none(num_classes)
    )


def single_frame(
    train_features: Sequence[np.ndarray],
    train_labels: np.ndarray,
    test_features: Sequence[np.ndarray],
    num_classes: int,
    seed: int,
) -> np.ndarray:
    """`(N_test, K)` float64: multinomial logistic regression on single frames, averaged over all frames of a video.

    Trained on 8 frames per video, evenly spaced, each with its video's label; on fewer per video where that makes more
    than 20,000. Blind to order and to motion.
    """
    labels = _checked(train_features, train_labels, test_features, num_classes)
    per_video = max(1, min(FRAMES_PER_VIDEO, MAX_TRAINING_FRAMES // len(labels)))
    chosen = [np.asarray(video)[_evenly(len(video), per_video)] for video in train_features]
    frame_labels = np.repeat(labels, [len(video) for video in chosen])
    model = _fit(np.concatenate(chosen), frame_labels, num_classes, seed)
    return np.array([model.probs(video).mean(axis=0) for video in test_features]).reshape(-1, num_classes)


def mean_pool(
    train_features: Sequence[np.ndarray],
    train_labels: np.ndarray,
    test_features: Sequence[np.ndarray],
    num_classes: int,
    seed: int,
) -> np.ndarray:
    """`(N_test, K)` float64: the same regression on each video's mean feature. Blind to order and to motion."""
    labels = _checked(train_features, train_labels, test_features, num_classes)
    model = _fit(np.stack([_mean(video) for video in train_features]), labels, num_classes, seed)
    return model.probs(np.array([_mean(video) for video in test_features]))


def mean_and_motion(
    train_features: Sequence[np.ndarray],
    train_labels: np.ndarray,
    test_features: Sequence[np.ndarray],
    num_classes: int,
    seed: int,
) -> np.ndarray:
    """`(N_test, K)` float64: the same regression on mean, mean |step to the next timestep| and deviation over time.

    3 D numbers per video. Sees how much changes, not in which direction: a video and its reverse look the same.
    """
    labels = _checked(train_features, train_labels, test_features, num_classes)
    model = _fit(np.stack([_motion(video) for video in train_features]), labels, num_classes, seed)
    return model.probs(np.array([_motion(video) for video in test_features]))


def single_frame_labels(
    train_features: Sequence[np.ndarray],
    train_labels: Sequence[np.ndarray],
    test_features: Sequence[np.ndarray],
    num_classes: int,
    seed: int,
) -> list[np.ndarray]:
    """The single-frame control of the frame task: a `(T, K)` float64 array per test video.

    train_labels: `(T,)` per video, `IGNORED` left out. Trained on at most 20,000 timesteps, evenly spaced over all.
    """
    _check_features(train_features, test_features)
    if len(train_features) != len(train_labels):
        raise DataError(f"{len(train_features)} videos but labels of {len(train_labels)}; expected one array for each")
    for index, (video, labels) in enumerate(zip(train_features, train_labels, strict=True)):
        if len(video) != len(labels):
            raise DataError(
                f"training video {index} has {len(video)} timesteps but {len(labels)} labels; expected as many"
            )
    kept = [np.flatnonzero(np.asarray(labels) != IGNORED) for labels in train_labels]
    total = sum(len(steps) for steps in kept)
    chosen = np.zeros(total, dtype=bool)
    chosen[_evenly(total, MAX_TRAINING_FRAMES)] = True
    parts = np.split(chosen, np.cumsum([len(steps) for steps in kept])[:-1])
    steps = [all_steps[part] for all_steps, part in zip(kept, parts, strict=True)]
    frames = np.concatenate([np.asarray(video)[at] for video, at in zip(train_features, steps, strict=True)])
    frame_labels = np.concatenate([np.asarray(labels)[at] for labels, at in zip(train_labels, steps, strict=True)])
    frame_labels = _some(check_labels(frame_labels, num_classes, "train_labels"))
    model = _fit(frames, frame_labels, num_classes, seed)
    return [model.probs(video) for video in test_features]


def reverse_opposites(
    predicted: np.ndarray, predicted_reversed: np.ndarray, labels: np.ndarray, opposite: Mapping[int, int]
) -> float:
    """Share of videos that get the opposite class when shown backwards; nan when no video counts.

    Only videos count that are predicted right and whose class has an opposite (`{open: close, close: open}`).
    1 = the model reads direction; a model blind to order gets 0. All arrays `(N,)` int.
    """
    predicted, predicted_reversed, labels = (np.asarray(part) for part in (predicted, predicted_reversed, labels))
    if not predicted.shape == predicted_reversed.shape == labels.shape:
        raise DataError(
            f"predictions {predicted.shape}, reversed {predicted_reversed.shape}, labels {labels.shape}; "
            "expected one of each for every video"
        )
    turned = [
        int(backwards) == opposite[int(label)]
        for forwards, backwards, label in zip(predicted, predicted_reversed, labels, strict=True)
        if forwards == label and int(label) in opposite
    ]
    return float(np.mean(turned)) if turned else float("nan")


@dataclass(frozen=True)
class _Linear:
    """Standardising and multinomial logistic regression; `model` is None when training held a single class."""

    mean: np.ndarray  # (D,) float32
    scale: np.ndarray  # (D,) float32
    model: "LogisticRegression | None"
    classes: np.ndarray
    num_classes: int

    def standardised(self, inputs: np.ndarray) -> np.ndarray:
        inputs = (inputs.astype(np.float32) - self.mean) / self.scale
        return np.clip(inputs, -MAX_DEVIATIONS, MAX_DEVIATIONS, out=inputs)

    def probs(self, inputs: np.ndarray) -> np.ndarray:
        if len(inputs) == 0:
            return _none(self.num_classes)
        inputs = np.asarray(inputs)
        values = (
            np.ones((len(inputs), 1)) if self.model is None else self.model.predict_proba(self.standardised(inputs))
        )
        return _spread(values, self.classes, self.num_classes)


def _fit(inputs: np.ndarray, labels: np.ndarray, num_classes: int, seed: int) -> _Linear:
    mean, deviation = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)
    # A channel that varies less than float32 can tell is constant; 1 keeps it at 0.
    scale = np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)
    classes = np.unique(labels)
    unfitted = _Linear(mean.astype(np.float32), scale.astype(np.float32), None, classes, num_classes)
    if len(classes) == 1:
        return unfitted
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=INVERSE_PENALTY / inputs.shape[1], max_iter=2000, random_state=seed)
    model.fit(unfitted.standardised(inputs), labels)
    return _Linear(unfitted.mean, unfitted.scale, model, classes, num_classes)


def _spread(probs: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Columns of the classes seen in training, put in their places among K; the others 0."""
    full = np.zeros((len(probs), num_classes))
    full[:, classes] = probs
    return full


def _none(num_classes: int) -> np.ndarray:
    return np.zeros((0, num_classes))


def _evenly(length: int, count: int) -> np.ndarray:
    """Middles of `count` equal stretches of `length` positions; all positions when there are fewer."""
    count = min(length, count)
    return ((np.arange(count) + 0.5) * length / max(count, 1)).astype(np.int64)


def _mean(video: np.ndarray) -> np.ndarray:
    mean: np.ndarray = np.asarray(video, dtype=np.float32).mean(axis=0)
    return mean


def _motion(video: np.ndarray) -> np.ndarray:
    video = np.asarray(video, dtype=np.float32)
    steps = np.abs(np.diff(video, axis=0))
    change = steps.mean(axis=0) if len(steps) else np.zeros_like(video[0])
    return np.concatenate([video.mean(axis=0), change, video.std(axis=0)])


def _some(labels: np.ndarray) -> np.ndarray:
    if len(labels) == 0:
        raise DataError("no training label; expected 1 or more. Does this fold have a training split?")
    return labels


def _checked(
    train_features: Sequence[np.ndarray],
    train_labels: np.ndarray,
    test_features: Sequence[np.ndarray],
    num_classes: int,
) -> np.ndarray:
    labels = _some(check_labels(train_labels, num_classes, "train_labels"))
    if len(train_features) != len(labels):
        raise DataError(f"{len(train_features)} training videos but {len(labels)} labels; expected as many")
    _check_features(train_features, test_features)
    return labels


def _check_features(train_features: Sequence[np.ndarray], test_features: Sequence[np.ndarray]) -> None:
    size = train_features[0].shape[-1] if train_features else 0
    for name, videos in (("training", train_features), ("test", test_features)):
        for index, video in enumerate(videos):
            if video.ndim != 2 or len(video) == 0 or video.shape[1] != size or not np.isfinite(video).all():
                raise DataError(
                    f"features of {name} video {index} have shape {video.shape}; "
                    f"expected (T, {size}) finite numbers, T >= 1"
                )
