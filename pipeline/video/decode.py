"""One pass over a video file: every frame in order, by one thread, and a verdict at the end."""

import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.errors import RejectedVideo
from pipeline.video.clock import Clock
from pipeline.video.orientation import Orientation, read_orientation
from pipeline.video.packets import PacketReader
from pipeline.video.source import Source, check_size, one_line, open_source, read_state
from pipeline.video.verdict import Findings, Verdict, judge

# Raw sensor data. No player shows it, and swscale aborts the whole process on such a picture 1 pixel high.
UNREADABLE_PIXELS = "bayer_"


class DecodedFrame(NamedTuple):
    """A decoded picture, its time in seconds from the first one shown, and its own duration (None when unknown)."""

    picture: VideoFrame
    time_seconds: float
    duration_seconds: float | None


class Decoder:
    """Iterating decodes the file once, from its first packet to its last.

    Raises RejectedVideo, with the reason, when no usable frame comes out. A damaged file gives the frames that can be
    read, and the verdict says so. Nothing is kept: apart from the codec's own, only the picture handed out is alive.

    verdict: None until the iteration has ended. orientation: that of the first frame, for all.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._found = Findings()
        self._clock = Clock(Fraction(1), None)
        self._sizes: set[tuple[int, int]] = set()
        self._first_rotation = 0
        self.orientation = Orientation()
        self.verdict: Verdict | None = None

    @property
    def steps_seconds(self) -> list[float]:
        """Times from each frame to the next."""
        return list(self._clock.steps_seconds)

    def __iter__(self) -> Iterator[DecodedFrame]:
        self._found = Findings()
        self._sizes = set()
        self.verdict = None
        try:
            before = read_state(self._path)
            with open_source(self._path) as source:
                yield from self._decode(source)
            if read_state(self._path) != before:
                raise RejectedVideo("changed while it was read: still being written?")
        except RejectedVideo as error:
            self.reject(str(error))
            raise
        except Exception as error:  # whatever a broken file does, it ends as a verdict on that file
            raise self.reject(f"cannot be decoded: {one_line(error)}") from error
        self.verdict = judge(self._found)
        if self.verdict.status == "rejected":
            raise RejectedVideo(self.verdict.reason)

    def reject(self, reason: str) -> RejectedVideo:
        """Make the verdict `rejected`, for the given reason; the error to be raised comes back."""
        self.verdict = replace(judge(self._found), status="rejected", reason=reason)
        return RejectedVideo(reason)

    def _decode(self, source: Source) -> Iterator[DecodedFrame]:
        found, stream = self._found, source.stream
        packets = PacketReader(source, found)
        self._clock = Clock(stream.time_base or Fraction(1), stream.guessed_rate or stream.average_rate)
        for packet in packets:
            try:
                pictures = stream.codec_context.decode(packet)
            except Exception as error:  # noqa: BLE001 - a bad packet costs its own frames, not those after it
                found.num_packets_failed += 1
                found.last_error = one_line(error)
            else:
                yield from self._examine_all(pictures, stream)
        try:
            pictures = stream.codec_context.decode(None)
        except Exception as error:  # noqa: BLE001 - as above
            found.faults.append(f"the last frames cannot be decoded ({one_line(error)})")
        else:
            yield from self._examine_all(pictures, stream)
        self._sum_up()

    def _examine_all(self, pictures: list[VideoFrame], stream: VideoStream) -> Iterator[DecodedFrame]:
        pictures.reverse()
        while pictures:
            picture = pictures.pop()
            self._examine(picture)
            time = self._clock.tick(picture.pts)
            if time is not None:
                duration = float(picture.duration * stream.time_base) if picture.duration and stream.time_base else None
                yield DecodedFrame(picture, time, duration)

    def _examine(self, picture: VideoFrame) -> None:
        found = self._found
        check_size(picture.width, picture.height)
        if picture.format.name.startswith(UNREADABLE_PIXELS):
            raise RejectedVideo(f"pixel format {picture.format.name} (raw sensor data) is not read")
        if not found.num_frames:
            self.orientation, note = read_orientation(picture)
            self._first_rotation = picture.rotation
            found.width, found.height = self.orientation.upright(picture.width, picture.height)
            found.rotation_degrees = self.orientation.rotation_degrees
            found.pixel_format = picture.format.name
            found.notes += [note] if note else []
        elif picture.rotation != self._first_rotation:
            note = "rotation changes on the way: that of the first frame is taken for all"
            found.notes += [note] if note not in found.notes else []
        self._sizes.add((picture.width, picture.height))
        found.num_frames += 1
        found.num_frames_corrupt += picture.is_corrupt
        found.num_frames_interlaced += picture.interlaced_frame

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
