"""A model's answer at each timestep of a video that has not ended: the state is carried on from frame to frame."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pipeline.errors import ModelError, WeightsError
from pipeline.features.crop import crop_of_frame
from pipeline.features.extract import Extractor
from pipeline.features.frozen import compute_context
from pipeline.models.modelfolder import Model
from pipeline.models.streaming import Stream
from pipeline.video.flow import FlowFrame, flow_frames
from pipeline.video.ongrid import frames_on_grid
from pipeline.video.reader import Frame

LiveInput = Iterable[Frame] | Iterable[tuple[float, np.ndarray]]


@dataclass(frozen=True)
class LiveAnswer:
    """What is said at one timestep.

    time_seconds: the grid time, from the first frame. label, score: the most probable class and its probability.
    scores: of each class. window_seconds: begin and end of the stretch that the answer is for, where a clip model reads
    windows; None otherwise. is_final: whether the answer stays. A frame model's always does; a clip model's does at the
    end of a window, and before it is the answer for what has come of it.
    """

    time_seconds: float
    label: str
    score: float
    scores: dict[str, float] = field(repr=False)
    window_seconds: tuple[float, float] | None = None
    is_final: bool = True


class FrameFeatures:
    """Features of frames as they come, in batches of one: those of Extractor.run but for rounding."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self._pixels = torch.zeros((1, extractor.crop, extractor.crop, 3), dtype=torch.uint8)
        self._latest: tuple[np.ndarray, np.ndarray] | None = None  # a picture and its features
        self._compute()  # the first time takes many times as long

    def __call__(self, frame: Frame | FlowFrame) -> np.ndarray:
        """The feature vector (D,) float32, rounded to float16 as stored ones are; raises WeightsError if not finite."""
        picture = frame.image if isinstance(frame, FlowFrame) else frame.i420
        if self._latest is None or self._latest[0] is not picture:
            crop_of_frame(frame, self._extractor.crop, 0, self._pixels[0].numpy())
            self._latest = picture, self._compute()
        values = self._latest[1]
        if not np.isfinite(values).all():
            raise WeightsError(
                f"backbone {self._extractor.backbone.name} gave features at {frame.time_seconds:.3f} s that are no "
                "finite float16 numbers: the weights are unusable"
            )
        return values

    def _compute(self) -> np.ndarray:
        extractor = self._extractor
        context = compute_context(extractor.device) if extractor.on_gpu else contextlib.nullcontext()
        with torch.inference_mode(), context:
            values = extractor.network(self._pixels.to(extractor.device)).to(torch.float16).cpu().numpy()
        return np.asarray(values[0], np.float32)


class _Window:
    """One window of a clip model: timesteps [start, end), the carried state, and the answer so far."""

    def __init__(self, start: int, end: int, stream: Stream) -> None:
        self.start, self.end, self.stream = start, end, stream
        self.answer: tuple[float, np.ndarray] | None = None


class Follower:
    """Answers of a causal model at timesteps that come one by one; some may be missing.

    A clip model for whole videos reads windows of the longest training video's length, each of which begins in the
    middle of the one before, as `Model.clips_of` cuts a recording. Raises ModelError where Model.stream does.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._fps = model.spec.view.fps
        self._size = model.spec.longest_steps if model.task == "clip" else 0
        self._stride = max(1, self._size // 2)
        self._whole = model.stream()
        self._first_step: int | None = None
        self._windows: list[_Window] = []
        self._next_start = 0

    def push(self, time_seconds: float, features: np.ndarray) -> list[LiveAnswer]:
        """Go on by one timestep, features (D,) float32: its answer, after windows that ended in between."""
        if not self._size:
            answer = self._whole.push(features[None])[-1]
            return [self._answer(time_seconds, answer, None, is_final=self._model.task == "frame")]
        step = round(time_seconds * self._fps)
        self._first_step = step if self._first_step is None else self._first_step
        step -= self._first_step
        ended = [window for window in self._windows if window.end <= step]
        self._windows = [window for window in self._windows if window.end > step]
        self._next_start = max(self._next_start, -(-(step - self._size + 1) // self._stride) * self._stride)
        while self._next_start <= step:
            self._windows.append(_Window(self._next_start, self._next_start + self._size, self._model.stream()))
            self._next_start += self._stride
        for window in self._windows:
            window.answer = time_seconds, window.stream.push(features[None])[-1]
        oldest = self._windows[0]
        if is_final := oldest.end == step + 1:
            self._windows.pop(0)
        return [self._of_window(window, True) for window in ended] + [self._of_window(oldest, is_final)]

    def _of_window(self, window: _Window, is_final: bool) -> LiveAnswer:
        assert window.answer is not None  # it is pushed to when it begins
        assert self._first_step is not None
        start, end = (round((self._first_step + step) / self._fps, 3) for step in (window.start, window.end))
        return self._answer(*window.answer, (start, end), is_final)

    def _answer(
        self, time_seconds: float, probabilities: np.ndarray, window: tuple[float, float] | None, is_final: bool
    ) -> LiveAnswer:
        classes, best = self._model.classes, int(probabilities.argmax())
        scores = dict(zip(classes, map(float, probabilities), strict=True))
        return LiveAnswer(time_seconds, classes[best], float(probabilities[best]), scores, window, is_final)


def follow(model: Model, extractor: Extractor | None, frames: LiveInput) -> Iterator[LiveAnswer]:
    """See Recognizer.stream. extractor: None for a model that was trained on ready-made features."""
    if extractor is None:
        raise ModelError("this model was trained on ready-made features, not on pictures: it cannot follow a stream")
    follower = Follower(model)
    return _answers(follower, FrameFeatures(extractor), model, frames)


def _answers(follower: Follower, features: FrameFeatures, model: Model, frames: LiveInput) -> Iterator[LiveAnswer]:
    view = model.spec.view
    on_grid = _on_grid(frames, view.fps, view.short_side)
    for frame in flow_frames(on_grid, view.flow) if view.flow else on_grid:
        yield from follower.push(frame.time_seconds, features(frame))


def _on_grid(frames: LiveInput, fps: float, short_side: int) -> Iterator[Frame]:
    """Frames of the view as they are, pictures put on its time grid; one is not to be mixed with the other."""
    rest: Iterator[Any] = iter(frames)
    for first in rest:
        together = itertools.chain([first], rest)
        yield from together if isinstance(first, Frame) else frames_on_grid(together, fps, short_side)
