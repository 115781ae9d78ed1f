"""From decoded pictures of any size and pixel format to upright I420 frames of one size."""

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from pipeline.video.i420 import I420, copy_planes
from pipeline.video.orientation import Orientation

# Exact rounding and no processor-dependent shortcuts: the same bytes on every x86-64 machine, at the same speed.
AREA = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT

# The aspect ratio is kept up to this; a 16x4096 picture would otherwise grow to 256x65536. Squeezed beyond.
LONGEST_ASPECT = 16
# Of H.264, in which frames are stored.
LONGEST_SIDE = 16384
# swscale resizes to widths that are a multiple of 16 a quarter faster (its AVX2 code asks for them).
FAST_WIDTH = 16
LARGEST_STRETCH = 0.01
# Planes above this have left the processor's nearest caches by the time they are resized.
FAR_BYTES = 2**19
CACHE_LINE_BYTES = 64

# Colour matrices that swscale can read (AVColorSpace): RGB, BT.709, unspecified, FCC, BT.470BG, SMPTE 170M, 240M,
# BT.2020 with non-constant luminance. The constant-luminance one is read as its neighbour; the rest as unspecified.
READABLE_COLORSPACES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
BT2020_CONSTANT_LUMINANCE, BT2020 = 10, 9
UNSPECIFIED_COLORSPACE = 2
READABLE_RANGES = frozenset({0, 1, 2})
UNSPECIFIED_RANGE = 0


def output_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height of the frames made from an upright picture: the shorter side is `short_side`, both are even.

    The longer side follows from the aspect ratio, rounded to a multiple of 16 where that stretches the picture by no
    more than 1 %, else to an even number.

    >>> output_size(1280, 720, short_side=224), output_size(320, 240, short_side=224)
    ((400, 224), (298, 224))
    >>> output_size(90, 160, short_side=64), output_size(1, 99, short_side=64)
    ((64, 114), (64, 1024))
    """
    shorter, longer = sorted((width, height))
    exact = short_side * longer / shorter
    fast, even = (step * int(exact / step + 0.5) for step in (FAST_WIDTH, 2))  # rounded half up
    rounded = fast if abs(fast - exact) <= LARGEST_STRETCH * exact else even
    long_side = max(min(rounded, LONGEST_ASPECT * short_side, LONGEST_SIDE), short_side)
    return (short_side, long_side) if width <= height else (long_side, short_side)


class Converter:
    """Resizes the frames of one video by area averaging; pixel aspect is not applied.

    The first frame fixes the size of all: a stream that changes its size is scaled to it. The colour matrix and range
    are those that the frame states and become BT.601, limited range; where it states none, swscale takes it for
    BT.601, limited, whatever the size. Alpha is dropped.
    """

    def __init__(self, orientation: Orientation, size: tuple[int, int]) -> None:
        """Take the orientation, and width and height of the upright frames to be made, both even; see output_size."""
        self._orientation = orientation
        self._width, self._height = orientation.upright(*size)
        self._reformatter = VideoReformatter()

    def try_convert(self, frame: VideoFrame) -> I420 | None:
        """The same, None when it fails."""
        try:
            return self.convert(frame)
        except Exception:  # noqa: BLE001 - a picture that is needed is converted again, and then it counts
            return None

    def convert(self, frame: VideoFrame) -> I420:
        """The frame as `(H * 3 // 2, W) uint8`, upright, on memory of its own.

        Raises whatever swscale raises for pixels it cannot read.
        """
        if frame.colorspace not in READABLE_COLORSPACES:
            known = frame.colorspace == BT2020_CONSTANT_LUMINANCE
            frame.colorspace = BT2020 if known else UNSPECIFIED_COLORSPACE
        if frame.color_range not in READABLE_RANGES:
            frame.color_range = UNSPECIFIED_RANGE
        fetch(frame)
        resized = self._reformatter.reformat(
            frame,
            width=self._width,
            height=self._height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation=AREA,
            threads=1,
        )
        return self._orientation.apply(copy_planes(resized))


def fetch(frame: VideoFrame) -> None:
    """Read a large picture once, a byte of each cache line, in the order in which it lies in memory.

    swscale's own order makes it wait for memory: resizing 1080p takes a quarter less after this, 720p a twentieth.
    """
    for plane in frame.planes:
        if plane.buffer_size > FAR_BYTES:
            np.frombuffer(memoryview(plane), np.uint8)[::CACHE_LINE_BYTES].max()
