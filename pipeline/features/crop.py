"""The squares of a frame that the backbone sees: the one in the middle, or ten.

Of ten the centre comes first, then the corners (top left, top right, bottom left, bottom right), then the same five
mirrored: the ten crops that LRCN is tested on (Donahue et al. 2015; Krizhevsky et al. 2012, section 4.1).
"""

import numpy as np

from pipeline.video.changes import Picture
from pipeline.video.flow import FlowFrame, mirror
from pipeline.video.i420 import I420, i420_to_rgb, planes
from pipeline.video.reader import Frame

NUM_PLACES = 5  # crop k and crop k + NUM_PLACES are one square and its mirror image


def center_crop(images: np.ndarray, crop: int) -> np.ndarray:
    """The square in the middle of frames: (..., H, W, 3) -> (..., crop, crop, 3), a view.

    The first row is (H - crop) // 2 and the first column (W - crop) // 2, both rounded down to even numbers, where a
    pair of pixels shares its colour in 4:2:0. Raises ValueError when a frame is smaller than the crop.

    >>> center_crop(np.arange(6 * 9 * 3).reshape(6, 9, 3), 2)[0, 0] // 3  # row 2, column 2 of 9
    array([20, 20, 20])
    """
    return _square(images, crop, 0)


def crop_of_frame(frame: Frame | Picture | FlowFrame, crop: int, number: int, out: np.ndarray) -> None:
    """Write crop `number` (0 to 9) of a frame, RGB or flow, into `out` (crop, crop, 3) uint8."""
    if isinstance(frame, FlowFrame):
        out[...] = _square(frame.image, crop, number % NUM_PLACES)
    elif isinstance(frame, Picture):
        out[...] = _square(frame.rgb, crop, number % NUM_PLACES)
    else:
        crop_to_rgb(frame.i420, crop, out, number % NUM_PLACES)
    if number >= NUM_PLACES:
        out[...] = mirror(out.copy(), isinstance(frame, FlowFrame))


def crop_to_rgb(i420: I420, crop: int, out: np.ndarray, place: int = 0) -> None:
    """Write the square at `place` (0 to 4) of i420_to_rgb(i420) into `out` (crop, crop, 3) uint8.

    Nothing besides is converted: a square begins at even pixels, so its bits are those of the converted whole.
    """
    square = i420_square(i420, crop, place)
    if square.shape[1] == crop:
        i420_to_rgb(square, out)
    else:
        out[...] = i420_to_rgb(square)[:crop, :crop]


def i420_square(i420: I420, crop: int, place: int = 0) -> I420:
    """The square at `place` of a frame, as a frame of its own with even sides, in which the crop is at place 0 again.

    Raises ValueError when the frame is smaller than the crop.
    """
    height, width = i420.shape[0] * 2 // 3, i420.shape[1]
    top, left = _corner(height, width, crop, place)
    side = crop + crop % 2  # an odd crop is cut from the next even one, which fits since frames have even sides
    square = np.empty((side * 3 // 2, side), np.uint8)
    for source, target, step in zip(planes(i420), planes(square), (1, 2, 2), strict=True):
        rows, columns = slice(top // step, (top + side) // step), slice(left // step, (left + side) // step)
        target[...] = source[rows, columns]
    return square


def _square(images: np.ndarray, crop: int, place: int) -> np.ndarray:
    height, width = images.shape[-3:-1]
    top, left = _corner(height, width, crop, place)
    return images[..., top : top + crop, left : left + crop, :]


def _corner(height: int, width: int, crop: int, place: int) -> tuple[int, int]:
    """First row and column, both even, of the square at a place: centre, top left and right, bottom left and right."""
    if crop > min(height, width):
        raise ValueError(f"frame of {width}x{height} pixels; expected at least {crop}x{crop}, the crop")
    low, right = (height - crop) // 2 * 2, (width - crop) // 2 * 2
    middle = (height - crop) // 2 // 2 * 2, (width - crop) // 2 // 2 * 2
    return (middle, (0, 0), (0, right), (low, 0), (low, right))[place]
