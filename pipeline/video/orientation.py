"""How a stored picture has to be turned and mirrored to stand upright."""

import struct
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.video.i420 import I420, planes

# Entries of a display matrix below this share of the others are rounding errors.
NEGLIGIBLE_SHARE = 0.01


@dataclass(frozen=True)
class Orientation:
    """Swap rows and columns (or not), then mirror left-right, then up-down; all False: leave the picture alone."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    @property
    def rotation_degrees(self) -> int:
        """Clockwise turn. A mirrored picture is flipped after it: left-right after 90, 270, up-down after 0, 180."""
        if self.transposed:
            return 270 if self.mirrored_y else 90
        return 180 if self.mirrored_x else 0

    @property
    def is_mirrored(self) -> bool:
        """Whether the picture is flipped as well as turned."""
        # A transposition alone is a mirroring; each flip adds one, and two cancel out.
        return self.transposed ^ self.mirrored_x ^ self.mirrored_y

    def upright(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after the turn; the same call leads back."""
        return (height, width) if self.transposed else (width, height)

    def apply(self, i420: I420) -> I420:
        """Turn a frame `(H * 3 // 2, W) uint8`, both sides even. One that stands upright comes back itself."""
        if self == Orientation():
            return i420
        width, height = self.upright(i420.shape[1], i420.shape[0] * 2 // 3)
        turned = np.empty((height * 3 // 2, width), np.uint8)
        for source, target in zip(planes(i420), planes(turned), strict=True):
            plane = source.T if self.transposed else source
            target[...] = plane[:: -1 if self.mirrored_y else 1, :: -1 if self.mirrored_x else 1]
        return turned


def read_orientation(frame: VideoFrame) -> tuple[Orientation, str]:
    """The orientation that a decoded frame asks for, and a note, "" when there is nothing odd about it.

    The display matrix (ISO/IEC 14496-12, 8.3.2) sends a point (x, y) to (a x + c y, b x + d y). Quarter turns and
    mirrorings are followed, as players do; of any other matrix only the note remains.
    """
    try:
        # A frame whose side data was asked for holds itself in a reference cycle, with its whole picture; so a tiny
        # copy is asked, which carries the same side data.
        tiny = VideoReformatter().reformat(frame, width=16, height=16, format="gray", interpolation=Interpolation.POINT)
        matrix = tiny.side_data.get("DISPLAYMATRIX")
    except (av.FFmpegError, OSError, ValueError):
        # Pixels that swscale cannot read, or side data of a kind that PyAV 18 has no name for: the angle is left.
        return _from_angle(frame.rotation)
    if matrix is None:
        return Orientation(), ""
    a, b, _, c, d = struct.unpack("=5i", bytes(cast(SideData, matrix))[:20])
    return _from_matrix(a, b, c, d)


def _from_matrix(a: int, b: int, c: int, d: int) -> tuple[Orientation, str]:
    straight, crossed = abs(a) + abs(d), abs(b) + abs(c)
    if a and d and crossed <= NEGLIGIBLE_SHARE * straight:
        orientation = Orientation(False, mirrored_x=a < 0, mirrored_y=d < 0)
    elif b and c and straight <= NEGLIGIBLE_SHARE * crossed:
        orientation = Orientation(True, mirrored_x=c < 0, mirrored_y=b < 0)
    else:
        return Orientation(), "display matrix is no quarter turn: not applied"
    return orientation, "display matrix mirrors the picture" if orientation.is_mirrored else ""


def _from_angle(counterclockwise_degrees: int) -> tuple[Orientation, str]:
    turns = {
        0: Orientation(),
        90: Orientation(True, mirrored_x=True),
        180: Orientation(False, mirrored_x=True, mirrored_y=True),
        270: Orientation(True, mirrored_y=True),
    }
    degrees = -counterclockwise_degrees % 360
    note = "" if degrees in turns else "display matrix is no quarter turn: not applied"
    return turns.get(degrees, Orientation()), note
