"""The square in the middle of a frame that the backbone sees."""

import numpy as np

from pipeline.video.i420 import I420, i420_to_rgb, planes


def center_crop(rgb: np.ndarray, crop: int) -> np.ndarray:
    """The square in the middle of frames: (..., H, W, 3) -> (..., crop, crop, 3), a view.

    The first row is (H - crop) // 2 and the first column (W - crop) // 2, both rounded down to even numbers, where a
    pair of pixels shares its colour in 4:2:0. Raises ValueError when a frame is smaller than the crop.

    >>> center_crop(np.arange(6 * 9 * 3).reshape(6, 9, 3), 2)[0, 0] // 3  # row 2, column 2 of 9
    array([20, 20, 20])
    """
    height, width = rgb.shape[-3:-1]
    top, left = _corner(height, width, crop)
    return rgb[..., top : top + crop, left : left + crop, :]


def crop_to_rgb(i420: I420, crop: int, out: np.ndarray) -> None:
    """Write center_crop(i420_to_rgb(i420), crop) into `out` (crop, crop, 3) uint8, converting nothing besides."""
    height, width = i420.shape[0] * 2 // 3, i420.shape[1]
    top, left = _corner(height, width, crop)
    side = crop + crop % 2  # an odd crop is cut from the next even one, which fits since frames have even sides
    square = np.empty((side * 3 // 2, side), np.uint8)
    for source, target, step in zip(planes(i420), planes(square), (1, 2, 2), strict=True):
        rows, columns = slice(top // step, (top + side) // step), slice(left // step, (left + side) // step)
        target[...] = source[rows, columns]
    if side == crop:
        i420_to_rgb(square, out)
    else:
        out[...] = i420_to_rgb(square)[:crop, :crop]


def _corner(height: int, width: int, crop: int) -> tuple[int, int]:
    if crop > min(height, width):
        raise ValueError(f"frame of {width}x{height} pixels; expected at least {crop}x{crop}, the crop")
    return (height - crop) // 2 // 2 * 2, (width - crop) // 2 // 2 * 2
