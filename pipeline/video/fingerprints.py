"""What a video's pictures look like, in little: perceptual hashes and thumbnails, to find copies by.

The hash is the 64-bit DCT hash of Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions",
section 3.2.1: luma at 32x32, the 8x8 lowest frequencies without the constant ones, a bit for each above their median.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.video.i420 import planes
from pipeline.video.reader import Frame

SIDE = 32  # pixels of a thumbnail
THUMBNAILS_PER_SECOND = 4
THUMBNAILS_PER_HASH = 2
# Grey levels of deviation over a thumbnail. The hash of a black or plain picture is that of its noise.
FLAT = 4.0
BLACK, WHITE = 16, 235  # luma of limited range


@dataclass(frozen=True)
class Fingerprint:
    """Of one video: hashes (N,) uint64 of its pictures, and of these mirrored left to right.

    thumbnails: (T, 32, 32) uint8 luma, four a second and no flat ones; every second of them is hashed. brightness: mean
    luma of all stored frames, from 0 (black) to 255 (white); None without a frame.
    """

    hashes: NDArray[np.uint64]
    mirrored: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    brightness: float | None


def fingerprint(frames: Iterable[Frame]) -> Fingerprint:
    """Look at each frame once; none is kept."""
    thumbnails: list[NDArray[np.uint8]] = []
    sums, count, due = 0.0, 0, -1
    for frame in frames:
        luma = planes(frame.i420)[0]
        sums, count = sums + cv2.mean(luma)[0], count + 1
        place = int(frame.time_seconds * THUMBNAILS_PER_SECOND + 1e-6)
        if place > due:
            due = place
            thumbnail = np.asarray(cv2.resize(luma, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
            if thumbnail.std() >= FLAT:
                thumbnails.append(thumbnail)
    stacked = np.array(thumbnails, np.uint8).reshape(-1, SIDE, SIDE)
    brightness = (sums / count - BLACK) * 255 / (WHITE - BLACK) if count else None
    hashes, mirrored = dct_hashes(stacked[::THUMBNAILS_PER_HASH])
    return Fingerprint(hashes, mirrored, stacked, brightness)


def dct_hashes(thumbnails: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Hashes (N,) of (N, 32, 32) thumbnails as they are, and mirrored left to right: odd frequencies change their sign.

    32 of the 64 bits are set, so that two hashes differ in an even number of bits.
    """
    lowest = np.array([cv2.dct(thumbnail.astype(np.float32))[1:9, 1:9] for thumbnail in thumbnails])
    lowest = lowest.reshape(-1, 8, 8)
    flipped = lowest.copy()
    flipped[:, :, 0::2] *= -1  # the columns are the horizontal frequencies 1 to 8
    return _bits(lowest), _bits(flipped)


def _bits(frequencies: NDArray[np.float32]) -> NDArray[np.uint64]:
    values = frequencies.reshape(-1, 64)
    above = values > np.median(values, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8").astype(np.uint64).reshape(-1)
