"""Pictures that are in memory already, put on a view's time grid."""

from collections.abc import Iterable, Iterator

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from pipeline.video.convert import Converter, output_size
from pipeline.video.orientation import Orientation
from pipeline.video.reader import Frame, check_grid
from pipeline.video.sampling import LONGEST_STEP_SECONDS, TimeGrid


def frames_on_grid(pictures: Iterable[tuple[float, NDArray[np.uint8]]], fps: float, short_side: int) -> Iterator[Frame]:
    """Frames of a view from pictures that are there already: (time in seconds, RGB (H, W, 3) uint8).

    Times count from the first picture and must not go back. A timestep is known when the next picture comes, or they
    end; the last picture is shown as long as the one before it. Raises ValueError for a time or an array that is none.
    """
    check_grid(fps, short_side)
    grid, converter = TimeGrid(fps), None
    waiting: tuple[float, VideoFrame] | None = None
    first = step = 0.0
    for number, (seconds, rgb) in enumerate(pictures):
        if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            shape = f"{rgb.dtype} of shape {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
            raise ValueError(f"frame {number} is {shape}; expected an array (height, width, 3) of uint8, RGB")
        first = float(seconds) if waiting is None else first
        picture, now = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"), float(seconds) - first
        before = 0.0 if waiting is None else waiting[0]
        if not before <= now <= before + LONGEST_STEP_SECONDS:
            raise ValueError(f"frame {number} comes at {seconds} s, after {first + before} s; expected times that grow")
        if converter is None or waiting is None:
            converter = Converter(Orientation(), output_size(picture.width, picture.height, short_side))
        else:
            yield from _frames(waiting, grid.feed(now), converter, fps)
            step = now - before
        waiting = now, picture
    if waiting is not None and converter is not None:
        yield from _frames(waiting, grid.finish(waiting[0] + (step or 1 / fps)), converter, fps)


def _frames(picture: tuple[float, VideoFrame], steps: range, converter: Converter, fps: float) -> Iterator[Frame]:
    if steps:
        i420 = converter.convert(picture[1])
        for step in steps:
            yield Frame(step / fps, picture[0], i420)
