"""A trained model, ready for video files and live frames: the one class behind `lrcn predict` and `lrcn stream`."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch

from pipeline.device import choose_devices, num_workers
from pipeline.features.backbones import GIVEN, read_backbone
from pipeline.features.extract import Extractor
from pipeline.features.store import VideoFeatures
from pipeline.inference.answers import Answer, Segment, Status, Timesteps, VideoFacts, reason_of, status_of
from pipeline.inference.given import read_given
from pipeline.inference.live import LiveAnswer, LiveInput, follow
from pipeline.inference.segments import segments_of, timesteps_of_windows
from pipeline.models.modelfolder import Model, load_model
from pipeline.modelstore import model_folder
from pipeline.remote import named, staged
from pipeline.remotenames import is_url
from pipeline.video.isolation import DecoderPool, IsolatedReader
from pipeline.video.limits import Limits
from pipeline.video.reader import Frame
from pipeline.video.verdict import Verdict
from pipeline.view import features_key


class Recognizer:
    """Labels videos with a trained model.

    >>> with Recognizer.load("artifacts/demo/trainings/clip-rgb-fold1-seed0/model") as recognizer:  # doctest: +SKIP
    ...     answer = recognizer.predict("clip.mp4")
    >>> answer.label, answer.score  # doctest: +SKIP
    ('sit_down', 0.98)

    Use it as a context manager, or `close` it: it holds decoding processes.
    """

    def __init__(
        self,
        model: Model,
        folder: Path,
        workers: int = 0,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        devices: Sequence[torch.device] = (),
    ) -> None:
        """Made by `load`; devices: for the backbone, the model's own where none is named."""
        self.model = model
        self.folder = folder
        self._limits = limits
        self._backbone = read_backbone(folder / "backbone.safetensors")
        view = model.spec.view
        model.require_features(features_key(view, self._backbone.name, self._backbone.weights_sha256))
        self._decoders = DecoderPool(limits)
        self._extractor: Extractor | None = None
        if self._backbone.name != GIVEN:
            self._extractor = Extractor(
                self._backbone, view.crop, devices or model.network.feature_mean.device,
                workers=num_workers(workers), crops=view.crops, flow=view.flow,
            )  # fmt: skip

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        device: str = "auto",
        workers: int = 0,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> "Recognizer":
        """Read a model: a folder, or an address in MLflow such as `models:/NAME@ALIAS` (see `model_folder`).

        device: `auto`, `cpu` or `cuda`, which is every GPU that is visible; the recurrent network is on the first.
        workers: videos decoded at a time; 0 = one per core. limits: for one file.
        Raises ModelError when the model is missing, incomplete or damaged, and ConfigError for `cuda` without a GPU.
        """
        folder = model_folder(model)
        devices = choose_devices(device)
        return cls(load_model(folder, str(devices[0])), folder, workers, limits, devices)

    def predict(self, path: str | Path) -> Answer:
        """The answer for one file. A file that cannot be used is an answer with a reason, never an exception.

        path: or an address such as s3://bucket/a.mp4, whose object is fetched into the cache first. Raises LrcnError
        for an address of which the package is missing.
        """
        path = str(path)
        return next(self.predict_files([named(path) if is_url(path) else path]))

    def predict_files(
        self,
        paths: Sequence[str],
        progress: Callable[[int], None] = lambda num_frames: None,
        *,
        in_order: bool = True,
        watch: Callable[[str, Iterator[Frame]], Iterator[Frame]] = lambda path, frames: frames,
    ) -> Generator[Answer, None, None]:
        """Answers; a file that cannot be used is an answer with a reason.

        progress, in_order: as for Extractor.run. watch: passes on the frames of a path, in a thread that decodes;
        frames that it drops or changes are not what the model was trained to see.
        """
        view = self.model.spec.view
        if self._extractor is None:
            for path in paths:
                try:
                    with staged(path) as local:
                        features = read_given(Path(local), self._backbone, view.fps, self._limits.memory_bytes)
                    yield self.answer(path, features, None)
                except Exception as error:  # noqa: BLE001 - one file's failure is its answer, the others go on
                    yield Answer(path, status_of(error), reason_of(error))
            return
        files = (_File(path, self._decoders.reader(path)) for path in paths)
        jobs = ((file, watch(file.path, file.reader.frames(view.fps, view.short_side))) for file in files)
        with contextlib.closing(self._extractor.run(jobs, progress, in_order=in_order)) as results:
            for file, result in results:
                try:
                    if isinstance(result, Exception):
                        raise result
                    yield self.answer(file.path, result, file.reader.verdict)
                except Exception as error:  # noqa: BLE001 - one file's failure is its answer, the others go on
                    yield Answer(file.path, status_of(error), reason_of(error))

    def stream(self, frames: LiveInput) -> Iterator[LiveAnswer]:
        """Answers while a video goes on, one for each timestep of the view: what `lrcn stream` prints.

        frames: (time in seconds, RGB (H, W, 3) uint8) of any rate and size, times growing from frame to frame; or
        frames that are on the view's grid already, as `pipeline.video.reader` gives them. They are taken one by one, in
        the caller's thread, and an answer comes when the timestep's picture is known: with the picture after it. One
        call is one video: the state begins afresh. Times count from the first frame.

        Raises ModelError at once for a model that cannot follow a stream (bidirectional, attention over a clip, clips
        of some frames, several crops, ready-made features), and ValueError for a frame that is none.

        >>> for answer in recognizer.stream(frames): print(answer.time_seconds, answer.label)  # doctest: +SKIP
        """
        return follow(self.model, self._extractor, frames)

    def answer(self, path: str, features: VideoFeatures, verdict: Verdict | None) -> Answer:
        """The answer for a video whose features are there; verdict: what decoding it said, None without a video."""
        return answer_of(self.model, path, features, verdict)

    def close(self) -> None:
        """End the decoding processes."""
        self._decoders.close()

    def __enter__(self) -> "Recognizer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _File(NamedTuple):
    """A file on its way; a path may be asked for more than once."""

    path: str
    reader: IsolatedReader

    def __str__(self) -> str:
        return self.path


def answer_of(model: Model, path: str, features: VideoFeatures, verdict: Verdict | None) -> Answer:
    """The answer of a model for a video whose features are there; verdict: what decoding said, None without a video."""
    step = 1 / model.spec.view.fps
    values = features.values.astype(np.float32)
    seconds = round(float(features.time_seconds[-1]) + step, 3)
    timesteps = None
    if model.task == "clip":
        overall, clips = model.predict_with_clips(values)
        segments = _clip_segments(model, clips, features.time_seconds, seconds)
        if len(clips) > 1:
            starts, size = model.clips_of(len(values))
            timesteps = timesteps_of_windows(starts, size, clips, features.time_seconds)
    else:
        probs = model.predict_features(values)
        timesteps = Timesteps(features.time_seconds, probs)
        # The label of an untrimmed video is the action that fills most of it; shares of time are its scores.
        overall = np.bincount(probs.argmax(axis=1), minlength=len(model.classes)) / len(probs)
        segments = segments_of(timesteps, model.classes, model.spec.background, step)
    ranked = list(np.argsort(-overall, kind="stable"))
    if model.spec.background is not None and overall[ranked[0]] < 1:
        ranked = [k for k in ranked if model.classes[k] != model.spec.background]
    second = ranked[1] if len(ranked) > 1 else None
    status: Status = "damaged" if verdict is not None and verdict.status == "damaged" else "ok"
    return Answer(
        path=path,
        status=status,
        reason="" if verdict is None else verdict.reason,
        label=model.classes[ranked[0]],
        score=float(overall[ranked[0]]),
        runner_up="" if second is None else model.classes[second],
        runner_up_score=None if second is None else float(overall[second]),
        frames=len(features.values),
        seconds=seconds,
        scores={name: float(value) for name, value in zip(model.classes, overall, strict=True)},
        segments=segments,
        video=None if verdict is None else _facts(verdict),
        timesteps=timesteps,
    )


def _facts(verdict: Verdict) -> VideoFacts:
    return VideoFacts(verdict.num_frames, verdict.duration_seconds, verdict.width, verdict.height, verdict.codec)


def _clip_segments(model: Model, clips: np.ndarray, time_seconds: np.ndarray, seconds: float) -> tuple[Segment, ...]:
    """The label of each clip or window of a video, with its time; clips: (clips, K) probabilities."""
    starts, size = model.clips_of(len(time_seconds))
    found = []
    for start, row in zip(starts, clips, strict=True):
        end = min(seconds, round(float(time_seconds[start]) + size / model.spec.view.fps, 3))
        best = int(row.argmax())
        found.append(Segment(round(float(time_seconds[start]), 3), end, model.classes[best], float(row[best])))
    return tuple(found)
