"""Scores of resamples against the score itself, taken of each resample with every item as often as its group."""

import math

import numpy as np
import pytest

from pipeline.evaluation import resampled
from pipeline.evaluation.clip_metrics import clip_metrics
from pipeline.evaluation.frame_metrics import frame_metrics, video_scores
from pipeline.evaluation.intervals import Resamples, bootstrap_interval

SAMPLES = 30


def clips(seed: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with ties, labels and groups of one to four videos; in some resamples a class is missing."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(8), rng.integers(1, 5, 8))
    labels = np.where(groups < 6, groups % num_classes, rng.integers(0, num_classes, len(groups)))
    probs = rng.integers(1, 6, (len(groups), num_classes)).astype(float)
    order = rng.permutation(len(groups))
    return (probs / probs.sum(axis=1, keepdims=True))[order], labels[order], groups[order]


def drawn_items(resamples: Resamples) -> list[np.ndarray]:
    """The items of each resample, each as often as its group was drawn."""
    items = np.arange(len(resamples.group_of_item))
    return [np.repeat(items, times[resamples.group_of_item].astype(int)) for times in resamples.times_drawn]


@pytest.mark.parametrize(("seed", "num_classes"), [(0, 2), (1, 2), (2, 3), (3, 4)])
def test_clip_scores_of_resamples(seed, num_classes, monkeypatch):
    monkeypatch.setattr(resampled, "CELLS", 100)  # several slices
    probs, labels, groups = clips(seed, num_classes)
    resamples = Resamples(groups, samples=SAMPLES, seed=seed)
    predicted = probs.argmax(axis=1)
    expected = [clip_metrics(probs[at], labels[at]) for at in drawn_items(resamples)]
    found = {"top1": resampled.means(resamples, predicted == labels)}
    found |= resampled.class_means(resamples, labels, predicted, num_classes)
    if num_classes == 2:
        found["auc"] = resampled.aucs(resamples, probs[:, 1], labels == 1)
    for name, values in found.items():
        assert values == pytest.approx([scores[name] for scores in expected], abs=1e-12, nan_ok=True), name


def test_draws_are_those_of_the_general_way():
    probs, labels, groups = clips(5, 2)
    resamples = Resamples(groups, samples=200, seed=3)
    general = bootstrap_interval(lambda at: clip_metrics(probs[at], labels[at])["auc"], groups, samples=200, seed=3)
    found = resamples.interval(resampled.aucs(resamples, probs[:, 1], labels == 1))
    assert (found.low, found.high) == pytest.approx((general.low, general.high), abs=1e-12)
    assert (found.num_groups, found.num_samples) == (general.num_groups, general.num_samples)


def recordings(seed: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Labels in runs, some ignored, probabilities with ties, and groups of nine recordings."""
    rng = np.random.default_rng(seed)
    truth = [np.repeat(rng.choice([0, 1, 2, -100], size), rng.integers(1, 5, size)) for size in rng.integers(1, 9, 9)]
    truth[0][:] = 0  # background alone
    truth[1][0] = 1
    probs = [rng.integers(1, 5, (len(labels), 3)).astype(float) for labels in truth]
    return truth, [p / p.sum(axis=1, keepdims=True) for p in probs], np.array([0, 0, 1, 2, 2, 3, 4, 4, 4])


@pytest.mark.parametrize(("seed", "background"), [(0, 0), (1, None), (2, 0)])
def test_frame_scores_of_resamples(seed, background, monkeypatch):
    monkeypatch.setattr(resampled, "CELLS", 100)
    truth, probs, groups = recordings(seed)
    predicted = [video.argmax(axis=1) for video in probs]
    videos = video_scores(truth, predicted, num_classes=3, background=background)
    resamples = Resamples(groups[videos.position], samples=SAMPLES, seed=seed)
    found = resampled.frame_means(resamples, videos)
    kept = [truth[index] != -100 for index in videos.position]
    found["frame_map"] = resampled.average_precisions(
        resamples,
        np.repeat(resamples.group_of_item, [keep.sum() for keep in kept]),
        np.concatenate([truth[index][keep] for index, keep in zip(videos.position, kept, strict=True)]),
        np.concatenate([probs[index][keep] for index, keep in zip(videos.position, kept, strict=True)]),
        background,
    )
    assert set(found) == {"acc", "edit", "f1_10", "f1_25", "f1_50", "frame_map"}
    for number, at in enumerate(drawn_items(resamples)):
        chosen = videos.position[at]
        expected = frame_metrics(
            [truth[index] for index in chosen],
            [predicted[index] for index in chosen],
            num_classes=3,
            background=background,
            probs=[probs[index] for index in chosen],
        )
        assert {name: values[number] for name, values in found.items()} == pytest.approx(
            {name: expected[name] for name in found}, abs=1e-12, nan_ok=True
        )


def test_long_recordings_take_fewer_resamples(monkeypatch):
    truth = np.array([0, 1, 1])
    probs = np.eye(2)[truth]
    resamples = Resamples([0, 1, 2], samples=300, seed=0)
    whole = resampled.average_precisions(resamples, resamples.group_of_item, truth, probs, 0)
    assert len(whole) == 300
    monkeypatch.setattr(resampled, "RANKED_CELLS", 2 * 150)
    assert len(resampled.average_precisions(resamples, resamples.group_of_item, truth, probs, 0)) == 150
    monkeypatch.setattr(resampled, "RANKED_CELLS", 2)
    assert len(resampled.average_precisions(resamples, resamples.group_of_item, truth, probs, 0)) == 100
    # Where only background was drawn there is no class to rank.
    only = (resamples.times_drawn[:, 1:] == 0).all(axis=1)
    assert only.any()
    assert np.isnan(whole[only]).all()
    assert (whole[~only] == 1).all()


def test_one_group_has_no_resample():
    resamples = Resamples(["a", "a"], samples=20, seed=0)
    labels = np.array([0, 1])
    assert resampled.means(resamples, labels).shape == (0,)
    assert resampled.aucs(resamples, np.array([0.1, 0.2]), labels == 1).shape == (0,)
    assert resampled.class_means(resamples, labels, labels, 2)["macro_f1"].shape == (0,)
    assert resampled.average_precisions(resamples, np.zeros(2, int), labels, np.eye(2), None).shape == (0,)
    assert math.isnan(resamples.interval(np.empty(0)).low)
