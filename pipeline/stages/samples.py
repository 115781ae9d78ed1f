"""The labelled features of one side of a fold, as training and evaluation take them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.cards import Dataset
from pipeline.data.labels import class_index, frame_classes, frame_labels
from pipeline.data.tables import Side, Video, read_csv, read_segments, read_splits, read_videos, video_ids
from pipeline.discovery import printable
from pipeline.errors import DataError
from pipeline.features.store import FeatureStore, VideoFeatures
from pipeline.stages.layout import Layout, Scored


@dataclass(frozen=True)
class Sample:
    """One video: its table row, its features (T, D), and a class index for each timestep, (T,) int64."""

    video: Video
    features: VideoFeatures
    labels: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The feature vectors, (T, D) float32."""
        return self.features.values.astype(np.float32)


def task_classes(dataset: Dataset, task: str) -> tuple[str, ...]:
    """Class names of a task, in the order of its scores."""
    return dataset.classes if task == "clip" else frame_classes(dataset.classes, dataset.card.background)


def read_samples(
    layout: Layout, store: FeatureStore, dataset: Dataset, *, task: str, fold: int, split: Side
) -> list[Sample]:
    """Videos of one side of a fold that carry labels of the task, in the table's order.

    The clip task takes videos with a label, the frame task those with segments. Videos that could not be decoded are
    left out here; `decoded.csv` lists them with their reasons, and the count is printed.

    Raises:
        DataError: no video of this side has a label of the task.
        StoreError: features are missing or damaged. ViewMismatch: they were made under another view.
    """
    chosen = set(video_ids(read_splits(layout.splits), fold, split))
    segments = [segment for segment in read_segments(layout.segments) if segment.video_id in chosen]
    segmented = {segment.video_id for segment in segments}
    undecodable = {row["video_id"] for _, row in read_csv(layout.decoded, ["video_id"]) if row["status"] == "rejected"}
    samples, lost = [], 0
    for video in read_videos(layout.videos):
        labelled = bool(video.label) if task == "clip" else video.video_id in segmented
        if video.video_id not in chosen or not labelled:
            continue
        if video.video_id in undecodable:
            lost += 1
            continue
        features = store.read(video.sha256)
        if task == "clip":
            labels = np.full(len(features.values), class_index(video.label, dataset.classes), dtype=np.int64)
        else:
            own = [segment for segment in segments if segment.video_id == video.video_id]
            labels = frame_labels(features.time_seconds, own, dataset.classes, dataset.card.background)
        samples.append(Sample(video, features, labels))
    if lost:
        reason = "have no features because they could not be decoded"
        print(printable(f"{split}: {lost} video(s) {reason}; see {layout.decoded}"))
    if not samples:
        raise DataError(
            f"fold {fold}: no {split} video has a label of the {task} task; "
            f"expected {'a label in videos.csv' if task == 'clip' else 'rows in segments.csv'}"
        )
    return samples


def opposites(dataset: Dataset, stream: Scored) -> dict[int, int]:
    """Class index of the class that each class is when played backwards.

    Empty for flow: its pictures in reverse order still show motion forwards, which is not the video played backwards.
    """
    if stream != "rgb":
        return {}
    pairs = [(dataset.classes.index(a), dataset.classes.index(b)) for a, b in dataset.card.opposites]
    return {one: other for a, b in pairs for one, other in ((a, b), (b, a))}


def without_nan(value: Any) -> Any:
    """The same nested value with None where a number is not defined: JSON has no nan."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
