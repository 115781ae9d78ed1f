"""Scores over all folds: every test video's answer comes from the model that did not train on its group."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.data.labels import IGNORED
from pipeline.errors import DataError
from pipeline.evaluation.ladder import clip_scores, frame_scores


def pool_clip(
    folds: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    classes: Sequence[str],
    opposite: Mapping[int, int],
    *,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """Scores of the folds' `predictions.csv` and `controls.csv` put together; raises DataError without a fold.

    Where a video is tested in several folds (UCF101's three lists) each of its tests counts.
    """
    if not folds:
        raise DataError("no fold to pool")
    predictions = pd.concat([fold[0] for fold in folds], ignore_index=True)
    controls = pd.concat([fold[1] for fold in folds], ignore_index=True)
    names = list(dict.fromkeys(controls["control"]))
    ladder = {name: class_probabilities(controls[controls["control"] == name], classes) for name in names}
    labels = _indices(predictions["label"], classes)
    groups = predictions["group"].tolist()
    return clip_scores(
        class_probabilities(predictions, classes), ladder, labels, groups, opposite, samples=samples, seed=seed
    )


def pool_frame(
    folds: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    classes: Sequence[str],
    background: int | None,
    *,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """The same for the frame task; a recording tested in two folds stands twice."""
    if not folds:
        raise DataError("no fold to pool")
    probs: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    groups: list[str] = []
    ladder: dict[str, list[np.ndarray]] = {}
    for predictions, controls in folds:
        for _, steps in predictions.groupby("video_id", sort=False):
            probs.append(class_probabilities(steps, classes))
            labels.append(_indices(steps["label"], classes))
            groups.append(str(steps["group"].iloc[0]))
        for (name, _), steps in controls.groupby(["control", "video_id"], sort=False):
            ladder.setdefault(str(name), []).append(class_probabilities(steps, classes))
    return frame_scores(probs, ladder, labels, groups, background, samples=samples, seed=seed)


def class_probabilities(rows: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """The class columns of a predictions table, (N, K) float64, rows summing to 1."""
    probs = rows[list(classes)].to_numpy(dtype=np.float64)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))  # the tables hold six digits


def _indices(labels: "pd.Series[str]", classes: Sequence[str]) -> np.ndarray:
    number = {name: index for index, name in enumerate(classes)} | {"": IGNORED}
    return labels.map(number).to_numpy(dtype=np.int64)
