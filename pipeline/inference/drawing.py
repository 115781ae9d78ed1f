"""What an overlay shows: the label with its probability, and all segments on a strip with a playhead."""

import bisect
import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.inference.answers import Segment
from pipeline.inference.results import is_sure

RGB = tuple[int, int, int]

TEXT_SHARE = 20  # letters are as high as the shorter side over this,
MIN_TEXT_HEIGHT = 9  # but no less than that, in pixels: below it they cannot be read
FONT = cv2.FONT_HERSHEY_SIMPLEX
# OpenCV 4 draws a question mark for every byte beyond ASCII.
HAS_UNICODE = int(cv2.__version__.split(".")[0]) >= 5
WHITE, DARK, GREY, BLACK = (255, 255, 255), (48, 48, 48), (170, 170, 170), (0, 0, 0)
PANEL_LIGHT = 0.3  # share of the picture's light that stays behind text
GOLDEN_ANGLE = 0.381966  # of a full turn: hues far apart, however many there are


@dataclass(frozen=True, eq=False)
class Timeline:
    """What the strip shows, from `start_seconds` at its left end to `end_seconds` at its right.

    segments: by their start, none overlapping. classes: class names; a label's place among them chooses its colour.
    threshold: lowest probability of an answer that is sure, None where no answer is.
    """

    segments: Sequence[Segment]
    start_seconds: float
    end_seconds: float
    classes: Sequence[str]
    threshold: float | None

    def at(self, time_seconds: float) -> Segment | None:
        """The segment that a time lies in, its end left out; None between segments."""
        place = bisect.bisect_right(self.segments, time_seconds, key=lambda segment: segment.start_seconds) - 1
        if place < 0 or time_seconds >= self.segments[place].end_seconds:
            return None
        return self.segments[place]


@dataclass(frozen=True)
class OverlayState:
    """What an overlay says at one instant.

    label: "" for none (the background). score: its probability, None where there is none. time_seconds: where the
    playhead stands.
    """

    timeline: Timeline
    time_seconds: float
    label: str = ""
    score: float | None = None


def draw_overlay(rgb: NDArray[np.uint8], state: OverlayState) -> None:
    """Draw on a picture `(H, W, 3) uint8`, in place: a panel with the label on top, the strip along the lower edge.

    The panel holds the label, its probability in percent, and a bar of that length with a mark at the threshold. An
    answer that is not sure has a question mark and a grey bar; on the strip its segments are half as high. Without a
    label there is no panel. Sizes follow from the picture's; any size and any text can be drawn.
    """
    size = max(MIN_TEXT_HEIGHT, min(rgb.shape[:2]) // TEXT_SHARE)
    strip = _strip(state.timeline, rgb.shape[1], min(max(6, size * 2 // 3), rgb.shape[0]))
    top = rgb.shape[0] - len(strip)
    rgb[top:] = strip
    _draw_playhead(rgb[top:], state.timeline, state.time_seconds, max(2, size // 8))
    if state.label:
        _draw_panel(rgb[:top], state, size)


def colour_of(label: str, classes: Sequence[str]) -> RGB:
    """The colour of a class, from its place among all; grey for a label that is none of them."""
    if label not in classes:
        return GREY
    place = list(classes).index(label)
    red, green, blue = colorsys.hsv_to_rgb((0.58 + GOLDEN_ANGLE * place) % 1, (0.65, 0.85)[place % 2], 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_panel(rgb: NDArray[np.uint8], state: OverlayState, size: int) -> None:
    timeline, margin = state.timeline, size // 2
    sure = is_sure(state.score, timeline.threshold)
    ending = ("" if sure else "?") + ("" if state.score is None else f" {100 * state.score:.0f} %")
    widest = rgb.shape[1] - 4 * margin
    if widest < size:
        return  # no letter has room
    text, height = _fitted(state.label, ending, size, widest)
    # As wide as the widest label needs, so that the bar's full length stays the same.
    width = max(_width(text, height), min(widest, _widest(tuple(timeline.classes), size)))
    bar_height = max(3, size // 3)
    # Twice the margin around, and half a letter for what hangs below the line.
    panel = rgb[margin : 2 * margin + size + size // 2 + bar_height + margin, margin : 3 * margin + width]
    panel[:] = (panel * PANEL_LIGHT).astype(np.uint8)
    _blend(panel[margin // 2 :, margin:], _text_mask(text, height, size), WHITE)
    bar = panel[-margin - bar_height : len(panel) - margin, margin : margin + width]
    if state.score is None or not bar.size:
        return
    bar[:] = DARK
    bar[:, : round(width * min(max(state.score, 0), 1))] = colour_of(state.label, timeline.classes) if sure else GREY
    if timeline.threshold is not None:
        mark = min(round(width * timeline.threshold), width - 1)
        bar[:, max(0, mark - max(1, size // 16)) : mark + 1] = WHITE


def _draw_playhead(strip: NDArray[np.uint8], timeline: Timeline, time_seconds: float, thickness: int) -> None:
    left = _column(timeline, time_seconds, strip.shape[1] - thickness)
    strip[:, max(0, left - 1) : left + thickness + 1] = BLACK
    strip[:, left : left + thickness] = WHITE


def _column(timeline: Timeline, time_seconds: float, width: int) -> int:
    length = timeline.end_seconds - timeline.start_seconds
    share = (time_seconds - timeline.start_seconds) / length if length > 0 else 0.0
    return round(min(max(share, 0.0), 1.0) * max(width, 0))


@lru_cache(maxsize=4)
def _strip(timeline: Timeline, width: int, height: int) -> NDArray[np.uint8]:
    """The strip without its playhead, `(height, width, 3) uint8`."""
    strip = np.full((height, width, 3), DARK, np.uint8)
    for segment in timeline.segments:
        if segment.end_seconds <= timeline.start_seconds or segment.start_seconds >= timeline.end_seconds:
            continue
        begin = min(_column(timeline, segment.start_seconds, width), width - 1)
        end = max(begin + 1, _column(timeline, segment.end_seconds, width))
        top = 0 if is_sure(segment.score, timeline.threshold) else height // 2
        strip[top:, begin:end] = colour_of(segment.label, timeline.classes)
    strip[0] = BLACK
    return strip


def _blend(rgb: NDArray[np.uint8], mask: NDArray[np.uint8], colour: RGB) -> None:
    """Lay a colour over a picture as far as the mask says, 0 to 255; what does not fit is cut off."""
    rows, columns = min(len(rgb), len(mask)), min(rgb.shape[1], mask.shape[1])
    place, share = rgb[:rows, :columns], mask[:rows, :columns, None].astype(np.uint16)
    place[:] = ((place * (255 - share) + np.array(colour, np.uint16) * share) // 255).astype(np.uint8)


@lru_cache(maxsize=256)
def _fitted(label: str, ending: str, size: int, widest: int) -> tuple[str, int]:
    """A text and the height of its letters with which it fits: smaller letters first, then fewer of them."""
    label = _drawable(label)
    for height in range(size, MIN_TEXT_HEIGHT - 2, -1):
        if _width(label + ending, height) <= widest:
            return label + ending, height
    height = MIN_TEXT_HEIGHT - 1
    while label and _width(f"{label}..{ending}", height) > widest:
        label = label[:-1]
    return (f"{label}..{ending}" if label else ending.strip()), height


def _drawable(text: str) -> str:
    """The text with question marks for what cannot be drawn: control characters, and halves of a pair, of which
    OpenCV 5 dies."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if HAS_UNICODE else text.encode("ascii", "replace").decode("ascii")


@lru_cache(maxsize=16)
def _widest(classes: tuple[str, ...], size: int) -> int:
    return max((_width(f"{_drawable(name)}? 100 %", size) for name in classes), default=0)


def _scale(height: int) -> float:
    return float(height / cv2.getTextSize("H", FONT, 1.0, 1)[0][1])


def _thickness(height: int) -> int:
    return max(1, round(height / 12))


def _width(text: str, height: int) -> int:
    return int(cv2.getTextSize(text, FONT, _scale(height), _thickness(height))[0][0])


@lru_cache(maxsize=256)
def _text_mask(text: str, height: int, size: int) -> NDArray[np.uint8]:
    """How far each pixel is covered by the text, 0 to 255; its base line lies at row `size` + 1."""
    mask = np.zeros((size * 2, _width(text, height) + height), np.uint8)
    cv2.putText(mask, text, (0, size + 1), FONT, _scale(height), 255, _thickness(height), cv2.LINE_AA)
    return mask
