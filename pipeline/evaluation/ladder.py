"""The control ladder: what simpler models reach on the same features and the same test videos.

A score means something only beside what a coin, the file header, one frame, or the frames in any order would have
scored. The difference to each control is paired, with an interval by bootstrap over groups.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.labels import IGNORED
from pipeline.evaluation import controls
from pipeline.evaluation.clip_metrics import auc, clip_metrics
from pipeline.evaluation.frame_metrics import frame_metrics
from pipeline.evaluation.intervals import bootstrap_interval, bootstrap_mean, paired_difference

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Part:
    """One side of a split: features (T, D) and labels per video, groups (N,), file properties (N, P) with nan.

    features: of the centre crop, where there are ten. labels: a class index per video (clip task) or an array (T,) per
    video (frame task). shown: what the model is shown, all crops (T, C, D).
    """

    features: Sequence[np.ndarray]
    shown: Sequence[np.ndarray]
    labels: Sequence[int] | Sequence[np.ndarray]
    groups: Sequence[str]
    properties: np.ndarray


@dataclass(frozen=True)
class Answers:
    """Class probabilities on the test videos, (N, K): of a model, and of its controls."""

    model: np.ndarray
    controls: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FrameAnswers:
    """Class probabilities on the test videos, (T, K) of each: of a model, and of its controls."""

    model: Sequence[np.ndarray]
    controls: Mapping[str, Sequence[np.ndarray]]


def clip_controls(train: Part, test: Part, predict: Predict, num_classes: int, seed: int) -> dict[str, np.ndarray]:
    """Class probabilities (N, K) of each control on the test videos; `predict` is the model, `shown` to (K,)."""
    labels = np.asarray(train.labels)
    reading = (train.features, labels, test.features, num_classes, seed)
    order = np.random.default_rng([seed, len(test.features)])
    return {
        "majority": controls.majority(labels, len(test.features), num_classes),
        "file_properties": controls.file_properties(train.properties, labels, test.properties, num_classes, seed),
        "single_frame": controls.single_frame(*reading),
        "mean_pool": controls.mean_pool(*reading),
        "mean_and_motion": controls.mean_and_motion(*reading),
        "shuffled": np.stack([predict(order.permutation(video)) for video in test.shown]),
        "reversed": np.stack([predict(video[::-1]) for video in test.shown]),
    }


def clip_scores(
    runs: Sequence[Answers],
    labels: np.ndarray,
    groups: Sequence[str],
    opposite: Mapping[int, int],
    *,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """Scores of a clip model and its controls, as written to `metrics.json`.

    runs: the answers of one training, or of several that differ in their seed; labels (N,). Of several, every score is
    their mean, and every interval is that of this mean, whole groups being drawn anew for all of them together.
    `difference` is model minus control in top-1, paired. `reversed_opposite` (where classes have an opposite): of the
    videos that were right, the share that gets the opposite class when played backwards.
    """

    def right(answers: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(np.mean([probs.argmax(axis=1) == labels for probs in answers], axis=0))

    def area(answers: Sequence[np.ndarray], chosen: np.ndarray) -> float:
        return float(np.mean([auc(probs[chosen, 1], labels[chosen] == 1) for probs in answers]))

    own = [run.model for run in runs]
    interval = bootstrap_mean(right(own), groups, samples=samples, seed=seed)
    scores: dict[str, object] = {
        **mean_of([clip_metrics(probs, labels) for probs in own]),
        "top1_low": interval.low,
        "top1_high": interval.high,
        "num_groups": interval.num_groups,
    }
    if own[0].shape[1] == 2:
        area_interval = bootstrap_interval(lambda chosen: area(own, chosen), groups, samples=samples, seed=seed)
        scores |= {"auc_low": area_interval.low, "auc_high": area_interval.high}
    rungs: dict[str, object] = {}
    for name in runs[0].controls:
        control = [np.asarray(run.controls[name]) for run in runs]
        bounds = bootstrap_mean(right(control), groups, samples=samples, seed=seed)
        gain = paired_difference(right(own), right(control), groups, samples=samples, seed=seed)
        rungs[name] = {
            "top1": float(right(control).mean()),
            "low": bounds.low,
            "high": bounds.high,
            "difference": gain.difference,
            "difference_low": gain.low,
            "difference_high": gain.high,
        }
        if control[0].shape[1] == 2:
            rungs[name]["auc"] = area(control, np.arange(len(labels)))  # type: ignore[index]
    result: dict[str, object] = {"test": {"video": scores}, "controls": rungs}
    if opposite and "reversed" in runs[0].controls:
        shares = [
            controls.reverse_opposites(
                run.model.argmax(axis=1), np.asarray(run.controls["reversed"]).argmax(axis=1), labels, opposite
            )
            for run in runs
        ]
        result["reversed_opposite"] = float(np.mean(shares))
    return result


def frame_controls(
    train: Part, test: Part, predict: Predict, num_classes: int, seed: int
) -> dict[str, list[np.ndarray]]:
    """Class probabilities of each control, (T, K) per test video; `predict` is the model, (T, D) to (T, K).

    `shuffled` shows the model the frames in random order and puts its answers back in place.
    """
    lengths = [len(video) for video in test.features]
    labels = [np.asarray(video) for video in train.labels]
    rng = np.random.default_rng([seed, len(lengths)])
    shuffled = []
    for video in test.shown:
        order = rng.permutation(len(video))
        answers = predict(video[order])
        back = np.empty_like(answers)
        back[order] = answers
        shuffled.append(back)
    return {
        "majority": controls.majority_labels(labels, lengths, num_classes),
        "single_frame": controls.single_frame_labels(train.features, labels, test.features, num_classes, seed),
        "shuffled": shuffled,
    }


def frame_scores(
    runs: Sequence[FrameAnswers],
    labels: Sequence[np.ndarray],
    groups: Sequence[str],
    background: int | None,
    *,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """The same for the frame task, (T, K) and (T,) of each video; accuracy intervals over groups."""
    num_classes = runs[0].model[0].shape[1]
    frame_groups = np.repeat(np.asarray(groups), [int((video != IGNORED).sum()) for video in labels])

    def right(answers: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        return np.asarray(np.mean([_right_frames(videos, labels) for videos in answers], axis=0))

    def scores(answers: Sequence[Sequence[np.ndarray]]) -> dict[str, float]:
        found = mean_of([score_frames(videos, labels, num_classes, background) for videos in answers])
        interval = bootstrap_mean(right(answers), frame_groups, samples=samples, seed=seed)
        return {**found, "acc_low": interval.low, "acc_high": interval.high, "num_groups": interval.num_groups}

    own = [run.model for run in runs]
    rungs: dict[str, object] = {}
    for name in runs[0].controls:
        control = [run.controls[name] for run in runs]
        reached = scores(control)
        gain = paired_difference(right(own), right(control), frame_groups, samples=samples, seed=seed)
        rungs[name] = {
            "acc": reached["acc"],
            "low": reached["acc_low"],
            "high": reached["acc_high"],
            "edit": reached["edit"],
            "f1_50": reached["f1_50"],
            "difference": gain.difference,
            "difference_low": gain.low,
            "difference_high": gain.high,
        }
    return {"test": {"frame": scores(own)}, "controls": rungs}


def mean_of(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over several trainings."""
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def _right_frames(answers: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> np.ndarray:
    pairs = zip(answers, labels, strict=True)
    return np.concatenate([(a.argmax(axis=1) == t)[t != IGNORED] for a, t in pairs]).astype(float)


def score_frames(
    answers: Sequence[np.ndarray], labels: Sequence[np.ndarray], num_classes: int, background: int | None
) -> dict[str, float]:
    """`frame_metrics` of class probabilities, (T, K) of each video."""
    predicted = [video.argmax(axis=1) for video in answers]
    return frame_metrics(labels, predicted, num_classes=num_classes, background=background, probs=answers)
