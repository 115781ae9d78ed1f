"""A video drawn over: every picture of a file, with its time and its sound, into an MP4 that browsers play."""

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RejectedVideo, SoundError
from pipeline.video.clock import FALLBACK_FPS
from pipeline.video.convert import Converter
from pipeline.video.decode import DecodedFrame, Decoder
from pipeline.video.encode import H264Writer
from pipeline.video.i420 import i420_to_rgb
from pipeline.video.limits import Limits
from pipeline.video.sound import Sound
from pipeline.video.source import one_line, open_source

Draw = Callable[[NDArray[np.uint8], float], None]

LONGEST_SIDE = 1280  # pixels
BELIEVABLE_ASPECT = (Fraction(1, 4), Fraction(4))  # of a pixel


def draw_over(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    draw: Draw,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    *,
    longest_side: int = LONGEST_SIDE,
    progress: Callable[[], None] = lambda: None,
) -> list[str]:
    """Decode a file, draw on each picture, and write what comes of it to `target`, in place, as MP4.

    Pictures are those of the Decoder, upright, at its times, which count from the first of them; of the size that
    `overlay_size` says. The sound keeps its place beside them. A damaged file gives what can be read of it.

    draw: told of a picture `(H, W, 3) uint8`, to be written to, and its time in seconds. progress: called for every
    picture and every packet of sound. Returns what is to be said about the sound. Raises RejectedVideo when the file
    has no usable picture, and av.FFmpegError or OSError when `target` cannot be written.
    """
    with suppress(SoundError):
        return _draw_over(path, target, draw, limits, longest_side, progress, "copied")
    with suppress(SoundError):  # packets may be so broken that MP4 does not take them
        return _draw_over(path, target, draw, limits, longest_side, progress, "encoded")
    return _draw_over(path, target, draw, limits, longest_side, progress, "left out")


def _draw_over(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    draw: Draw,
    limits: Limits,
    longest_side: int,
    progress: Callable[[], None],
    sound_is: Literal["copied", "encoded", "left out"],
) -> list[str]:
    decoder = Decoder(path, limits)
    with ExitStack() as stack:
        writer: H264Writer | None = None
        sound: Sound | None = None
        frame: DecodedFrame | None = None
        for frame in decoder:
            if writer is None:
                source = stack.enter_context(open_source(Path(path), limits))
                if sound_is != "left out":
                    # By this the clock of the pictures is ahead of the time stamps; a raw stream has none.
                    stamp = frame.picture.time
                    origin = 0.0 if stamp is None else stamp - frame.time_seconds
                    sound = Sound(source, origin, progress, may_copy=sound_is == "copied")
                aspect = source.stream.codec_context.sample_aspect_ratio or Fraction(1)
                upright = decoder.orientation.upright(frame.picture.width, frame.picture.height)
                size = overlay_size(*upright, 1 / aspect if decoder.orientation.transposed else aspect, longest_side)
                converter = Converter(decoder.orientation, size)
                writer = stack.enter_context(H264Writer(target, *size, audio=sound))
            try:
                rgb = i420_to_rgb(converter.convert(frame.picture))
            except Exception as error:  # whatever swscale raises
                raise RejectedVideo(f"frame at {frame.time_seconds:.3f} s: {one_line(error)}") from error
            draw(rgb, frame.time_seconds)
            writer.write(rgb, frame.time_seconds)
            progress()
        assert writer is not None  # the decoder raises RejectedVideo when there is no frame
        assert frame is not None
        writer.close(decoder.last_frame_duration(frame.picture, float(FALLBACK_FPS)))
        return ["sound left out: it cannot be written"] if sound is None else sound.notes


def overlay_size(
    width: int, height: int, pixel_aspect: Fraction = Fraction(1), longest_side: int = LONGEST_SIDE
) -> tuple[int, int]:
    """Width and height of the overlay of an upright picture: even, pixels square, the longer side at most as said.

    >>> overlay_size(1920, 1080), overlay_size(95, 55), overlay_size(720, 576, Fraction(16, 15))
    ((1280, 720), (96, 56), (768, 576))
    """
    least, most = BELIEVABLE_ASPECT
    exact_width = width * (pixel_aspect if least <= pixel_aspect <= most else Fraction(1))
    scale = min(Fraction(1), Fraction(longest_side) / max(exact_width, Fraction(height)))
    even_width, even_height = (max(2, 2 * int(side * scale / 2 + Fraction(1, 2))) for side in (exact_width, height))
    return even_width, even_height
