"""The overlay of a live source: what the model sees, with its answers drawn over it, as a video that grows."""

import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.discovery import printable
from pipeline.errors import LrcnError
from pipeline.inference.answers import Segment
from pipeline.inference.drawing import OverlayState, Timeline, draw_overlay
from pipeline.inference.live import LiveAnswer
from pipeline.models.modelfolder import ModelSpec
from pipeline.video.encode import WRITE_ERRORS, H264Writer
from pipeline.video.feed import FeedFrame
from pipeline.video.i420 import i420_to_rgb
from pipeline.video.live import LiveSource
from pipeline.video.source import one_line

SHORTEST_SIDE = 240  # pixels; smaller frames are enlarged, so that letters can be read
STRIP_SECONDS = 30.0  # of answers on the strip


class LiveOverlay:
    """Writes frames of the view, at the view's rate. An error ends the overlay, and not the answers.

    Raises LrcnError when the file cannot be written, or is the source. failed: whether an error ended it.
    """

    def __init__(self, path: Path, source: LiveSource) -> None:
        self._path = path
        try:
            if path.exists() and os.path.samefile(path, source.url):  # noqa: PTH121 - an address is no path
                raise LrcnError(printable(f"--overlay {path} is the source itself: name another file"))
        except OSError:
            pass
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise LrcnError(printable(f"--overlay {path}: no file can be written there; name one in a folder there is"))
        self.failed = False
        self._writer: H264Writer | None = None
        self._size = (0, 0)
        self._segments: deque[Segment] = deque()

    @contextmanager
    def drawing(self, spec: ModelSpec, threshold: float | None) -> Iterator[None]:
        """Within it `write` may be called; the file is complete behind it."""
        self._classes, self._background, self._threshold = spec.classes, spec.background, threshold
        self._step_seconds = 1 / spec.view.fps
        try:
            yield
        finally:
            with self._failing():
                if self._writer is not None:
                    self._writer.close()

    def write(self, answer: LiveAnswer, frame: FeedFrame) -> None:
        """Add the frame of an answer."""
        if self.failed:
            return
        time_seconds = frame.start_seconds + answer.time_seconds
        label = "" if answer.label == self._background else answer.label
        if label:
            end = time_seconds + self._step_seconds
            self._segments.append(Segment(time_seconds, end, label, answer.score))
        while self._segments and self._segments[0].end_seconds < time_seconds - STRIP_SECONDS:
            self._segments.popleft()
        begin = max(0.0, time_seconds - STRIP_SECONDS)
        timeline = Timeline(
            tuple(self._segments), begin, begin + STRIP_SECONDS, self._classes, self._threshold
        )  # fmt: skip
        with self._failing():
            rgb = self._picture(frame)
            draw_overlay(rgb, OverlayState(timeline, time_seconds, label, answer.score if label else None))
            if self._writer is None:
                self._writer = H264Writer(self._path, rgb.shape[1], rgb.shape[0], fragmented=True)
            self._writer.write(rgb, time_seconds)

    def _picture(self, frame: FeedFrame) -> NDArray[np.uint8]:
        """RGB (H, W, 3) of the frame, of one size however the source's changes after a gap."""
        rgb = i420_to_rgb(frame.frame.i420)
        if self._writer is None:
            times = -(-SHORTEST_SIDE // min(rgb.shape[:2])) if min(rgb.shape[:2]) < SHORTEST_SIDE else 1
            self._size = (rgb.shape[1] * times, rgb.shape[0] * times)
        if self._size == rgb.shape[1::-1]:
            return rgb
        return np.asarray(cv2.resize(rgb, self._size, interpolation=cv2.INTER_LINEAR), np.uint8)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except WRITE_ERRORS as error:
            if not self.failed:
                reason = f"{self._path}: {one_line(error)}; what was written plays"
                print(printable(f"stream: no overlay from here on: {reason}"), file=sys.stderr)
            self.failed = True
