"""The control ladder: what simpler models reach on the same features and the same test videos.

A score means something only beside what a coin, the file header, one frame, or the frames in any order would have
scored. The difference to each control is paired, with an interval by bootstrap over groups.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.labels import IGNORED
from pipeline.evaluation import controls
from pipeline.evaluation.clip_metrics import clip_metrics
from pipeline.evaluation.frame_metrics import frame_metrics
from pipeline.evaluation.intervals import bootstrap_interval, bootstrap_mean, paired_difference

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Part:
    """One side of a split: features (T, D) and labels per video, groups (N,), file properties (N, P) with nan.

    labels: a class index per video (clip task) or an array (T,) per video (frame task).
    """

    features: Sequence[np.ndarray]
    labels: Sequence[int] | Sequence[np.ndarray]
    groups: Sequence[str]
    properties: np.ndarray


def clip_controls(train: Part, test: Part, predict: Predict, num_classes: int, seed: int) -> dict[str, np.ndarray]:
    """Class probabilities (N, K) of each control on the test videos; `predict` is the model, (T, D) to (K,)."""
    labels = np.asarray(train.labels)
    reading = (train.features, labels, test.features, num_classes, seed)
    order = np.random.default_rng([seed, len(test.features)])
    return {
        "majority": controls.majority(labels, len(test.features), num_classes),
        "file_properties": controls.file_properties(train.properties, labels, test.properties, num_classes, seed),
        "single_frame": controls.single_frame(*reading),
        "mean_pool": controls.mean_pool(*reading),
        "mean_and_motion": controls.mean_and_motion(*reading),
        "shuffled": np.stack([predict(order.permutation(video)) for video in test.features]),
        "reversed": np.stack([predict(video[::-1]) for video in test.features]),
    }


def clip_scores(
    probs: np.ndarray,
    ladder: Mapping[str, np.ndarray],
    labels: np.ndarray,
    groups: Sequence[str],
    opposite: Mapping[int, int],
    *,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """Scores of a clip model and its controls, as written to `metrics.json`.

    probs (N, K) the model's, ladder the controls', labels (N,). `difference` is model minus control in top-1, paired.
    `reversed_opposite` (where classes have an opposite): of the videos that were right, the share that gets the
    opposite class when played backwards.
    """
    right = (probs.argmax(axis=1) == labels).astype(float)
    interval = bootstrap_mean(right, groups, samples=samples, seed=seed)
    scores: dict[str, object] = {
        **clip_metrics(probs, labels),
        "top1_low": interval.low,
        "top1_high": interval.high,
        "num_groups": interval.num_groups,
    }
    if probs.shape[1] == 2:
        auc = bootstrap_interval(
            lambda chosen: clip_metrics(probs[chosen], labels[chosen])["auc"], groups, samples=samples, seed=seed
        )
        scores |= {"auc_low": auc.low, "auc_high": auc.high}
    rungs: dict[str, object] = {}
    for name, control in ladder.items():
        control_right = (control.argmax(axis=1) == labels).astype(float)
        own = bootstrap_mean(control_right, groups, samples=samples, seed=seed)
        gain = paired_difference(right, control_right, groups, samples=samples, seed=seed)
        rungs[name] = {
            "top1": float(control_right.mean()),
            "low": own.low,
            "high": own.high,
            "difference": gain.difference,
            "difference_low": gain.low,
            "difference_high": gain.high,
        }
        if control.shape[1] == 2:
            rungs[name]["auc"] = clip_metrics(control, labels)["auc"]  # type: ignore[index]
    result: dict[str, object] = {"test": {"video": scores}, "controls": rungs}
    if opposite and "reversed" in ladder:
        result["reversed_opposite"] = controls.reverse_opposites(
            probs.argmax(axis=1), ladder["reversed"].argmax(axis=1), labels, opposite
        )
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
    for video in test.features:
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
    probs: Sequence[np.ndarray],
    ladder: Mapping[str, Sequence[np.ndarray]],
    labels: Sequence[np.ndarray],
    groups: Sequence[str],
    background: int | None,
    *,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """Scores of a frame model and its controls, as written to `metrics.json`; accuracy intervals over groups."""
    num_classes = probs[0].shape[1]
    frame_groups = np.repeat(np.asarray(groups), [int((video != IGNORED).sum()) for video in labels])

    def right(answers: Sequence[np.ndarray]) -> np.ndarray:
        pairs = zip(answers, labels, strict=True)
        return np.concatenate([(a.argmax(axis=1) == t)[t != IGNORED] for a, t in pairs]).astype(float)

    def scores(answers: Sequence[np.ndarray]) -> dict[str, float]:
        predicted = [video.argmax(axis=1) for video in answers]
        found = frame_metrics(labels, predicted, num_classes=num_classes, background=background, probs=answers)
        interval = bootstrap_mean(right(answers), frame_groups, samples=samples, seed=seed)
        return {**found, "acc_low": interval.low, "acc_high": interval.high, "num_groups": interval.num_groups}

    rungs: dict[str, object] = {}
    for name, control in ladder.items():
        own = scores(control)
        gain = paired_difference(right(probs), right(control), frame_groups, samples=samples, seed=seed)
        rungs[name] = {
            "acc": own["acc"],
            "low": own["acc_low"],
            "high": own["acc_high"],
            "edit": own["edit"],
            "f1_50": own["f1_50"],
            "difference": gain.difference,
            "difference_low": gain.low,
            "difference_high": gain.high,
        }
    return {"test": {"frame": scores(probs)}, "controls": rungs}
