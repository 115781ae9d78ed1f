"""Ready-made features in the stages that make features of video: checked, described, brought to the view's rate."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.cards import Dataset
from pipeline.data.featurefiles import read_features, steps_on_grid
from pipeline.data.tables import Video, read_csv, read_videos
from pipeline.device import num_workers
from pipeline.discovery import printable
from pipeline.errors import DataError, LrcnError, RejectedVideo, StoreError, ViewMismatch
from pipeline.features.backbones import Backbone, given_features, read_backbone
from pipeline.features.store import FeatureStore, VideoFeatures
from pipeline.files import content_hash, write_table, write_text
from pipeline.progress import Progress
from pipeline.stages.layout import StageOptions, dataset_of
from pipeline.threads import in_threads
from pipeline.view import features_key

CHANGED = "its content is no longer what videos.csv states: run the index stage again"
COLUMNS = ("video_id", "status", "reason", "num_frames", "width", "height", "rotation_degrees", "duration_seconds")
NO_FRAMES = "No frames: the media of this data set are ready-made features.\n"


def check_all(options: StageOptions) -> None:
    """In place of decoding: read every feature file once and write what it is worth; no frames are stored.

    Raises DataError when not one can be used.
    """
    dataset = dataset_of(options.experiment)
    videos = usable_videos(options)
    workers = num_workers(options.runtime.workers)
    reasons = list(
        Progress("decode", len(videos)).over(in_threads(lambda v: fault(options, dataset, v), videos, workers))
    )
    write_text(options.layout.frames / "README.txt", NO_FRAMES)
    rows: list[Sequence[object]] = []
    for video, reason in zip(videos, reasons, strict=True):
        steps, seconds = ("", "") if reason else (video.num_frames_header, video.duration_seconds_header)
        rows.append([video.video_id, "rejected" if reason else "ok", reason, steps, video.width, 0, 0, seconds])
        if reason:
            print(printable(f"decode: {video.video_id}: rejected: {reason}"))
    bad = sum(bool(reason) for reason in reasons)
    print(f"decode: nothing to decode; {len(videos)} feature files read: {len(videos) - bad} ok, {bad} rejected")
    if bad == len(videos):
        raise DataError(f"{options.layout.videos}: not one of {len(videos)} feature files can be used; see above")
    write_table(options.layout.decoded, COLUMNS, rows)


def describe_features(options: StageOptions) -> Backbone:
    """In place of a CNN: what the features are, as the table of videos states it."""
    features = dataset_of(options.experiment).card.features
    videos = usable_videos(options)
    if features is None or not videos:
        raise DataError(f"{options.layout.videos}: no usable feature file; run the index stage again")
    return given_features(videos[0].width, features.fps, any(video.codec.endswith("feature_first") for video in videos))


def import_all(options: StageOptions, name: str) -> None:
    """In place of a CNN's work: the files' numbers, at the view's rate, into the feature store."""
    layout, view = options.layout, options.experiment.view
    dataset = dataset_of(options.experiment)
    backbone = read_backbone(layout.backbone(name) / "backbone.safetensors")
    store = FeatureStore(layout.features(name), features_key(view, backbone.name, backbone.weights_sha256))
    accepted = {row["video_id"] for _, row in read_csv(layout.decoded, ["video_id", "status"]) if row["status"] == "ok"}
    videos = {video.sha256: video for video in usable_videos(options) if video.video_id in accepted}
    source_fps = float(backbone.arrays()["fps"])
    grids = {sha256: steps_on_grid(v.num_frames_header, source_fps, view.fps) for sha256, v in videos.items()}
    missing = [sha256 for sha256 in videos if stored_length(store, sha256) != len(grids[sha256][0])]
    for sha256 in Progress("extract", len(missing)).over(iter(missing)):
        video, (steps, times) = videos[sha256], grids[sha256]
        try:
            values = checked_values(options, dataset, video)
        except (RejectedVideo, OSError) as error:
            raise LrcnError(f"{video.video_id}: {error}; run the stages index and decode again") from None
        store.write(sha256, VideoFeatures(values[steps], times, times))
    removed = store.prune(set(videos))
    print(
        f"extract: {len(missing)} of {len(videos)} feature files imported, the rest was there; "
        f"{len(removed)} old entries removed; "
        f"{backbone.feature_size} features a timestep, {source_fps:g} timesteps a second taken at {view.fps:g}"
    )


def usable_videos(options: StageOptions) -> list[Video]:
    """Feature files that index could use."""
    return [video for video in read_videos(options.layout.videos) if video.status == "ok"]


def fault(options: StageOptions, dataset: Dataset, video: Video) -> str:
    """Why a feature file cannot be used, "" when it can."""
    try:
        checked_values(options, dataset, video)
    except RejectedVideo as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def checked_values(options: StageOptions, dataset: Dataset, video: Video) -> NDArray[np.float32]:
    """The numbers of a file, (T, D) with the T and D of the table; raises RejectedVideo or OSError."""
    path = (options.media or Path(dataset.card.media)) / video.video_id
    if content_hash(path) != video.sha256:
        raise RejectedVideo(CHANGED)
    column = dataset.card.labels.frames.column if dataset.card.labels.frames else None
    return read_features(path, video.codec, column)[: video.num_frames_header]


def stored_length(store: FeatureStore, sha256: str) -> int:
    """Timesteps stored of a file, 0 when there are none, or damaged ones: labels may have cut it to another length."""
    try:
        return len(store.read(sha256).values)
    except (StoreError, ViewMismatch):
        return 0
