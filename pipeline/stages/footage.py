"""What the fine-tuning stage reads of stored videos: stretches with one label, their frames on demand."""

from collections.abc import Generator, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.data.cards import Dataset
from pipeline.data.labels import class_index
from pipeline.data.tables import Side, read_segments, read_splits, read_videos, video_ids
from pipeline.stages.layout import StageOptions
from pipeline.training.windows import Footage, FrameMemory
from pipeline.video.framestore import FrameStore
from pipeline.video.reader import i420_to_rgb


def labelled_footage(
    options: StageOptions, dataset: Dataset, split: Side, memory: FrameMemory
) -> tuple[list[Footage], list[list[object]]]:
    """Each labelled clip and each segment of one side of the fold, and what identifies them: content, steps, class."""
    layout, experiment = options.layout, options.experiment
    store = FrameStore(layout.frames, experiment.view.frames_key)
    chosen = set(video_ids(read_splits(layout.splits), options.fold, split))
    segments = read_segments(layout.segments)
    found: list[Footage] = []
    identity: list[list[object]] = []
    for video in read_videos(layout.videos):
        if video.video_id not in chosen or store.verdict(video.sha256).status == "rejected":
            continue
        info, times = store.info(video.sha256), store.times(video.sha256)
        stretches = [(video.label, 0, len(times))] if video.label else []
        for segment in segments:
            if segment.video_id == video.video_id and segment.label in dataset.classes:  # background is no action
                start, stop = np.searchsorted(times, [segment.start_seconds, segment.end_seconds]).tolist()
                stretches += [(segment.label, start, stop)] if stop > start else []
        size_bytes = 3 * info.num_frames * info.height * info.width
        for label, start, stop in stretches:
            frames = partial(_frames, memory, store, video.sha256, size_bytes, start)
            number = class_index(label, dataset.classes)
            found.append(Footage(stop - start, info.height, info.width, number, frames))
            identity.append([video.sha256, start, stop, number])
    return found, identity


def _frames(
    memory: FrameMemory, store: FrameStore, sha256: str, size_bytes: int, first: int, start: int, stop: int
) -> Iterator[NDArray[np.uint8]]:
    """Frames of the stretch that begins at timestep `first` of a video."""
    return memory.frames(sha256, size_bytes, partial(_read, store, sha256), first + start, first + stop)


def _read(store: FrameStore, sha256: str) -> Generator[NDArray[np.uint8], None, None]:
    for frame in store.read(sha256):
        yield i420_to_rgb(frame.i420)
