"""Video files in, frames on a time grid out, and a verdict on each file."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pipeline.errors import RejectedVideo
from pipeline.video.codecs import missing_codecs
from pipeline.video.convert import Converter, output_size
from pipeline.video.decode import DecodedFrame, Decoder
from pipeline.video.header import VideoHeader, read_header
from pipeline.video.i420 import I420, i420_to_rgb
from pipeline.video.limits import Limits
from pipeline.video.sampling import TimeGrid
from pipeline.video.source import one_line
from pipeline.video.verdict import Verdict, known

__all__ = [
    "Frame",
    "Limits",
    "Verdict",
    "VideoHeader",
    "VideoReader",
    "check_file",
    "i420_to_rgb",
    "missing_codecs",
    "read_header",
]


class Frame(NamedTuple):
    """One frame on the time grid.

    time_seconds: the grid time t_k = k / fps. pts_seconds: when the frame was first shown. Both count from the first
    frame of the video. i420: `(H * 3 // 2, W) uint8`, planar YUV 4:2:0, BT.601, limited range, upright; frames of one
    source picture share it, so it is not to be written to.
    """

    time_seconds: float
    pts_seconds: float
    i420: I420


class Shown(NamedTuple):
    """A picture that stands on the time grid at `steps` (grid times are step / fps), converted as in Frame.

    arrived_seconds: when a live source's picture was there, by time.monotonic.
    """

    steps: range
    pts_seconds: float
    i420: I420
    arrived_seconds: float = 0.0


class VideoReader:
    """Reads one file: frames on a grid of `fps` times a second, the shorter side resized to `short_side` pixels.

    It decodes in this process. Files that nobody vouches for are read through `pipeline.video.isolation`, which
    survives what a codec may do to its process.

    >>> reader = VideoReader("fight.mp4")  # doctest: +SKIP
    >>> for frame in reader.frames(fps=8, short_side=256): ...  # doctest: +SKIP
    >>> reader.verdict.status  # doctest: +SKIP
    'ok'
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        limits: Limits = Limits(),  # noqa: B008 - frozen
        decoder: Decoder | None = None,
    ) -> None:
        """decoder: another one than that for files, see `pipeline.video.live`."""
        self._decoder = decoder or Decoder(path, limits)

    @property
    def verdict(self) -> Verdict:
        """The verdict on the file. Raises RuntimeError before `frames` has come to its end, or to RejectedVideo."""
        return known(self._decoder.verdict)

    def frames(self, fps: float, short_side: int) -> Iterator[Frame]:
        """Decode the file from start to end in one thread; only the frames on the grid are converted.

        Raises RejectedVideo, with the reason alone, when the file has no usable frame. A damaged file gives what can
        be read of it.
        """
        pictures = self.pictures(fps, short_side)
        return (
            Frame(step / fps, shown.pts_seconds, shown.i420)
            for shown in pictures
            if shown is not None
            for step in shown.steps
        )

    def pictures(self, fps: float, short_side: int) -> Iterator[Shown | None]:
        """The same, picture by picture as they are decoded; None stands for one that is not on the grid."""
        check_grid(fps, short_side)
        return self._pictures(fps, short_side)

    def _pictures(self, fps: float, short_side: int) -> Iterator[Shown | None]:
        grid = TimeGrid(fps)
        converter: Converter | None = None
        waiting: DecodedFrame | None = None  # until the next one's time tells how long it is shown
        early: I420 | None = None
        for frame in self._decoder:
            if converter is None or waiting is None:
                orientation = self._decoder.orientation
                upright = orientation.upright(frame.picture.width, frame.picture.height)
                converter = Converter(orientation, output_size(*upright, short_side))
                step = 0.0
            else:
                covered = grid.feed(frame.time_seconds)
                yield self._convert(waiting, covered, converter, early) if covered else None
                step = frame.time_seconds - waiting.time_seconds
            # A picture is converted faster while it is still in the processor's cache; so the one that will stand on
            # the grid if the next one comes in its time is converted at once.
            early = converter.try_convert(frame.picture) if grid.expects(frame.time_seconds + step) else None
            waiting = frame
        assert converter is not None  # the decoder raises RejectedVideo when there is no frame
        assert waiting is not None
        covered = grid.finish(waiting.time_seconds + self._decoder.last_frame_duration(waiting.picture, fps))
        yield self._convert(waiting, covered, converter, early) if covered else None

    def _convert(self, frame: DecodedFrame, covered: range, converter: Converter, early: I420 | None) -> Shown:
        try:
            i420 = converter.convert(frame.picture) if early is None else early
        except Exception as error:
            picture = frame.picture
            raise self._decoder.reject(
                f"frame at {frame.time_seconds:.3f} s ({picture.width}x{picture.height} {picture.format.name}) "
                f"cannot be converted: {one_line(error)}",
                is_transient=isinstance(error, MemoryError),
            ) from error
        return Shown(covered, frame.time_seconds, i420, frame.arrived_seconds)


def check_grid(fps: float, short_side: int) -> None:
    """Raise ValueError for a rate or a size that no frames can have."""
    TimeGrid(fps)
    if short_side < 2 or short_side % 2:
        raise ValueError(f"short_side is {short_side}; expected an even number of pixels from 2")


def check_file(
    path: str | os.PathLike[str],
    limits: Limits = Limits(),  # noqa: B008 - frozen
    progress: Callable[[], None] = lambda: None,
) -> Verdict:
    """Decode every frame of a file and convert none; the verdict says what came of it. Raises nothing for bad files.

    progress: called for every frame.
    """
    decoder = Decoder(path, limits)
    try:
        for _ in decoder:
            progress()
    except RejectedVideo:
        pass
    assert decoder.verdict is not None  # set at the end of every pass
    return decoder.verdict
