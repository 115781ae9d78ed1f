"""Videos shown with something changed: their background, their order, their light. What the bias probe asks about.

Foreground is what moves, no more: the background is the median of the frames over time, and foreground is what differs
from it, with a rim. A person who keeps still belongs to the background; where a camera moves, everything is foreground.
On drawn people whose outlines are known the median does better than OpenCV's MOG2, run forwards and backwards, and as
well as KNN, which draws from the C library's generator and so gives another foreground each time
(benchmarks/foreground.py, docs/bias-probe.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

Pictures = NDArray[np.uint8]  # (T, H, W, 3) RGB

DIFFERENCE = 15  # of 255, in the channel that differs most: more than this and a pixel is not background
MEDIAN_FRAMES = 50  # of which the median is taken, spread over the video
# Lengths as shares of a frame's shorter side.
SMOOTHED, OPENED, CLOSED, SOFTENED, BLURRED = 1 / 96, 1 / 32, 1 / 6, 1 / 96, 1 / 10
# Diameter of the disc that widens the foreground. Without so broad a rim limbs are lost that hardly move, and answers
# turn because a person is cut to pieces (docs/bias-probe.md).
GROWN = 1 / 10
OFTEN = 0.25  # share of the time: where something moves as often, the median over time may show it
STILL, EVERYWHERE = 0.002, 0.7  # shares of foreground below and above which no background can be told from it
BRIGHTER, DARKER = 1.3, 0.7  # factors of all three channels


class Picture(NamedTuple):
    """A changed frame, as Frame but in RGB. rgb: `(H, W, 3) uint8`, of which the model's crop is cut."""

    time_seconds: float
    pts_seconds: float
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class Layers:
    """A video taken apart.

    background: `(H, W, 3) uint8` RGB, what stays; filled in from around where something moves often. alpha: `(T, H, W)
    uint8`, 255 where something moves.
    """

    background: NDArray[np.uint8]
    alpha: NDArray[np.uint8]

    @property
    def foreground_share(self) -> float:
        """Share of all pixels that are foreground."""
        return float(np.mean(self.alpha > 127))

    @property
    def problem(self) -> str:
        """Why the background cannot be changed; "" when it can."""
        if self.foreground_share < STILL:
            return "nothing moves"
        return "nearly everything moves" if self.foreground_share > EVERYWHERE else ""


def separate(frames: Pictures) -> Layers:
    """Take frames `(T, H, W, 3) uint8` apart into what stays and what moves; raises DataError for another shape."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size or frames.dtype != np.uint8:
        raise DataError(
            f"frames of shape {frames.shape} {frames.dtype}; expected (T, H, W, 3) uint8 with T of 1 or more"
        )
    steps = np.linspace(0, len(frames) - 1, min(len(frames), MEDIAN_FRAMES)).round().astype(int)
    median = np.median(frames[steps], axis=0).astype(np.uint8)
    short = min(frames.shape[1:3])
    opened, closed, grown = (_disc(short * share) for share in (OPENED, CLOSED, GROWN))
    alpha = np.empty(frames.shape[:3], np.uint8)
    for frame, out in zip(frames, alpha, strict=True):
        difference = cv2.GaussianBlur(cv2.absdiff(frame, median).max(axis=-1), (0, 0), short * SMOOTHED)
        moves = (difference > DIFFERENCE).astype(np.uint8) * 255
        moves = cv2.morphologyEx(cv2.morphologyEx(moves, cv2.MORPH_OPEN, opened), cv2.MORPH_CLOSE, closed)
        out[...] = cv2.GaussianBlur(cv2.dilate(moves, grown), (0, 0), short * SOFTENED)
    unsure = np.mean(alpha > 127, axis=0) > OFTEN
    # All of it unsure is left as it is: there is nothing around to fill in from.
    background = cv2.inpaint(median, unsure.astype(np.uint8), 3, cv2.INPAINT_TELEA) if not unsure.all() else median
    return Layers(np.asarray(background, np.uint8), alpha)


def fitted(background: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A background `(H, W, 3)` as large as another video's frames: scaled to cover them, its middle cut out."""
    scale = max(height / background.shape[0], width / background.shape[1])
    size = max(width, round(background.shape[1] * scale)), max(height, round(background.shape[0] * scale))
    whole = cv2.resize(background, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
    return np.asarray(whole[top : top + height, left : left + width], np.uint8)


def _blurred(frames: Pictures, layers: Layers) -> Pictures:
    sigma = min(frames.shape[1:3]) * BLURRED
    # The person is taken out before blurring, which would draw a halo of their colours around them.
    empty = _over(np.broadcast_to(layers.background, frames.shape), frames, layers.alpha)
    return _over(frames, np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in empty]), layers.alpha)


def _flat(frames: Pictures, layers: Layers) -> Pictures:
    kept = layers.alpha.max(axis=0) < 128
    pixels = layers.background[kept] if kept.any() else layers.background.reshape(-1, 3)
    return _over(frames, np.broadcast_to(np.median(pixels, axis=0).astype(np.uint8), frames.shape), layers.alpha)


# Changes of the background need to know what is background; the others take the frames alone.
BACKGROUND_CHANGES: dict[str, Callable[[Pictures, Layers], Pictures]] = {
    "background_blurred": _blurred,
    "background_replaced": lambda frames, layers: frames,  # see `changed`: it takes a second background
    "background_median": _flat,
    "person_removed": lambda frames, layers: np.broadcast_to(layers.background, frames.shape),
}
OTHER_CHANGES: dict[str, Callable[[Pictures], Pictures]] = {
    "frozen": lambda frames: np.broadcast_to(frames[0], frames.shape),
    "mirrored": lambda frames: frames[:, :, ::-1],
    "dropped": lambda frames: frames[np.arange(len(frames)) // 2 * 2],
    "brighter": lambda frames: _scaled(frames, BRIGHTER),
    "darker": lambda frames: _scaled(frames, DARKER),
}
CHANGES = (*BACKGROUND_CHANGES, *OTHER_CHANGES)


def changed(name: str, frames: Pictures, layers: Layers, other: NDArray[np.uint8] | None = None) -> Pictures:
    """Frames `(T, H, W, 3) uint8` of the same shape with one thing changed; those given are not written to.

    background_blurred: Gaussian, sigma a tenth of the shorter side. background_replaced: by `other`, the background
    `(H', W', 3)` of another video, without which it raises ValueError. background_median: filled with its own median
    colour. person_removed: the background alone, in every frame. frozen: the first frame throughout. mirrored: left and
    right. dropped: every second frame is lost, and the one before it shown in its place. brighter, darker: times 1.3
    and 0.7.
    """
    if name in OTHER_CHANGES:
        return OTHER_CHANGES[name](frames)
    if name != "background_replaced":
        return BACKGROUND_CHANGES[name](frames, layers)
    if other is None:
        raise ValueError("background_replaced needs another video's background; got none")
    return _over(frames, np.broadcast_to(fitted(other, *frames.shape[1:3]), frames.shape), layers.alpha)


def _over(front: Pictures, back: Pictures, alpha: NDArray[np.uint8]) -> Pictures:
    """The front where alpha is 255, the back where it is 0, a mixture between: exact at both ends."""
    result = np.empty(front.shape, np.uint8)
    for one, other, share, out in zip(front, back, alpha, result, strict=True):
        weight = share[..., None].astype(np.uint16)
        out[...] = (one * weight + other * (255 - weight) + 127) // 255
    return result


def _scaled(frames: Pictures, factor: float) -> Pictures:
    table = np.clip(np.arange(256) * factor + 0.5, 0, 255).astype(np.uint8)
    return np.asarray(table[frames], np.uint8)


def _disc(diameter: float) -> NDArray[np.uint8]:
    size = max(1, round(diameter)) // 2 * 2 + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)
