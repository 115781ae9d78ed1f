"""How often answers turn when a video is changed, and by how much the model becomes less sure of what it said.

A flip is another most probable class than for the unchanged video, right or wrong; the score change is that of the
first answer's probability (below 0: less sure). Items are videos in the clip task and timesteps in the frame task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.evaluation.intervals import bootstrap_mean


@dataclass(frozen=True)
class Shown:
    """A video's answers to one change.

    group: of the video. labels: `(N,)` class indices by which results are grouped, below 0 for none. before, after:
    `(N, K)` class probabilities of the unchanged and of the changed video; N is 1 in the clip task, T in the frame
    task.
    """

    video_id: str
    group: str
    change: str
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def __post_init__(self) -> None:
        if self.before.ndim != 2 or self.before.shape != self.after.shape or len(self.labels) != len(self.before):
            raise DataError(
                f"{self.video_id}, {self.change}: answers of shape {self.before.shape} before and {self.after.shape} "
                f"after for {len(self.labels)} labels; expected (N, K) twice, and N labels"
            )

    @property
    def flips(self) -> np.ndarray:
        """`(N,)` bool: whether the answer turned."""
        return np.asarray(self.before.argmax(axis=1) != self.after.argmax(axis=1))

    @property
    def score_changes(self) -> np.ndarray:
        """`(N,)` float64: probability of the first answer, after minus before."""
        rows, first = np.arange(len(self.before)), self.before.argmax(axis=1)
        return np.asarray(self.after[rows, first] - self.before[rows, first], np.float64)


def flip_scores(shown: Sequence[Shown], classes: Sequence[str], *, samples: int, seed: int) -> dict[str, Any]:
    """Flip rate and mean score change of each change, in all and per class.

    Returns `{change: {flip_rate, low, high, score_change, num_videos, num_items, per_class: {class: {flip_rate,
    score_change, num}}}}` in the order in which changes first come. Every item weighs the same; low and high are the
    95 % interval of the flip rate, from drawing whole groups (nan with a single one). A class without items is left
    out. Items without a label count in the whole and in no class.
    """
    scores: dict[str, Any] = {}
    for change in dict.fromkeys(one.change for one in shown):
        own = [one for one in shown if one.change == change]
        flips = np.concatenate([one.flips for one in own]).astype(np.float64)
        changes = np.concatenate([one.score_changes for one in own])
        labels = np.concatenate([one.labels for one in own])
        groups = np.repeat([one.group for one in own], [len(one.labels) for one in own])
        interval = bootstrap_mean(flips, groups, samples=samples, seed=seed)
        scores[change] = {
            "flip_rate": float(flips.mean()),
            "low": interval.low,
            "high": interval.high,
            "score_change": float(changes.mean()),
            "num_videos": len(own),
            "num_items": len(flips),
            "per_class": {
                name: {
                    "flip_rate": float(flips[labels == number].mean()),
                    "score_change": float(changes[labels == number].mean()),
                    "num": int((labels == number).sum()),
                }
                for number, name in enumerate(classes)
                if (labels == number).any()
            },
        }
    return scores


def flip_row(shown: Shown, classes: Sequence[str]) -> Mapping[str, object]:
    """A video's row of probe.csv; of the timesteps of a frame task the commonest answer and the means."""
    before, after = (int(np.bincount(probs.argmax(axis=1)).argmax()) for probs in (shown.before, shown.after))
    labels = shown.labels[shown.labels >= 0]
    return {
        "video_id": shown.video_id,
        "group": shown.group,
        "change": shown.change,
        "label": classes[labels[0]] if len(shown.labels) == 1 and len(labels) else "",
        "predicted": classes[before],
        "score": round(float(shown.before.max(axis=1).mean()), 6),
        "predicted_after": classes[after],
        "score_after": round(float(shown.after.max(axis=1).mean()), 6),
        "flip_rate": round(float(shown.flips.mean()), 6),
        "score_change": round(float(shown.score_changes.mean()), 6),
        "num_items": len(shown.labels),
    }
