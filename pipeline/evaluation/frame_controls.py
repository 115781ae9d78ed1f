"""Controls of the frame task that no clip has: what a timestep's surroundings and the clock tell without order.

Arguments and errors as in `pipeline/evaluation/controls.py`; labels: `(T,)` per training video, `IGNORED` left out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.data.labels import IGNORED
from pipeline.errors import DataError
from pipeline.evaluation import controls

# Of the surroundings that `mean_pool_labels` sees: on the demo set, whose actions last 1.2 s on average, two seconds
# blur the borders between them (accuracy 0.61), one does less (0.66; single frames 0.69).
WINDOW_SECONDS = 1.0
MAX_CLOCK_TIMESTEPS = 5_000  # of training: the forest on them costs seconds
LEAST_IN_LEAF = 25  # smaller leaves learn recordings by heart: below the majority class on the demo set


def mean_pool_labels(
    train_features: Sequence[np.ndarray],
    train_labels: Sequence[np.ndarray],
    test_features: Sequence[np.ndarray],
    num_classes: int,
    seed: int,
    *,
    fps: float,
) -> list[np.ndarray]:
    """`(T, K)` float64 per test video: the single-frame regression on the mean feature of the second around.

    The clip task's mean over the video, moved along: it averages noise away and sees what is near, before and after,
    and knows nothing of the order. What a model has above it is not bought by smoothing alone. fps: timesteps a second.
    """
    reach = int(WINDOW_SECONDS * fps / 2)
    return controls.single_frame_labels(
        _Averaged(train_features, reach), train_labels, _Averaged(test_features, reach), num_classes, seed
    )


def file_properties_labels(
    train_table: np.ndarray,
    train_labels: Sequence[np.ndarray],
    test_table: np.ndarray,
    test_lengths: Sequence[int],
    num_classes: int,
    seed: int,
) -> list[np.ndarray]:
    """`(T, K)` float64 per test video: the random forest on the file's properties and on the clock.

    Tables: `(N, P)`, one row per video, nan = unknown. The clock is the timestep's number and the share of the
    recording that has gone by. Without it every timestep of a recording would get one answer; with it the control
    knows all there is to know without a look at a picture. A high score means that recordings follow one plan, or were
    made in a way that gives their content away. Trained on at most 5,000 timesteps, evenly spaced over all.
    """
    if not len(train_table) == len(train_labels) or not len(test_table) == len(test_lengths):
        raise DataError(
            f"properties of {len(train_table)} and {len(test_table)} videos, timesteps of {len(train_labels)} and "
            f"{len(test_lengths)}; expected a row for each training and each test video"
        )
    labels = np.concatenate([np.empty(0, np.int64), *(np.asarray(video) for video in train_labels)])
    rows = _with_clock(train_table, [len(video) for video in train_labels])
    kept = np.flatnonzero(labels != IGNORED)
    kept = kept[:: max(1, -(-len(kept) // MAX_CLOCK_TIMESTEPS))]
    probs = controls.file_properties(
        rows[kept],
        labels[kept],
        _with_clock(test_table, test_lengths),
        num_classes,
        seed,
        least_in_leaf=LEAST_IN_LEAF,
    )
    return np.split(probs, np.cumsum(test_lengths)[:-1])


class _Averaged(Sequence[np.ndarray]):
    """Videos `(T, D)`, each feature the float32 mean of those up to `reach` timesteps away; made when asked for."""

    def __init__(self, videos: Sequence[np.ndarray], reach: int) -> None:
        self._videos, self._reach = videos, reach

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: Any) -> Any:
        video = np.asarray(self._videos[index])
        if video.ndim != 2 or not len(video):
            return video  # refused, and named, by the control itself
        sums = np.concatenate([np.zeros((1, video.shape[1])), np.cumsum(video, axis=0, dtype=np.float64)])
        steps = np.arange(len(video))
        first, last = np.maximum(steps - self._reach, 0), np.minimum(steps + self._reach + 1, len(video))
        return ((sums[last] - sums[first]) / (last - first)[:, None]).astype(np.float32)


def _with_clock(table: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """A row per timestep: the video's properties, the timestep's number, and the share of the recording before it."""
    steps = [np.arange(length) for length in lengths]
    clock = [np.column_stack([at, (at + 0.5) / max(len(at), 1)]) for at in steps]
    return np.column_stack([np.repeat(np.asarray(table, dtype=np.float64), lengths, axis=0), np.concatenate(clock)])
