"""The few scores by which runs are compared are those of metrics.json, and nothing undefined is among them."""

import math

from pipeline.evaluation.headline import experiment_headline, headline_scores

CLIP = {
    "test": {"video": {"top1": 0.75, "top1_low": 0.5, "top1_high": 1.0, "mean_class_accuracy": 0.7, "macro_f1": 0.6}},
    "controls": {"single_frame": {"top1": 0.5, "difference": 0.25, "difference_low": 0.0, "difference_high": None}},
    "reversed_opposite": None,
    "calibration": {"ece_before": 0.2, "ece_after": 0.1, "coverage": 0.5, "precision": math.nan},
}


def test_the_headline_of_a_training_is_taken_from_its_scores():
    assert headline_scores("clip", CLIP) == {
        "top1": 0.75, "top1_low": 0.5, "top1_high": 1.0, "mean_class_accuracy": 0.7,
        "gain_over_single_frame": 0.25, "gain_over_single_frame_low": 0.0, "ece": 0.1, "sure": 0.5,
    }  # fmt: skip


def test_the_headline_of_an_experiment_has_its_tasks_and_streams():
    frame = {"test": {"frame": {"acc": 0.5, "edit": 0.25}}}
    found = experiment_headline({"clip": {"rgb": CLIP, "fused": CLIP}, "frame": {"rgb": frame}})
    assert found["clip"]["fused"] == headline_scores("clip", CLIP)
    assert found["frame"] == {"rgb": {"acc": 0.5, "edit": 0.25}}
