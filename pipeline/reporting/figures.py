"""Which figures an evaluation has: each is drawn once, and written as an SVG file by its stage.

DVC's plots, the MLflow run and the report show these same files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.clip_metrics import reliability_bins
from pipeline.reporting.scorefigures import (
    calibration_figure,
    confusion_figure,
    coverage_figure,
    detection_figure,
    ladder_figure,
    per_class_figure,
)
from pipeline.reporting.svg import to_svg
from pipeline.reporting.timefigures import over_time_figure, timeline_figure

MAX_TIMELINES = 6


def evaluation_figures(
    name: str,
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    per_class: pd.DataFrame,
    confusion: np.ndarray,
    *,
    background: str | None = None,
    over_time: pd.DataFrame | None = None,
    detection: pd.DataFrame | None = None,
) -> dict[str, str]:
    """SVG text by figure name: ladder, confusion, per_class, calibration, coverage, and what else there is.

    name: of the evaluation, which every figure's description begins with. The rest as their files hold it
    (`metrics.json`, `predictions.csv`, `per_class.csv`, `over_time.csv`, `detection.csv`), numbers or text; confusion
    is (K, K) counts with the truth in rows. background: the frame task's class for "none of the actions".
    """
    classes = [str(value) for value in per_class["class"]]
    known = predictions[predictions["label"].fillna("") != ""]
    right = (known["label"] == known["predicted"]).to_numpy()
    score = pd.to_numeric(known["score"]).to_numpy()
    sure = (pd.to_numeric(known["sure"]) == 1).to_numpy() if "sure" in known else np.zeros(len(known), bool)
    before = None
    if "uncalibrated" in known:
        before = reliability_bins(pd.to_numeric(known["uncalibrated"]).to_numpy(), right)
    svgs = {
        "ladder": to_svg(ladder_figure(metrics), f"{name}: the model and its controls"),
        "confusion": to_svg(confusion_figure(confusion, classes), f"{name}: confusion matrix"),
        "per_class": to_svg(per_class_figure(per_class), f"{name}: recall and precision of each class"),
        "calibration": to_svg(
            calibration_figure(before, reliability_bins(score, right)), f"{name}: confidence and accuracy"
        ),
        "coverage": to_svg(
            coverage_figure(score, right, sure, metrics.get("calibration", {}).get("wanted_precision")),
            f"{name}: precision over the share of videos answered",
        ),
    }
    if detection is not None and len(detection):
        rates = [own.get("rate_per_hour") for own in metrics.get("detection", {}).values()]
        figure = detection_figure(detection, rates[0] if rates else None)
        svgs["detection"] = to_svg(figure, f"{name}: recall over false alarms per hour")
    if "time_seconds" in predictions:
        shown = timelines(predictions, classes)
        if shown:
            svgs["timeline"] = to_svg(timeline_figure(shown, background), f"{name}: labels over time")
    if over_time is not None and len(over_time):
        svgs["over_time"] = to_svg(
            over_time_figure(over_time, recordings="time_seconds" in predictions), f"{name}: the answer over time"
        )
    return svgs


def timelines(
    predictions: pd.DataFrame, classes: Sequence[str]
) -> list[tuple[str, np.ndarray, Sequence[str], Sequence[str], Sequence[str]]]:
    """Test recordings from the least to the most accurate, evenly spaced in that order: not only the good ones."""
    videos = []
    for video_id, rows in predictions.groupby("video_id", sort=True):
        rows = rows.assign(label=rows["label"].fillna(""))
        known = rows[rows["label"] != ""]
        if len(known):
            accuracy = float((known["label"] == known["predicted"]).mean())
            videos.append((accuracy, str(video_id), rows))
    videos.sort(key=lambda video: video[:2])
    chosen = sorted({round(place) for place in np.linspace(0, len(videos) - 1, min(MAX_TIMELINES, len(videos)))})
    return [
        (
            f"{video_id}   {accuracy:.2f}",
            pd.to_numeric(rows["time_seconds"]).to_numpy(dtype=float),
            list(rows["label"]),
            list(rows["predicted"]),
            classes,
        )
        for accuracy, video_id, rows in (videos[place] for place in chosen)
    ]
