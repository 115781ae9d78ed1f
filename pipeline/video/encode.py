"""Pictures to H.264 in MP4 that browsers play, with the times they have, and with sound."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from types import TracebackType
from typing import Protocol

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.errors import SoundError, VideoError
from pipeline.files import DISK_FULL
from pipeline.video.lossless import BT601
from pipeline.video.source import one_line

# Without B-frames packets come in the order of their pictures: no edit list, and the last one's duration is exact.
# 23 is x264's own quality. Measured at 720p: the next faster preset takes a tenth less time and two thirds more bytes,
# the next slower one takes half as long again and saves nothing.
OPTIONS = {"preset": "veryfast", "crf": "23", "bf": "0", "forced-idr": "1"}
TIME_BASE = Fraction(1, 90000)
# Players go to key frames only; a stream that is killed loses what came after the last one.
KEY_FRAME_SECONDS = 2.0
STEP_SECONDS = 0.04  # of a single picture, where nothing tells how long it is shown
RATES = (1, 240)  # frames/s that a header may state
# The index comes first, so that a page plays the file before it has all of it. What begins later than 0 does so on
# the time scale of the whole file, which is 1 ms unless it is said.
WHOLE = {"movflags": "+faststart", "movie_timescale": "90000", "fflags": "+bitexact"}
# A fragment for each key frame, written at once: what was written plays, however the writer ends.
FRAGMENTED = {
    "movflags": "+frag_keyframe+empty_moov+default_base_moof",
    "flush_packets": "1",
    "fflags": "+bitexact",
}
WRITE_ERRORS = (OSError, av.FFmpegError)


class SoundSource(Protocol):
    """Sound for a file that is being written; see pipeline.video.sound.Sound."""

    def attach(self, container: OutputContainer) -> None:
        """Add its stream, before anything is written."""

    def packets(self, until_seconds: float) -> Iterable["Packet[Stream]"]:
        """Packets of that stream, in order, that were not given yet and begin before a time; infinity: all."""


class H264Writer:
    """Writes RGB pictures and their times to an MP4 file: H.264 High, yuv420p, BT.601, one thread.

    >>> with H264Writer("a.mp4", 64, 48) as writer:  # doctest: +SKIP
    ...     writer.write(rgb, time_seconds=0.0)

    Equal pictures, times and sound give equal bytes. The file is complete when `close` has returned; after an error in
    a `with` block it is closed too, and holds what came until then. Without a picture nothing is written.

    path: written in place, whatever its ending. width, height: pixels, even. audio: sound to go with it; time 0 is the
    same. fragmented: for what has no end: a process that is killed leaves a file that plays, up to the last 2 s and
    what the encoder holds back (10 pictures); it has no index, so players go through it more slowly.

    Raises ValueError for odd sizes; while writing, SoundError when the sound cannot be written, and av.FFmpegError for
    what else fails (an OSError when the disk is full).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        *,
        audio: SoundSource | None = None,
        fragmented: bool = False,
    ) -> None:
        if width < 2 or height < 2 or width % 2 or height % 2:
            raise ValueError(f"pictures of {width}x{height} pixels; expected even sides from 2 for yuv420p")
        self.num_frames = 0
        self._shape = (height, width, 3)
        self._audio = audio
        self._first: tuple[NDArray[np.uint8], int] | None = None  # until the second one's time tells the rate
        self._tick, self._step = -1, round(STEP_SECONDS / TIME_BASE)
        self._key_seconds = -math.inf
        self._held: Packet[Stream] | None = None
        self._is_open, self._is_broken = True, False
        # An absolute path: FFmpeg takes others for addresses at times.
        target = os.path.abspath(path)  # noqa: PTH100
        self._container = av.open(target, "w", format="mp4", options=FRAGMENTED if fragmented else WHOLE)
        self._stream: VideoStream | None = None

    def write(self, rgb: NDArray[np.uint8], time_seconds: float) -> None:
        """Add a picture `(height, width, 3) uint8`, shown from `time_seconds` on, to 1/90000 s.

        Times count from 0 and increase; one that does not is moved to 1/90000 s after the picture before. Raises
        ValueError for another shape, a negative time, or one that is no number.
        """
        if rgb.shape != self._shape or rgb.dtype != np.uint8:
            raise ValueError(f"picture {self.num_frames} is {rgb.dtype} {rgb.shape}; expected uint8 {self._shape}")
        if not (math.isfinite(time_seconds) and time_seconds >= 0):
            raise ValueError(f"picture {self.num_frames} has time {time_seconds}; expected seconds from 0")
        i420 = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), np.uint8)
        tick = max(self._tick + 1, round(time_seconds / TIME_BASE))
        if self.num_frames:
            self._step = tick - self._tick
        self._tick = tick
        self.num_frames += 1
        if self._stream is None and self._first is None:
            self._first = (i420, tick)
            return
        with self._breaking():
            if self._stream is None:
                self._begin()
            self._encode(i420, tick)

    def close(self, last_seconds: float | None = None) -> None:
        """Complete the file; closing again does nothing. After an error in writing it is only let go of.

        last_seconds: how long the last picture is shown; as long as the one before it when it is not said.
        """
        if not self._is_open:
            return
        self._is_open = False
        try:
            if not self._is_broken:
                with self._breaking():
                    self._finish(last_seconds)
        finally:
            with suppress(*((av.FFmpegError,) if self._is_broken else ())):  # the first error tells more
                self._container.close()

    def __enter__(self) -> "H264Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(*((av.FFmpegError, VideoError) if error is not None else ())):  # the first error tells more
            self.close()

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """After an error nothing more is written: FFmpeg has emptied packets that we still hold, and would crash."""
        try:
            yield
        except BaseException:
            self._is_broken = True
            raise

    def _finish(self, last_seconds: float | None) -> None:
        if self._stream is None and self._first is not None:
            self._begin()
        if self._stream is not None:
            self._mux(self._stream.encode(None))
            assert self._held is not None
            step = self._step if last_seconds is None else round(last_seconds / TIME_BASE)
            self._held.duration = max(1, step)
            self._container.mux(self._held)
            self._mux_sound(math.inf)

    def _begin(self) -> None:
        """Add the streams, now that two times tell the rate, and encode the picture that waited for it."""
        assert self._first is not None
        slowest, fastest = RATES
        rate = min(max(float(1 / (self._step * TIME_BASE)), slowest), fastest)
        stream = self._container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001), options=OPTIONS)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.height, context.width = self._shape[:2]
        context.pix_fmt = "yuv420p"
        context.thread_type, context.thread_count = "NONE", 1
        context.time_base = stream.time_base = TIME_BASE
        context.color_range, context.colorspace = ColorRange.MPEG, BT601
        if self._audio is not None:
            with _blaming_sound():
                self._audio.attach(self._container)
                self._container.start_encoding()  # writes the header, which takes no sound that MP4 does not know
        self._stream = stream
        self._encode(*self._first)
        self._first = None

    def _encode(self, i420: NDArray[np.uint8], tick: int) -> None:
        assert self._stream is not None
        picture = VideoFrame.from_ndarray(i420, format="yuv420p")
        picture.pts, picture.time_base = tick, TIME_BASE
        seconds = float(tick * TIME_BASE)
        if seconds >= self._key_seconds + KEY_FRAME_SECONDS:
            picture.pict_type, self._key_seconds = PictureType.I, seconds
        self._mux(self._stream.encode(picture))
        self._mux_sound(seconds)

    def _mux(self, packets: Iterable["Packet[Stream]"]) -> None:
        """Write packets, all but the last: its duration is known at the end."""
        for packet in packets:
            if self._held is not None:
                self._container.mux(self._held)
            self._held = packet

    def _mux_sound(self, until_seconds: float) -> None:
        if self._audio is not None:
            with _blaming_sound():
                for packet in self._audio.packets(until_seconds):
                    self._container.mux(packet)


@contextmanager
def _blaming_sound() -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        if error.errno in DISK_FULL:
            raise
        raise SoundError(f"the sound cannot be written ({one_line(error)}); leave it out, or encode it anew") from error
