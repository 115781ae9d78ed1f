"""Controls of the frame task, and the scores of both tasks with their intervals."""

import math

import numpy as np
import pytest

from pipeline.data.labels import IGNORED
from pipeline.errors import DataError
from pipeline.evaluation import controls, frame_controls
from pipeline.evaluation.clip_metrics import clip_metrics
from pipeline.evaluation.frame_controls import file_properties_labels, mean_pool_labels
from pipeline.evaluation.frame_metrics import frame_metrics
from pipeline.evaluation.intervals import bootstrap_interval
from pipeline.evaluation.ladder import (
    Answers,
    FrameAnswers,
    Part,
    clip_level_scores,
    clip_scores,
    frame_scores,
)
from pipeline.evaluation.ladder import (
    frame_controls as frame_ladder,
)

DRAWN = {"samples": 25, "seed": 5}


def accuracy(probs: list[np.ndarray], labels: list[np.ndarray]) -> float:
    return float(np.mean(np.concatenate(probs).argmax(axis=1) == np.concatenate(labels)))


@pytest.mark.slow
def test_mean_pool_is_the_regression_on_the_mean_around(monkeypatch):
    rng = np.random.default_rng(0)
    videos = [rng.normal(size=(12, 4)).astype(np.float16) for _ in range(5)]
    labels = [rng.integers(0, 2, 12) for _ in videos]
    labels[0][:3] = IGNORED
    # Five timesteps a second and a second around: two before, two after, fewer at the ends.
    means = [np.stack([v[max(0, t - 2) : t + 3].astype(np.float64).mean(axis=0) for t in range(12)]) for v in videos]
    expected = controls.single_frame_labels(means[:4], labels[:4], means[4:], 2, 0)
    found = mean_pool_labels(videos[:4], labels[:4], videos[4:], 2, 0, fps=5)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    with pytest.raises(DataError, match="test video 0 have shape"):
        mean_pool_labels(videos[:4], labels[:4], [np.ones((0, 4))], 2, 0, fps=5)


def test_mean_pool_of_timesteps_sees_through_noise_and_not_order():
    rng = np.random.default_rng(1)

    def recordings(number):
        labels = [np.repeat(rng.integers(0, 2, 6), 20) for _ in range(number)]
        return [(part[:, None] + 2 * rng.normal(size=(120, 3))).astype(np.float32) for part in labels], labels

    (train, train_labels), (test, labels) = recordings(10), recordings(6)
    single = accuracy(controls.single_frame_labels(train, train_labels, test, 2, 0), labels)
    assert accuracy(mean_pool_labels(train, train_labels, test, 2, 0, fps=15), labels) > single + 0.1


def test_the_clock_gives_away_recordings_that_follow_one_plan(monkeypatch):
    monkeypatch.setattr(controls, "NUM_TREES", 20)
    monkeypatch.setattr(frame_controls, "LEAST_IN_LEAF", 2)
    lengths = [30, 60, 45, 30, 60]
    plan = [np.repeat([0, 2, 1], length // 3) for length in lengths]
    table = np.column_stack([np.full(5, 640.0), np.full(5, np.nan)])
    probs = file_properties_labels(table[:3], plan[:3], table[3:], lengths[3:], 3, 0)
    assert [video.shape for video in probs] == [(30, 3), (60, 3)]
    assert accuracy(probs, plan[3:]) > 0.9
    # Without a plan there is nothing to be known, and what is ignored is not trained on.
    ignored = [np.where(labels == 2, IGNORED, labels) for labels in plan[:3]]
    assert (np.concatenate(file_properties_labels(table[:3], ignored, table[3:], lengths[3:], 3, 0))[:, 2] == 0).all()
    monkeypatch.setattr(frame_controls, "MAX_CLOCK_TIMESTEPS", 20)
    assert accuracy(file_properties_labels(table[:3], plan[:3], table[3:], lengths[3:], 3, 0), plan[3:]) > 0.6
    with pytest.raises(DataError, match="expected a row for each training and each test video"):
        file_properties_labels(table[:2], plan[:3], table[3:], lengths[3:], 3, 0)


def test_all_rungs_of_frames_are_there_and_backwards_answers_come_back_in_place():
    rng = np.random.default_rng(2)
    labels = [np.repeat([0, 1], 10) for _ in range(4)]
    videos = [rng.normal(size=(20, 3)).astype(np.float32) for _ in labels]
    part = Part(videos, videos, labels, list("abcd"), np.ones((4, 2)))

    def count_up(video: np.ndarray) -> np.ndarray:
        """What a network with a state does: the answer depends on how many timesteps were seen."""
        seen = np.arange(1, len(video) + 1) / (len(video) + 1)
        return np.column_stack([seen, 1 - seen])

    found = frame_ladder(part, part, count_up, 2, 0, fps=10)
    assert list(found) == ["majority", "file_properties", "single_frame", "mean_pool", "shuffled", "reversed"]
    assert all([video.shape for video in answers] == [(20, 2)] * 4 for answers in found.values())
    np.testing.assert_allclose(found["reversed"][0][:, 0], np.arange(20, 0, -1) / 21)
    np.testing.assert_allclose(sorted(found["shuffled"][0][:, 0]), np.arange(1, 21) / 21)


def clips(seed: int, size: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(size), 30)
    return probs, rng.integers(0, size, 30), [f"g{index % 7}" for index in range(30)]


def test_clip_intervals_and_paired_differences_are_those_of_the_scores():
    probs, labels, groups = clips(0, 2)
    control, other = clips(1, 2)[0], clips(2, 2)[0]
    runs = [Answers(probs, {"single_frame": control}), Answers(other, {"single_frame": control})]
    found = clip_scores(runs, labels, groups, {}, **DRAWN)
    own, rung = found["test"]["video"], found["controls"]["single_frame"]
    for name in ("top1", "mean_class_accuracy", "macro_f1", "auc"):
        interval = bootstrap_interval(
            lambda at: np.mean([clip_metrics(p[at], labels[at])[name] for p in (probs, other)]),  # noqa: B023
            groups,
            **DRAWN,
        )
        assert (own[f"{name}_low"], own[f"{name}_high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
    for name, suffix in (("top1", ""), ("auc", "_auc")):
        assert rung[f"difference{suffix}"] == pytest.approx(own[name] - clip_metrics(control, labels)[name])
        interval = bootstrap_interval(
            lambda at: (
                np.mean([clip_metrics(p[at], labels[at])[name] for p in (probs, other)])  # noqa: B023
                - clip_metrics(control[at], labels[at])[name]  # noqa: B023
            ),
            groups,
            **DRAWN,
        )
        bounds = rung[f"difference{suffix}_low"], rung[f"difference{suffix}_high"]
        assert bounds == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert rung["auc_low"] <= rung["auc"] <= rung["auc_high"]
    assert own["num_groups"] == 7
    three = clip_scores([Answers(clips(0, 3)[0], {"m": clips(1, 3)[0]})], clips(0, 3)[1], groups, {}, **DRAWN)
    assert not {"auc", "difference_auc"} & set(three["controls"]["m"])


def test_frame_intervals_and_paired_differences_are_those_of_the_scores():
    rng = np.random.default_rng(3)
    labels = [np.repeat(rng.choice([0, 1, 2, IGNORED], 5), 4) for _ in range(9)]
    labels.append(np.full(4, IGNORED))  # scored nowhere, drawn nowhere
    groups = [f"g{index % 5}" for index in range(9)] + ["alone"]
    own, control = ([rng.dirichlet(np.ones(3), len(video)) for video in labels] for _ in range(2))
    found = frame_scores([FrameAnswers(own, {"single_frame": control})], labels, groups, 0, **DRAWN)

    def score(answers: list[np.ndarray], at: np.ndarray, name: str) -> float:
        chosen = [answers[index] for index in at]
        guess = [video.argmax(axis=1) for video in chosen]
        probs = chosen if name == "frame_map" else None
        return frame_metrics([labels[i] for i in at], guess, num_classes=3, background=0, probs=probs)[name]

    frame, rung = found["test"]["frame"], found["controls"]["single_frame"]
    assert frame["num_groups"] == 5
    for name in ("acc", "edit", "f1_10", "f1_25", "f1_50", "frame_map"):
        interval = bootstrap_interval(lambda at: score(own, at, name), groups[:9], **DRAWN)  # noqa: B023
        assert (frame[f"{name}_low"], frame[f"{name}_high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
    everything = np.arange(9)
    for name, suffix in (("acc", ""), ("edit", "_edit"), ("f1_50", "_f1_50")):
        assert rung[name] == pytest.approx(score(control, everything, name))
        assert rung[f"difference{suffix}"] == pytest.approx(frame[name] - rung[name])
        interval = bootstrap_interval(
            lambda at: score(own, at, name) - score(control, at, name),  # noqa: B023
            groups[:9],
            **DRAWN,
        )
        bounds = rung[f"difference{suffix}_low"], rung[f"difference{suffix}_high"]
        assert bounds == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_single_clips_are_scored_apart():
    labels, groups = np.array([0, 0, 1]), ["a", "b", "b"]
    clips_of = np.array([4, 1, 3])
    found = clip_level_scores([np.array([2, 1, 0]), np.array([4, 1, 0])], clips_of, labels, groups, **DRAWN)
    assert found["top1"] == pytest.approx((3 + 5) / 2 / 8)
    assert found["mean_class_accuracy"] == pytest.approx(((3 + 5) / 2 / 5 + 0) / 2)
    assert (found["num_clips"], found["num_videos"], found["num_groups"]) == (8, 3, 2)
    # Of two groups a resample holds one, the other, or both: 3 of 4, 1 of 4, 4 of 8 clips right.
    assert (found["top1_low"], found["top1_high"]) == (0.25, 0.75)
    assert clip_level_scores([np.array([1, 0, 1])], np.ones(3), labels, groups, **DRAWN) == {}


def test_a_single_group_has_scores_and_no_interval():
    probs, labels, _ = clips(0, 2)
    found = clip_scores([Answers(probs, {"m": probs})], labels, ["a"] * 30, {}, **DRAWN)
    assert math.isnan(found["test"]["video"]["auc_low"])
    assert math.isnan(found["controls"]["m"]["difference_auc_high"])
    assert found["controls"]["m"]["difference_auc"] == 0
