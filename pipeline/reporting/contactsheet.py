"""The contact sheet of a bias probe: videos whose answer turned, some frames of each before and after the change."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NUM_ROWS, NUM_FRAMES = 12, 4
WIDTH, TILE_WIDTH, TILE_HEIGHT, GAP, MIDDLE, LINE = 1280, 150, 116, 5, 30, 26  # pixels
HEAD = 46
MAX_BYTES = 400_000
QUALITIES = (88, 75, 50, 20)  # of JPEG: the first that fits; with the last even noise does
MAX_CAPTION = 150  # characters, which is what fits


@dataclass(frozen=True)
class Turned:
    """A video whose answer turned.

    sureness: by which the rows are ranked. before, after: NUM_FRAMES pictures or fewer, `(tile height, tile width, 3)
    uint8`, see `tiles`.
    """

    change: str
    caption: str
    sureness: float
    before: Sequence[np.ndarray]
    after: Sequence[np.ndarray]


def tiles(frames: np.ndarray) -> list[np.ndarray]:
    """Frames `(N, H, W, 3) uint8` fitted into tiles `(TILE_HEIGHT, <= TILE_WIDTH, 3)`; nothing is cut off."""
    scale = min(TILE_HEIGHT / frames.shape[1], TILE_WIDTH / frames.shape[2])
    size = max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale))
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC) for frame in frames]


def surest(turned: Sequence[Turned], count: int = NUM_ROWS) -> list[Turned]:
    """The surest of each change, in turns, at most `count`; then in the order of the changes."""
    by_change: dict[str, list[Turned]] = defaultdict(list)
    for one in sorted(turned, key=lambda one: -one.sureness):
        by_change[one.change].append(one)
    order = list(dict.fromkeys(one.change for one in turned))
    in_turns = [one for some in zip_longest(*(by_change[name] for name in order)) for one in some if one is not None]
    return sorted(in_turns[:count], key=lambda one: order.index(one.change))


def contact_sheet(turned: Sequence[Turned], title: str) -> bytes:
    """A JPEG, 1280 pixels wide and below 400 KB, with a row for each of the `surest`; without any it says so."""
    rows = surest(turned)
    step = LINE + TILE_HEIGHT + GAP
    height = HEAD + max(1, len(rows)) * step
    with mpl.rc_context({"font.family": "DejaVu Sans", "text.parse_math": False}):
        figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="white")
        figure.text(GAP / WIDTH, 1 - 24 / height, title, fontsize=11, weight="bold")
        for number, row in enumerate(rows):
            top = HEAD + number * step
            caption = row.caption if len(row.caption) <= MAX_CAPTION else row.caption[: MAX_CAPTION - 1] + "…"
            figure.text(GAP / WIDTH, 1 - (top + 15) / height, caption, fontsize=9)
            for side, pictures in enumerate((row.before, row.after)):
                start = GAP + side * (NUM_FRAMES * (TILE_WIDTH + GAP) + MIDDLE)
                for place, picture in enumerate(pictures):
                    bottom = height - top - LINE - picture.shape[0]
                    figure.figimage(picture, start + place * (TILE_WIDTH + GAP), bottom)
            arrow = GAP + NUM_FRAMES * (TILE_WIDTH + GAP) + MIDDLE / 2 - GAP / 2
            figure.text(arrow / WIDTH, 1 - (top + LINE + TILE_HEIGHT / 2) / height, "→", fontsize=14, ha="center")
        if not rows:
            figure.text(GAP / WIDTH, 1 - (HEAD + 20) / height, "No answer turned.", fontsize=10)
        return _jpeg(figure)


def _jpeg(figure: Figure) -> bytes:
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name in letters the font lacks
        canvas.draw()  # type: ignore[no-untyped-call]
        rgba = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    pixels = cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGR)
    for quality in QUALITIES:
        sheet = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(sheet) <= MAX_BYTES:
            break
    return sheet
