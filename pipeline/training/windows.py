"""Windows of frames for training a CNN together with what follows it: read when they are needed, and a little ahead."""

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mirror = Callable[[Pixels], Pixels]  # of colour or of flow, whose x changes sign: pipeline.video.flow.mirror
BATCHES_AHEAD = 2  # read while one is computed


@dataclass(frozen=True, eq=False)
class Footage:
    """A stretch of a video with one label, its frames read on demand.

    num_steps: timesteps, 1 or more. height, width: of its frames, in pixels. class_index: 0 to K - 1.
    frames: called with the first timestep wanted and the one after the last, gives (H, W, 3) uint8 frames in order, not
    to be written to; from several threads at a time.
    """

    num_steps: int
    height: int
    width: int
    class_index: int
    frames: Callable[[int, int], Iterator[Pixels]]


@dataclass(frozen=True)
class Window:
    """Some consecutive timesteps of a stretch, seen through one square, or in a mirror: the same for all its frames."""

    footage: Footage
    start: int
    num_steps: int
    top: int
    left: int
    is_mirrored: bool

    def read(self, crop: int, mirror: Mirror) -> Pixels:
        """The pixels, (T, crop, crop, 3) uint8."""
        pixels = np.empty((self.num_steps, crop, crop, 3), np.uint8)
        rows, columns = slice(self.top, self.top + crop), slice(self.left, self.left + crop)
        frames = self.footage.frames(self.start, self.start + self.num_steps)
        for target, frame in zip(pixels, frames, strict=True):
            target[...] = frame[rows, columns]
        return mirror(pixels) if self.is_mirrored else pixels


def random_windows(
    footage: Sequence[Footage], *, clip_frames: int, crop: int, flip: bool, rng: np.random.Generator
) -> list[Window]:
    """One epoch: a window of each stretch at a random place in time and in the picture, in random order.

    A stretch of fewer than `clip_frames` timesteps gives all it has. Half of the windows are mirrored if `flip`.
    """
    windows = []
    for number in rng.permutation(len(footage)):
        stretch = footage[number]
        length = min(clip_frames, stretch.num_steps)
        start = int(rng.integers(stretch.num_steps - length + 1))
        top, left = (int(rng.integers(side - crop + 1)) for side in (stretch.height, stretch.width))
        windows.append(Window(stretch, start, length, top, left, bool(flip and rng.random() < 0.5)))
    return windows


def read_batches(
    batches: Sequence[Sequence[Window]], crop: int, mirror: Mirror, num_threads: int
) -> Iterator[list[Pixels]]:
    """The pixels of each batch's windows, in order, read by threads while the batches before are worked on.

    Memory: the windows of BATCHES_AHEAD batches beside the one handed out. An error of reading is raised here.
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix="windows") as threads:
        waiting: deque[list[Future[Pixels]]] = deque()
        try:
            for batch in batches:
                waiting.append([threads.submit(window.read, crop, mirror) for window in batch])
                if len(waiting) > BATCHES_AHEAD:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            threads.shutdown(wait=True, cancel_futures=True)


class FrameMemory:
    """Decoded videos kept for the next time, as many as fit: a stored video can only be read from its beginning.

    budget_bytes: of frames kept, all together. What does not fit any more is decoded each time up to the last frame
    wanted. It changes speed alone. Safe for several threads.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.left_bytes = budget_bytes
        self._kept: dict[str, Pixels] = {}
        self._taken: set[str] = set()
        self._lock = threading.Lock()

    def frames(
        self, name: str, size_bytes: int, read: Callable[[], Generator[Pixels, None, None]], start: int, stop: int
    ) -> Iterator[Pixels]:
        """Frames `start` to `stop` - 1 of the video `name`, which takes `size_bytes` in all and comes from `read`."""
        if self._take(name, size_bytes):
            self._kept[name] = np.stack(list(read()))
        kept = self._kept.get(name)
        if kept is not None:
            yield from kept[start:stop]
            return
        with contextlib.closing(read()) as frames:  # or the file would stay open until garbage is collected
            yield from itertools.islice(frames, start, stop)

    def _take(self, name: str, size_bytes: int) -> bool:
        """Reserve room for a video that is not there; False when another thread is reading it, or it does not fit."""
        with self._lock:
            if name in self._taken or size_bytes > self.left_bytes:
                return False
            self._taken.add(name)
            self.left_bytes -= size_bytes
            return True
