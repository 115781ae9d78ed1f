"""Pictures of the report, from the frame store: strips of frames, and one of each class."""

from collections.abc import Sequence

import numpy as np

from pipeline.data.cards import Dataset
from pipeline.data.tables import Video
from pipeline.video.framestore import FrameStore
from pipeline.video.reader import i420_to_rgb

NUM_SAMPLES = 12


def frame_strip(
    frames: FrameStore, sha256: str, count: int, middle_seconds: float | None = None, span_seconds: float = 2.0
) -> list[np.ndarray]:
    """`count` frames of a stored video, evenly spaced, (H, W, 3) uint8 RGB each.

    middle_seconds: around this moment alone, over `span_seconds`.
    """
    times = np.asarray(frames.times(sha256))
    first, last = 0, len(times) - 1
    if middle_seconds is not None:
        first, last = np.abs(times[:, None] - (middle_seconds + np.array([-0.5, 0.5]) * span_seconds)).argmin(axis=0)
    wanted = set(np.linspace(first, last, count).round().astype(int).tolist())
    return [i420_to_rgb(frame.i420) for step, frame in enumerate(frames.read(sha256)) if step in wanted]


def sample_frames(dataset: Dataset, videos: Sequence[Video], frames: FrameStore) -> list[tuple[str, np.ndarray]]:
    """A strip of three frames from the first video of each class, side by side."""
    found = []
    for label in dataset.classes[:NUM_SAMPLES]:
        video = next((v for v in videos if v.label == label and v.status == "ok" and usable(frames, v)), None)
        if video is not None:
            found.append((label, np.concatenate(frame_strip(frames, video.sha256, 3), axis=1)))
    return found


def usable(frames: FrameStore, video: Video) -> bool:
    """Whether frames of a video could be decoded."""
    return frames.verdict(video.sha256).status != "rejected"
