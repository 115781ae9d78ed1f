"""The labelled features of one side of a fold, as training and evaluation take them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import TASKS
from pipeline.data.cards import Dataset
from pipeline.data.labels import IGNORED, class_index, frame_classes, frame_labels
from pipeline.data.tables import SIDES, Side, Video, read_csv, read_segments, read_splits, read_videos, video_ids
from pipeline.discovery import printable
from pipeline.errors import DataError, RejectedVideo
from pipeline.features.store import FeatureStore, VideoFeatures
from pipeline.models.modelspec import FoldVideo
from pipeline.stages.layout import Layout, Scored


@dataclass(frozen=True)
class Sample:
    """One video: its table row, and of each timestep the time in seconds, (T,) float64, and a class index, (T,) int64.

    Its features lie in the store, and are read and verified when they are asked for.
    """

    video: Video
    time_seconds: np.ndarray
    labels: np.ndarray
    store: FeatureStore

    @property
    def features(self) -> VideoFeatures:
        """The feature vectors, (T, D), read anew each time; raises StoreError when they are damaged."""
        return self.store.read(self.video.sha256)

    @property
    def values(self) -> np.ndarray:
        """The feature vectors, (T, D) or (T, crops, D) float32."""
        return self.features.values.astype(np.float32)


def task_classes(dataset: Dataset, task: str) -> tuple[str, ...]:
    """Class names of a task, in the order of its scores."""
    return dataset.classes if task == "clip" else frame_classes(dataset.classes, dataset.card.background)


def read_samples(
    layout: Layout, store: FeatureStore, dataset: Dataset, *, task: str, fold: int, split: Side
) -> list[Sample]:
    """Videos of one side of a fold that carry labels of the task, in the table's order.

    The clip task takes videos with a label, the frame task those with segments, and where the card says so
    (`unlisted: background`) those with neither, which are background throughout. Videos that could not be decoded are
    left out here; `decoded.csv` lists them with their reasons, and the count is printed. So are those that give no
    features (of one picture there is no flow).

    Raises:
        DataError: no video of this side has a label of the task, or all that have one are left out, or all training
            videos of a class are.
        StoreError: features are missing or damaged. ViewMismatch: they were made under another view.
    """
    chosen = set(video_ids(read_splits(layout.splits), fold, split))
    segments = [segment for segment in read_segments(layout.segments) if segment.video_id in chosen]
    segmented = {segment.video_id for segment in segments}
    undecodable = undecodable_videos(layout)
    samples: list[Sample] = []
    lost, without = 0, 0
    left_out: set[str] = set()
    for video in read_videos(layout.videos):
        if video.video_id not in chosen or not _has_label(video, segmented, dataset, task):
            continue
        if video.video_id in undecodable:
            lost += 1
            left_out.add(video.label)
            continue
        try:
            times = store.times(video.sha256)
        except RejectedVideo:
            without += 1
            left_out.add(video.label)
            continue
        if task == "clip":
            labels = np.full(len(times), class_index(video.label, dataset.classes), dtype=np.int64)
        else:
            own = [segment for segment in segments if segment.video_id == video.video_id]
            labels = frame_labels(times, own, dataset.classes, dataset.card.background)
        samples.append(Sample(video, times, labels, store))
    if lost:
        reason = "have no features because they could not be decoded"
        print(printable(f"{split}: {lost} video(s) {reason}; see {layout.decoded}"))
    if without:
        print(printable(f"{split}: {without} video(s) give no features (no flow in one picture); see {store.folder}"))
    if lost + without and not samples:
        raise DataError(
            f"fold {fold}: {split}: {lost + without} video(s) have a label of the {task} task, none has features: "
            f"{lost} could not be decoded (see {layout.decoded}), {without} give none (no flow in one picture); "
            "expected a usable video on each side"
        )
    if split == "train" and (gone := sorted(left_out - {sample.video.label for sample in samples} - {""})):
        raise DataError(
            f"fold {fold}: not one training video of {', '.join(gone)} has features (see {layout.decoded}); "
            "expected one or more of each class"
        )
    if not samples:
        raise DataError(
            f"fold {fold}: no {split} video has a label of the {task} task; "
            f"expected {'a label in videos.csv' if task == 'clip' else 'rows in segments.csv'}"
        )
    return samples


def fold_videos(layout: Layout, dataset: Dataset, *, task: str, fold: int, is_finetuned: bool) -> list[FoldVideo]:
    """The videos of a fold that a model of a task is trained, validated and tested on, in the table's order.

    is_finetuned: its CNN was trained on the fold too, and so saw the labelled videos of both tasks. The same content
    counts once, on the side that is nearest to training. Raises DataError for tables that cannot be used.
    """
    side = {row.video_id: row.split for row in read_splits(layout.splits) if row.fold == fold}
    segmented = {segment.video_id for segment in read_segments(layout.segments)}
    undecodable = undecodable_videos(layout)
    tasks = TASKS if is_finetuned else (task,)
    found: dict[str, FoldVideo] = {}
    videos = [video for video in read_videos(layout.videos) if video.video_id in side.keys() - undecodable]
    for video in sorted(videos, key=lambda video: SIDES.index(side[video.video_id])):
        if any(_has_label(video, segmented, dataset, one) for one in tasks):
            found.setdefault(video.sha256, FoldVideo(video.sha256, video.size_bytes, side[video.video_id]))
    return list(found.values())


def _has_label(video: Video, segmented: Collection[str], dataset: Dataset, task: str) -> bool:
    if task == "clip":
        return bool(video.label)
    return video.video_id in segmented or (dataset.card.unlisted is not None and not video.label)


def undecodable_videos(layout: Layout) -> set[str]:
    """Ids of the videos that decoding rejected."""
    return {
        row["video_id"] for _, row in read_csv(layout.decoded, ["video_id", "status"]) if row["status"] == "rejected"
    }


def labelled_answers(
    task: str, samples: Sequence[Sample], probs: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What was answered where there is a label: probabilities (N, K), class indices (N,) and groups (N,).

    probs: of each sample, (K,) in the clip task, (T, K) in the frame task, whose timesteps without a label are left
    out.
    """
    groups = np.array([sample.video.group for sample in samples])
    if task == "clip":
        return np.stack(probs), np.array([sample.labels[0] for sample in samples]), groups
    labels = np.concatenate([sample.labels for sample in samples])
    kept = labels != IGNORED
    return np.concatenate(probs)[kept], labels[kept], np.repeat(groups, [len(s.labels) for s in samples])[kept]


def opposites(dataset: Dataset, stream: Scored) -> dict[int, int]:
    """Class index of the class that each class is when played backwards.

    Empty for flow: its pictures in reverse order still show motion forwards, which is not the video played backwards.
    """
    if stream != "rgb":
        return {}
    pairs = [(dataset.classes.index(a), dataset.classes.index(b)) for a, b in dataset.card.opposites]
    return {one: other for a, b in pairs for one, other in ((a, b), (b, a))}
