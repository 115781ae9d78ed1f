"""Batches of one fixed size that frames of several videos share, and the vectors of each video as they come back."""

import threading
from array import array
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from pipeline.features.crop import crop_of_frame
from pipeline.video.changes import Picture
from pipeline.video.flow import FlowFrame
from pipeline.video.reader import Frame

GROWN_ROWS = 256  # for which room is made, when there is none for more vectors of a video

K = TypeVar("K")


@dataclass(eq=False)
class PartialVideo(Generic[K]):
    """A video on its way: grid and presentation times of its timesteps, vectors of the crops computed."""

    index: int
    key: K
    values: np.ndarray  # (T * crops, D) float16; while frames come, with room for more
    times: "array[float]" = field(default_factory=lambda: array("d"))
    pts: "array[float]" = field(default_factory=lambda: array("d"))
    num_frames: int = 0  # that were read; flow begins later
    num_rows: int = 0  # crops put into batches
    num_computed: int = 0
    ended: bool = False
    error: Exception | None = None

    def keep(self, first: int, values: np.ndarray) -> None:
        """Take the vectors of the crops from `first` on; batches may come in any order."""
        end = first + len(values)
        if end > len(self.values):
            # In place: a long video's vectors never lie in memory twice.
            self.values.resize((end + GROWN_ROWS, values.shape[1]), refcheck=False)
        self.values[first:end] = values
        self.num_computed += len(values)

    def finish(self) -> None:
        """Give back the room that is not needed."""
        num_rows = self.num_rows if self.error is None else 0
        self.values.resize((num_rows, self.values.shape[1]), refcheck=False)


@dataclass(eq=False)
class Batch:
    """Pixels, and whose they are: (video, its first crop in the batch, how many)."""

    pixels: Tensor  # (B, crop, crop, 3) uint8, pinned when the device is a GPU
    parts: list[tuple[PartialVideo[Any], int, int]] = field(default_factory=list)
    num_rows: int = 0
    num_frames: int = 0  # whose first crop is here

    def add(self, video: PartialVideo[Any], frame: Frame | Picture | FlowFrame, crop: int, number: int) -> None:
        """Put the `number`-th crop of a frame behind what is here."""
        crop_of_frame(frame, crop, number, self.pixels[self.num_rows].numpy())
        self.num_rows += 1
        self.num_frames += number == 0
        last, first, count = self.parts[-1] if self.parts else (None, 0, 0)
        if last is video:
            self.parts[-1] = (video, first, count + 1)
        else:
            self.parts.append((video, video.num_rows, 1))
        video.num_rows += 1


class Filling:
    """The batch that one thread fills. The lock is held while a frame is put in, or the batch is taken away."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.batch: Batch | None = None

    def take(self) -> Batch | None:
        """The batch as it is, which is left to the caller; under the lock."""
        batch, self.batch = self.batch, None
        return batch
