"""The one pixel layout of the pipeline: I420, planar YUV 4:2:0 in one array, BT.601, limited range."""

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

I420 = NDArray[np.uint8]

# OpenCV would split one picture among all cores, in each of several threads that convert pictures side by side.
cv2.setNumThreads(1)


def planes(i420: I420) -> tuple[I420, I420, I420]:
    """Views of Y `(H, W)`, U and V `(H // 2, W // 2)` of a contiguous `(H * 3 // 2, W) uint8` frame, H and W even."""
    width, height = i420.shape[1], i420.shape[0] * 2 // 3
    flat = i420.reshape(-1)
    luma, chroma = width * height, width * height // 4
    half = (height // 2, width // 2)
    return (
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(half),
        flat[luma + chroma :].reshape(half),
    )


def copy_planes(frame: VideoFrame) -> I420:
    """A yuv420p frame with even sides as `(H * 3 // 2, W) uint8` on memory of its own."""
    i420 = np.empty((frame.height * 3 // 2, frame.width), np.uint8)
    for source, target in zip(frame.planes, planes(i420), strict=True):
        rows = np.frombuffer(memoryview(source), np.uint8).reshape(-1, source.line_size)
        target[...] = rows[: target.shape[0], : target.shape[1]]
    return i420


def i420_to_rgb(i420: I420, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Turn a frame `(H * 3 // 2, W) uint8` into RGB `(H, W, 3) uint8`: the one way colour is made in this project.

    out: a contiguous array of that shape to write to.

    OpenCV's fixed-point conversion: BT.601 matrix, limited range (16 to 235 becomes 0 to 255), each chroma sample
    repeated over its 2x2 pixels. The same integers on every machine.
    """
    return np.asarray(cv2.cvtColor(i420, cv2.COLOR_YUV2RGB_I420, dst=out), np.uint8)
