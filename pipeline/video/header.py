"""What a video file states about itself, read without decoding it."""

import os
from dataclasses import dataclass
from pathlib import Path

import av

from pipeline.errors import RejectedVideo
from pipeline.video.limits import Limits
from pipeline.video.orientation import Orientation, read_orientation
from pipeline.video.source import Source, one_line, open_source

# Packets tried for a first picture, which alone tells the rotation. (PyAV does not show the stream's display matrix.)
MAX_PACKETS = 100


@dataclass(frozen=True)
class VideoHeader:
    """What the container states. All of it may be wrong; only a decoding pass knows.

    width, height: pixels, upright; 0 when not stated. rotation_degrees: clockwise turn that makes it upright.
    num_frames_header: 0 when not stated. bit_rate: of the whole file, bits per second, 0 when unknown.
    """

    codec: str
    pixel_format: str
    width: int
    height: int
    rotation_degrees: int
    fps_header: float | None
    duration_seconds_header: float | None
    num_frames_header: int
    has_audio: bool
    bit_rate: int


def read_header(path: str | os.PathLike[str], limits: Limits = Limits()) -> VideoHeader:  # noqa: B008 - frozen
    """Read what a file states about its video: its first picture at most is decoded.

    Raises RejectedVideo, with the reason alone, for a file that is no video or holds no video data. A file whose video
    data cannot be decoded passes: that is for the decoding pass to find.
    """
    try:
        with open_source(Path(path), limits) as source:
            return _read(source)
    except RejectedVideo:
        raise
    except Exception as error:  # broken files raise anything
        raise RejectedVideo(f"cannot be read: {one_line(error)}") from error


def _read(source: Source) -> VideoHeader:
    container, stream = source.container, source.stream
    rate = stream.average_rate or stream.guessed_rate
    duration = None
    if stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    elif container.duration:
        duration = container.duration / av.time_base
    orientation = _first_orientation(source)
    context = stream.codec_context
    width, height = orientation.upright(context.width, context.height)
    return VideoHeader(
        codec=source.codec,
        pixel_format=context.pix_fmt or "",
        width=width,
        height=height,
        rotation_degrees=orientation.rotation_degrees,
        fps_header=float(rate) if rate else None,
        duration_seconds_header=duration,
        num_frames_header=stream.frames,
        has_audio=bool(container.streams.audio),
        bit_rate=container.bit_rate or 0,
    )


def _first_orientation(source: Source) -> Orientation:
    num_packets = 0
    for packet in source.container.demux(source.stream):
        num_packets += packet.size > 0
        try:
            pictures = packet.decode()
        except Exception:  # noqa: BLE001 - a packet that cannot be decoded says nothing about the header
            pictures = []
        if pictures:
            return read_orientation(pictures[0])[0]
        if num_packets >= MAX_PACKETS:
            break
    if not num_packets:
        raise RejectedVideo("no video data follows the header: cut off?")
    return Orientation()
