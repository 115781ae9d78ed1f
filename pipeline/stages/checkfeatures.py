"""Ready-made features in place of video: read once and checked, as stage `decode` does with video."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.cards import Dataset
from pipeline.data.featurefiles import read_features
from pipeline.data.tables import CHANGED, Video, usable_videos
from pipeline.device import num_workers
from pipeline.discovery import printable
from pipeline.errors import DataError, RejectedVideo
from pipeline.files import CONTENTS, content_hash, write_table, write_text
from pipeline.progress import Progress
from pipeline.remotenames import Url
from pipeline.stages.layout import StageOptions, dataset_of, media_folder
from pipeline.threads import in_threads

COLUMNS = ("video_id", "status", "reason", "num_frames", "width", "height", "rotation_degrees", "duration_seconds")
NO_FRAMES = "No frames: the media of this data set are ready-made features.\n"


def check_all(options: StageOptions) -> None:
    """In place of decoding: read every feature file once and write what it is worth; no frames are stored.

    Raises DataError when not one can be used.
    """
    dataset = dataset_of(options.experiment)
    videos = usable_videos(options.layout.videos)
    workers = num_workers(options.runtime.workers)
    reasons = list(
        Progress("decode", len(videos)).over(in_threads(lambda v: fault(options, dataset, v), videos, workers))
    )
    write_text(options.layout.frames / "README.txt", NO_FRAMES)
    write_table(options.layout.frames_table, CONTENTS, [])
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
    media = media_folder(options, dataset)
    if isinstance(media, Url):
        raise DataError(f"{media}: ready-made features are read from a folder; copy them, and name their folder")
    path = media / video.video_id
    if content_hash(path) != video.sha256:
        raise RejectedVideo(CHANGED)
    column = dataset.card.labels.frames.column if dataset.card.labels.frames else None
    return read_features(path, video.codec, column)[: video.num_frames_header]
