"""What the fine-tuning stage reads of stored videos: stretches with one label, their frames on demand."""

from collections.abc import Callable, Collection, Generator, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.cards import Dataset
from pipeline.data.labels import class_index
from pipeline.data.tables import Side, Video, read_segments, read_splits, read_videos, video_ids
from pipeline.stages.layout import StageOptions
from pipeline.training.windows import Footage, FrameMemory
from pipeline.video.flow import first_flow_step, flow_frames
from pipeline.video.framestore import FrameStore
from pipeline.video.reader import i420_to_rgb
from pipeline.view import View


class Stretch(NamedTuple):
    """Timesteps `start` to `stop` - 1 of a video, one or more, which are of one class."""

    class_index: int
    start: int
    stop: int


def labelled_stretches(
    options: StageOptions, dataset: Dataset, split: Side
) -> tuple[list[tuple[Video, list[Stretch]]], int]:
    """The videos of one side of the fold that have labelled timesteps, each with its stretches: a clip, or segments.

    Segments of the background are no action, and are left out. Beside them the number of labelled videos that have no
    timestep in this view: of one picture there is no flow.
    """
    layout, view = options.layout, options.settings.view
    store = FrameStore(layout.frames, view.frames_key)
    chosen = set(video_ids(read_splits(layout.splits), options.fold, split))
    segments = [segment for segment in read_segments(layout.segments) if segment.label in dataset.classes]
    found: list[tuple[Video, list[Stretch]]] = []
    without = 0
    for video in read_videos(layout.videos):
        own = [segment for segment in segments if segment.video_id == video.video_id]
        if video.video_id not in chosen or not (video.label or own):
            continue
        if store.verdict(video.sha256).status == "rejected":
            continue
        times = view_times(store, video.sha256, view)
        if not len(times):
            without += 1
            continue
        stretches = [Stretch(class_index(video.label, dataset.classes), 0, len(times))] if video.label else []
        for segment in own:
            start, stop = np.searchsorted(times, [segment.start_seconds, segment.end_seconds]).tolist()
            if stop > start:
                stretches.append(Stretch(class_index(segment.label, dataset.classes), start, stop))
        if stretches:
            found.append((video, stretches))
    return found, without


def labelled_footage(
    options: StageOptions, dataset: Dataset, split: Side, memory: FrameMemory
) -> tuple[list[Footage], list[list[object]]]:
    """Each labelled stretch of one side of the fold, and what identifies it: content, steps, class.

    The single frames of the same side print how many videos were left out.
    """
    view = options.settings.view
    store = FrameStore(options.layout.frames, view.frames_key)
    found: list[Footage] = []
    identity: list[list[object]] = []
    for video, stretches in labelled_stretches(options, dataset, split)[0]:
        info = store.info(video.sha256)
        size_bytes = 3 * info.num_frames * info.height * info.width
        read = partial(_read, store, video.sha256, view)
        for number, start, stop in stretches:
            frames = partial(_frames, memory, read, video.sha256, size_bytes, start)
            found.append(Footage(stop - start, info.height, info.width, number, frames))
            identity.append([video.sha256, start, stop, number])
    return found, identity


def view_times(store: FrameStore, sha256: str, view: View) -> np.ndarray:
    """Times (T,) of the timesteps that a view has of a stored video: of flow fewer, or none."""
    times = store.times(sha256)
    return times[first_flow_step(store.pts(sha256)) :] if view.flow else times


def view_pixels(store: FrameStore, sha256: str, view: View, steps: Collection[int]) -> dict[int, np.ndarray]:
    """Frames (H, W, 3) uint8 by timestep, as numbered by `view_times`: RGB, or flow images."""
    frames = store.read(sha256)
    if view.flow:
        images = (frame.image for frame in flow_frames(frames, view.flow, steps))
        return dict(zip(sorted(steps), images, strict=True))
    return {step: i420_to_rgb(frame.i420) for step, frame in enumerate(frames) if step in steps}


def _frames(
    memory: FrameMemory,
    read: Callable[[], Generator[NDArray[np.uint8], None, None]],
    sha256: str,
    size_bytes: int,
    first: int,
    start: int,
    stop: int,
) -> Iterator[NDArray[np.uint8]]:
    """Frames of the stretch that begins at timestep `first` of a video."""
    return memory.frames(sha256, size_bytes, read, first + start, first + stop)


def _read(store: FrameStore, sha256: str, view: View) -> Generator[NDArray[np.uint8], None, None]:
    frames = store.read(sha256)
    if view.flow:
        yield from (frame.image for frame in flow_frames(frames, view.flow))
    else:
        yield from (i420_to_rgb(frame.i420) for frame in frames)
