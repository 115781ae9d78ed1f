"""Dense optical flow between the frames of a view, as pictures that a CNN takes: the second stream.

The flow at a timestep is the displacement from the picture before to this one, in pixels of the stored frames: between
neighbouring pictures of the view's time grid, not of the file, so at 8 frames per second a motion is three times as
long as at 24. Timesteps that show one picture again share its flow; nothing is computed, or made up, for them. Nothing
stands before the first picture, so it has no flow, and the steps that show it are left out.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.video.i420 import planes
from pipeline.video.reader import Frame

Method = Literal["dis", "farneback"]
Grey = NDArray[np.uint8]
NO_FLOW = "only one picture; optical flow needs two that differ in time"

# A flow image's value for no motion; 127 steps lie on either side, so that mirroring is exact. 0 is not used.
MIDDLE, STEPS = 128, 127
# Motion at the ends of the scale, as a share of the frame's shorter side; longer motion is cut off there. At 8 frames
# per second on 300 real clips, 1 pixel in 100 moves further than 1/27 in the median clip, than 2/5 in the fastest. On
# validation sides of these clips an LSTM on such images had an AUC of 0.870, with 1/8 of 0.854 (one seed).
BOUND = 1 / 16
FARNEBACK = {"pyr_scale": 0.5, "levels": 5, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "flags": 0}


class FlowFrame(NamedTuple):
    """The flow at one timestep.

    time_seconds, pts_seconds: as in Frame, of the later picture. image: (H, W, 3) uint8 as `flow_image` makes it;
    timesteps of one picture share it, so it is not to be written to.
    """

    time_seconds: float
    pts_seconds: float
    image: NDArray[np.uint8]


def flow_frames(frames: Iterable[Frame], method: Method, steps: Container[int] | None = None) -> Iterator[FlowFrame]:
    """Flow of a video's frames as they come: a frame for every timestep after those of the first picture.

    A video of T timesteps gives T - 1 at most, and none when all show one picture. Pictures are told apart by their
    pts_seconds. steps: numbers of the wanted flow steps, from 0; the others are neither computed nor given.
    """
    estimate = estimator(method)
    before: Frame | None = None
    latest: Frame | None = None
    image: NDArray[np.uint8] | None = None  # of the latest picture
    step = -1
    for frame in frames:
        if latest is None or frame.pts_seconds != latest.pts_seconds:
            before, latest, image = latest, frame, None
        if before is None:
            continue
        step += 1
        if steps is None or step in steps:
            if image is None:
                image = flow_image(estimate(grey(before), grey(latest)))
            yield FlowFrame(frame.time_seconds, frame.pts_seconds, image)


def first_flow_step(pts_seconds: NDArray[np.float64]) -> int:
    """Number of the timesteps without flow at a video's beginning: flow step k is timestep k + this number.

    >>> first_flow_step(np.array([0.0, 0.0, 0.2, 0.2, 0.4]))
    2
    """
    return int(np.count_nonzero(pts_seconds == pts_seconds[0]))


def grey(frame: Frame) -> Grey:
    """The luma plane (H, W) uint8, a view: the grey picture that flow is measured on."""
    return planes(frame.i420)[0]


def estimator(method: Method) -> Callable[[Grey, Grey], NDArray[np.float32]]:
    """A function from two grey pictures (H, W) uint8 to the displacement (H, W, 2) float32, x and y, in pixels.

    `dis`: dense inverse search (Kroeger et al. 2016), OpenCV's preset MEDIUM (finest scale half the size, variational
    refinement). `farneback`: polynomial expansion (Farnebäck 2003), the parameters of OpenCV's tutorial, over 5 scales.
    Equal pictures give 0. The function belongs to one thread.
    """
    # DIS shares its work out by the number of threads, and results differ with the shares. One thread: equal bits on
    # every number of workers and cores.
    cv2.setNumThreads(1)
    calculate: Any  # the stubs want a flow to begin with, for which None stands
    if method == "dis":
        calculate = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc
    elif method == "farneback":
        calculate = partial(cv2.calcOpticalFlowFarneback, **FARNEBACK)
    else:
        raise ValueError(f"view.flow is {method!r}; expected dis or farneback")

    def estimate(first: Grey, second: Grey) -> NDArray[np.float32]:
        if np.array_equal(first, second):  # Farneback gives 0.2 pixels at the borders of equal pictures
            return np.zeros((*first.shape, 2), np.float32)
        return np.asarray(calculate(first, second, None), np.float32)

    return estimate


def flow_image(displacement: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The displacement (H, W, 2) in pixels as an image (H, W, 3) uint8: x, y and magnitude (Donahue et al. 2015, 4.1).

    In each channel 128 is no motion and 127 steps are BOUND times the shorter side, where values are cut off: x and y
    from 1 (left, up) to 255 (right, down), the magnitude from 128 to 255.
    """
    height, width = displacement.shape[:2]
    scale = STEPS / (BOUND * min(height, width))
    values = np.empty((height, width, 3), np.float32)
    values[..., :2] = displacement
    values[..., 2] = cv2.magnitude(displacement[..., 0], displacement[..., 1])
    values *= scale
    return (np.rint(values.clip(-STEPS, STEPS, out=values), out=values) + MIDDLE).astype(np.uint8)


def mirror_flow(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Flow images (..., H, W, 3) seen in a mirror: left and right change places, and x its sign. A copy.

    >>> mirror_flow(np.array([[[100, 140, 200], [1, 2, 255]]], np.uint8)).tolist()
    [[[255, 2, 255], [156, 140, 200]]]
    """
    mirrored = image[..., ::-1, :].copy()
    mirrored[..., 0] = -mirrored[..., 0]  # of 256 values: 128 + v becomes 128 - v
    return mirrored


def mirror(images: NDArray[np.uint8], is_flow: bool) -> NDArray[np.uint8]:
    """Frames (..., H, W, 3), of colour or of flow, seen in a mirror."""
    return mirror_flow(images) if is_flow else images[..., ::-1, :]
