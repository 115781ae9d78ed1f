"""One pass over a video file: every frame in order, by one thread, and a verdict at the end."""

import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from av.video.frame import VideoFrame

from pipeline.errors import RejectedVideo
from pipeline.video.clock import Clock
from pipeline.video.limits import Limits
from pipeline.video.orientation import Orientation, read_orientation
from pipeline.video.packets import PacketReader
from pipeline.video.sampling import last_frame_duration
from pipeline.video.source import OUT_OF_MEMORY, Source, check_size, one_line, open_source, read_state
from pipeline.video.verdict import Findings, Verdict, judge

# Raw sensor data. No player shows it, and swscale aborts the whole process on such a picture 1 pixel high.
UNREADABLE_PIXELS = "bayer_"


class DecodedFrame(NamedTuple):
    """A decoded picture, its time in seconds from the first one shown, and when it was there (time.monotonic)."""

    picture: VideoFrame
    time_seconds: float
    arrived_seconds: float = 0.0  # of live sources, see pipeline.video.live


class Decoder:
    """Iterating decodes the file once, from its first packet to its last.

    Raises RejectedVideo, with the reason, when no usable frame comes out. A damaged file gives the frames that can be
    read, and the verdict says so. Nothing is kept: apart from the codec's own, only the picture handed out is alive.

    verdict: None until the iteration has ended. orientation: that of the first frame, for all.
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self._path = Path(path)
        self._limits = limits
        self._found = Findings()
        self._clock = Clock(Fraction(1), None)
        self._time_base = Fraction(1)
        self._sizes: set[tuple[int, int]] = set()
        self._num_pixels = 0
        self._first_rotation = 0
        self.orientation = Orientation()
        self.verdict: Verdict | None = None

    def last_frame_duration(self, picture: VideoFrame, fps: float) -> float:
        """How long the last picture lasts, in seconds; see `pipeline.video.sampling`."""
        own = float(picture.duration * self._time_base) if picture.duration else None
        return last_frame_duration(own, self._clock.median_step_seconds, self._clock.longest_step_seconds, fps)

    def __iter__(self) -> Iterator[DecodedFrame]:
        self._found = Findings(pixel_limit=self._limits.pixels_per_frame)
        self._sizes = set()
        self._num_pixels = 0
        self.verdict = None
        try:
            before = read_state(self._path)
            with open_source(self._path, self._limits) as source:
                yield from self._decode(source)
            if read_state(self._path) != before:
                raise RejectedVideo("changed while it was read: still being written?", is_transient=True)
        except RejectedVideo as error:
            self.reject(str(error), error.is_transient)
            raise
        except Exception as error:  # whatever a broken file does, it ends as a verdict on that file
            transient = isinstance(error, MemoryError)
            raise self.reject(f"cannot be decoded: {one_line(error)}", transient) from error
        self.verdict = judge(self._found)
        if self.verdict.status == "rejected":
            raise RejectedVideo(self.verdict.reason)

    def reject(self, reason: str, is_transient: bool = False) -> RejectedVideo:
        """Make the verdict `rejected`, for the given reason; the error to be raised comes back."""
        self.verdict = replace(judge(self._found), status="rejected", reason=reason, is_transient=is_transient)
        return RejectedVideo(reason, is_transient)

    def _decode(self, source: Source) -> Iterator[DecodedFrame]:
        found, stream = self._found, source.stream
        packets = PacketReader(source, found)
        self._time_base = stream.time_base or Fraction(1)
        self._clock = Clock(self._time_base, stream.guessed_rate or stream.average_rate)
        decode, tick = stream.codec_context.decode, self._clock.tick
        for packet in chain(packets, [None]):  # None: the pictures that the codec still holds
            try:
                pictures = decode(packet)
            except MemoryError as error:
                raise RejectedVideo(OUT_OF_MEMORY, is_transient=True) from error
            except Exception as error:  # noqa: BLE001 - a bad packet costs its own frames, not those after it
                if packet is None:
                    found.faults.append(f"the last frames cannot be decoded ({one_line(error)})")
                found.num_packets_failed += packet is not None
                found.last_error = one_line(error)
                continue
            pictures.reverse()
            while pictures:
                picture = pictures.pop()
                self._examine(picture)
                time = tick(picture.pts)
                if time is not None:
                    yield DecodedFrame(picture, time)
        self._sum_up()

    def _examine(self, picture: VideoFrame) -> None:
        found, size = self._found, (picture.width, picture.height)
        if size not in self._sizes:
            check_size(*size, self._limits)
            self._sizes.add(size)
        self._num_pixels += size[0] * size[1]
        if self._num_pixels > self._limits.pixels_per_file:
            reason = f"more than {self._limits.pixels_per_file} pixels in all: above the limit for one file"
            raise RejectedVideo(reason, is_transient=True)
        if picture.format.name.startswith(UNREADABLE_PIXELS):
            raise RejectedVideo(f"pixel format {picture.format.name} (raw sensor data) is not read")
        if not found.num_frames:
            self._examine_first(picture)
        elif picture.rotation != self._first_rotation:
            note = "rotation changes on the way: that of the first frame is taken for all"
            found.notes += [note] if note not in found.notes else []
        found.num_frames += 1
        found.num_frames_corrupt += picture.is_corrupt
        found.num_frames_interlaced += picture.interlaced_frame

    def _examine_first(self, picture: VideoFrame) -> None:
        found = self._found
        self.orientation, note = read_orientation(picture)
        self._first_rotation = picture.rotation
        found.width, found.height = self.orientation.upright(picture.width, picture.height)
        found.rotation_degrees = self.orientation.rotation_degrees
        found.pixel_format = picture.format.name
        found.notes += [note] if note else []

    def _sum_up(self) -> None:
        found, clock = self._found, self._clock
        found.num_frames_unstamped = clock.num_unstamped
        found.num_frames_repeated = clock.num_repeated
        found.num_frames_unbelieved = clock.num_unbelieved
        found.largest_return_seconds = clock.largest_return_seconds
        found.num_gaps = clock.count_gaps()
        found.median_step_seconds = clock.median_step_seconds
        found.first_pts_seconds = clock.first_pts_seconds
        found.duration_seconds = clock.duration_seconds if found.num_frames else None
        if len(self._sizes) > 1:
            sizes = ", ".join(f"{width}x{height}" for width, height in sorted(self._sizes))
            found.notes.append(f"picture size changes on the way ({sizes}): all are scaled to the first")
