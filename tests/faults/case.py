"""One file of the corpus, and what is expected of it."""

import itertools
import re
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import RejectedVideo
from pipeline.video.reader import VideoReader
from tests.videos import draw, number_of, write

SIZE = (96, 72)
COUNT = 60


@dataclass(frozen=True)
class Fault:
    """id: of the fault catalogue. reason: pattern of the verdict's reason. note: pattern of its notes, joined.

    numbers: what the frames of a good file carry, in order; None where the picture is too small to carry a number.
    in_order: whether what is left of a damaged file can be told by its numbers.
    """

    id: str
    name: str
    make: Callable[[Path], object]
    status: str = "ok"
    reason: str = ""
    note: str = ""
    numbers: Sequence[int] | None = None
    in_order: bool = False
    fps: float = 25.0

    def __str__(self) -> str:
        return f"{self.id}-{self.name}"


def shown(path: Path, fps: float = 25.0) -> list[tuple[int, float]]:
    """Number and time, in seconds, of every frame that the reader hands out for a file; each frame once."""
    # The grid is so fine that no frame is left out; a frame that stands at several grid times counts once.
    frames = VideoReader(path).frames(4 * fps, SIZE[1])
    found = []
    with suppress(RejectedVideo):
        for pts_seconds, same in itertools.groupby(frames, key=lambda frame: frame.pts_seconds):
            found.append((number_of(next(same).i420), pts_seconds))
    return found


def misplaced(frames: Sequence[tuple[int, float]], fps: float = 25.0) -> list[tuple[int, float]]:
    """Frames whose number is not the one that belongs to their time: repeated ones, invented ones, wrong ones."""
    return [frame for frame in frames if frame[0] - frames[0][0] != round(frame[1] * fps)]


def textured(count: int = COUNT, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Numbered pictures with noise below the number, so that every packet takes up about as many bytes."""
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, (size[1] * 2, size[0], 3), dtype=np.uint8)
    pictures = [draw(number, *size) for number in range(count)]
    for number, picture in enumerate(pictures):
        top = number % size[1]
        picture[size[1] // 3 :] = noise[top : top + size[1] - size[1] // 3]
    return pictures


def changed(base: Callable[[Path], object], change: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], None]:
    """A file that `base` writes, with its bytes changed."""

    def make(path: Path) -> None:
        base(path)
        path.write_bytes(change(bytearray(path.read_bytes())))

    return make


def holding(content: bytes) -> Callable[[Path], object]:
    """A file of these bytes."""
    return lambda path: path.write_bytes(content)


def video(**options: object) -> Callable[[Path], object]:
    """A video of COUNT numbered frames; options as in `tests.videos.write`."""
    options = {"num_frames": COUNT, "size": SIZE} | options
    return lambda path: write(path, **options)  # type: ignore[arg-type]


def box(data: bytes | bytearray, *kinds: bytes) -> int:
    """Where the content of an MP4 box begins, given the kinds of box that lead to it."""
    at = 0
    for kind in kinds:
        at = data.index(kind, at) + 4
    return at


def flipped(data: bytearray, count: int, first: int, last: int, seed: int) -> bytearray:
    """`count` random bits of data[first:last] turned over."""
    rng = np.random.default_rng(seed)
    for place in rng.integers(first, last, count):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def patched(data: bytearray, at: int, form: str, *values: int) -> bytearray:
    """Values packed over the data."""
    struct.pack_into(form, data, at, *values)
    return data


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found; the empty one stands for an empty text."""
    return bool(re.search(pattern, text)) if pattern else not text
