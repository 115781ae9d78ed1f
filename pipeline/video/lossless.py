"""Frames to and from lossless H.264 in Matroska: every byte comes back, and any player shows the file."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from io import BufferedReader
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from pipeline.video.i420 import I420, copy_planes

# Quantiser 0 is lossless. Presets slower than this one save a tenth of the bytes and cost several times the time.
OPTIONS = {"qp": "0", "preset": "ultrafast"}
# Matroska keeps milliseconds; exact times are kept by whoever writes the file.
TIME_BASE = Fraction(1, 1000)
BT601 = 6  # AVCOL_SPC_SMPTE170M, so that players show the right colours


def write_lossless(path: Path, frames: Iterable[tuple[float, I420]]) -> tuple[int, int, int]:
    """Write frames to a file, one after the other as they come; equal frames and times give equal bytes.

    frames: (time in seconds, `(H * 3 // 2, W) uint8`), all of one size with both sides even, times increasing.
    Returns the number of frames, the width and the height. Raises ValueError when there is no frame, or one that does
    not fit; whatever `frames` raises passes through. What was written until then stays under `path`.
    """
    frames = iter(frames)
    first = list(islice(frames, 2))
    if not first:
        raise ValueError("no frames to write; expected at least one")
    shape = first[0][1].shape
    if len(shape) != 2 or shape[0] % 3 or shape[1] % 2 or shape[0] * 2 // 3 % 2:
        raise ValueError(f"a frame has shape {shape}; expected (height * 3 // 2, width) with both even")
    height, width = shape[0] * 2 // 3, shape[1]
    step = first[1][0] - first[0][0] if len(first) > 1 else 1.0
    num_frames, tick = 0, -1
    # bitexact: no date, no random identifiers. An absolute path: FFmpeg takes others for addresses at times.
    with av.open(os.path.abspath(path), "w", format="matroska", options={"fflags": "+bitexact"}) as container:  # noqa: PTH100
        stream = container.add_stream("libx264", rate=Fraction(1 / max(step, 0.001)).limit_denominator(1001))
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.options = OPTIONS
        context.thread_type = "NONE"
        context.thread_count = 1
        context.time_base = TIME_BASE
        context.color_range, context.colorspace = ColorRange.MPEG, BT601
        for seconds, i420 in chain(first, frames):
            if i420.shape != shape or i420.dtype != np.uint8:
                raise ValueError(
                    f"frame {num_frames} is {i420.dtype} {i420.shape}; expected uint8 {shape} like the first"
                )
            picture = av.VideoFrame.from_ndarray(i420, format="yuv420p")
            tick = max(tick + 1, round(seconds / TIME_BASE))
            picture.pts, picture.time_base = tick, TIME_BASE
            container.mux(stream.encode(picture))
            num_frames += 1
        container.mux(stream.encode(None))
    return num_frames, width, height


def read_lossless(file: BufferedReader) -> Iterator[I420]:
    """Frames of such a file, open at its beginning, in order, `(H * 3 // 2, W) uint8` each.

    Raises av.FFmpegError or IndexError for a file that is not one.
    """
    with av.open(file, "r", options={"format_whitelist": "matroska"}) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for picture in container.decode(stream):
            yield copy_planes(picture)
