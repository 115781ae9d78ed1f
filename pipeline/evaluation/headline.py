"""The few scores by which trainings and experiments are compared: in DVC's tables, MLflow's columns, the terminal.

Everything else stays in `metrics.json`, from which these are taken and not computed anew.
"""

from collections.abc import Mapping
from typing import Any

# In the order of columns. The first is the score that a task is judged by, and its interval.
CLIP = ("top1", "top1_low", "top1_high", "mean_class_accuracy", "auc")
FRAME = ("acc", "acc_low", "acc_high", "edit", "f1_50", "frame_map")
LEVELS = {"clip": "video", "frame": "frame"}
SIMPLER = "single_frame"  # the control that knows everything but the order of frames


def main_score(task: str) -> str:
    """Name of the score that a task is judged by.

    >>> main_score("clip"), main_score("frame")
    ('top1', 'acc')
    """
    return (CLIP if task == "clip" else FRAME)[0]


def headline_scores(task: str, scores: Mapping[str, Any]) -> dict[str, float]:
    """The headline of one `metrics.json` (of a training, or of a task and stream of an experiment), by name.

    Names: those of the task's scores, `gain_over_single_frame` (paired difference) with its interval `_low` and
    `_high`, `reversed_opposite`, `ece`, `sure` (share of answers that are sure) and `sure_precision`. What is undefined
    or was not measured is left out.
    """
    own = scores["test"][LEVELS[task]]
    found = {name: own.get(name) for name in (CLIP if task == "clip" else FRAME)}
    rung = scores.get("controls", {}).get(SIMPLER, {})
    for ending in ("", "_low", "_high"):
        found[f"gain_over_{SIMPLER}{ending}"] = rung.get(f"difference{ending}")
    calibration = scores.get("calibration", {})
    found |= {
        "reversed_opposite": scores.get("reversed_opposite"),
        "ece": calibration.get("ece_after"),
        "sure": calibration.get("coverage"),
        "sure_precision": calibration.get("precision"),
    }
    return {name: float(value) for name, value in found.items() if value is not None and value == value}


def experiment_headline(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """The headline of an experiment's `metrics.json`: by task, then by stream."""
    return {
        task: {stream: headline_scores(task, own) for stream, own in streams.items()}
        for task, streams in scores.items()
    }
