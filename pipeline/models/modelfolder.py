"""A model is a folder: weights, backbone weights, and `model.yaml` that says everything else. No pickle.

    model.safetensors      the recurrent classifier
    backbone.safetensors   the CNN before it
    fold.csv               the videos of its fold by SHA-256, with their sides: a model knows what it was trained on
    model.yaml             task, classes in order, architecture, view, features key, provenance, calibration, hashes

Folder + video = prediction, offline. The same folder is what MLflow logs.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.device import Halving
from pipeline.errors import ModelError, ViewMismatch
from pipeline.features.store import VideoFeatures
from pipeline.files import content_hash, write_table
from pipeline.models.calibration import UNCALIBRATED
from pipeline.models.modelspec import (
    FILES,
    FOLD_COLUMNS,
    FOLD_FILE,
    MODEL_FORMAT,
    FoldVideo,
    ModelSpec,
    verify_model,
)
from pipeline.models.recurrent import RecurrentClassifier, Steps
from pipeline.models.streaming import Stream

CLIPS_AT_A_TIME = 64  # also sequences: crops of a video
__all__ = ["Model", "ModelSpec", "load_model", "save_model"]


@contextmanager
def _one_thread() -> Iterator[None]:
    """One video's sequence is too short to be divided: two threads take twice as long, and more beside others' work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Model:
    """A trained network with its view and class names; made by `load_model` or by training.

    All probabilities it gives are calibrated, by the temperature in its `calibration`.
    """

    def __init__(self, spec: ModelSpec, network: RecurrentClassifier, folder: Path | None = None) -> None:
        self.spec = spec
        self.network = network.eval()
        self.folder = folder
        self._clips_at_a_time = Halving(CLIPS_AT_A_TIME, "clips")
        self._crops_at_a_time = Halving(CLIPS_AT_A_TIME, "sequences")

    @property
    def task(self) -> str:
        """`clip` (one label per video) or `frame` (one label per timestep)."""
        return self.spec.task

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the scores."""
        return list(self.spec.classes)

    def uncalibrated(self) -> "Model":
        """The same network, whose probabilities are as it was trained to give them."""
        return Model(replace(self.spec, calibration=UNCALIBRATED), self.network, self.folder)

    def threshold(self, precision: float) -> float | None:
        """Lowest probability of an answer that is sure, for a wanted share of right ones among the sure.

        Of the precisions in the model the next higher one is taken; None where the validation side showed no such
        threshold, or the wanted precision is above all in the model.
        """
        return self.spec.calibration.threshold(precision)

    def require_features(self, features_key: str) -> None:
        """Raise ViewMismatch unless features of this key are what the model was trained on."""
        if features_key != self.spec.features_key:
            raise ViewMismatch(
                f"features {features_key} were made under another view or by another backbone than this model's "
                f"{self.spec.features_key} ({self.spec.view}, {self.spec.backbone}); "
                "extract them again with the model's own view"
            )

    def predict(self, features: VideoFeatures, features_key: str) -> np.ndarray:
        """Class probabilities of stored features; raises ViewMismatch when they are of another view."""
        self.require_features(features_key)
        return self.predict_features(features.values.astype(np.float32))

    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities of one video, averaged over the crops where there are several.

        Args:
            features: (T, D) or (T, crops, D) float32, one row per timestep of the model's view.

        Returns:
            float32; (K,) for a clip model: the mean over the view's clips, then calibrated; (T, K) for a frame model.

        Raises:
            ModelError: the features have another size than the network's.
        """
        return self.predict_with_clips(features)[0] if self.task == "clip" else self.step_probabilities(features)

    def predict_clips(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (clips, K) float32 of each clip that is cut out of a video, see `clips_of`.

        features: (T, D) or (T, crops, D) float32; probabilities are averaged over the crops. The temperature was fitted
        to answers for whole videos; for a clip of several it is the same, for want of labels of clips.
        """
        return self.predict_with_clips(features)[1]

    def predict_with_clips(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A clip model's answer for a video, (K,), and for each of its clips, (clips, K); see the two above."""
        clips = self._clip_probabilities(features)
        apply = self.spec.calibration.apply
        return apply(np.asarray(clips.mean(axis=0))), apply(clips)

    def clips_of(self, num_steps: int) -> tuple[list[int], int]:
        """First timesteps of the clips that are cut out of a video of `num_steps`, and the timesteps of each.

        They are the view's. Where the whole video is one clip, a video that is more than twice as long as any the model
        was trained on is no such clip but a recording: it is read in windows of the longest training video's length,
        each of which begins in the middle of the one before.
        """
        view, longest = self.spec.view, self.spec.longest_steps
        if view.clip_frames == 0 and longest and num_steps > 2 * longest:
            view = replace(view, clip_frames=longest, clip_stride=max(1, longest // 2))
        return view.clip_starts(num_steps), min(view.clip_frames or num_steps, num_steps)

    @_one_thread()
    def _clip_probabilities(self, features: np.ndarray) -> np.ndarray:
        parts = []
        for starts, part in self._clips(features):
            probs = self.network.clip_probabilities(part)
            parts.append(probs.reshape(len(starts), -1, probs.shape[-1]).mean(dim=1).cpu())
        return np.concatenate(parts)

    @_one_thread()
    def time_weights(self, features: np.ndarray) -> np.ndarray:
        """What each timestep counts in a clip model's answer, (T,) float32; they add up to 1.

        Over several clips or crops the mean. Where the head is `attention`, this is where the network looks.
        """
        total, num_clips = np.zeros(len(features), np.float32), 0
        for starts, part in self._clips(features):
            by_clip = part.weights.reshape(len(starts), -1, part.weights.shape[-1]).mean(dim=1)
            for start, weights in zip(starts, np.asarray(by_clip.cpu()), strict=True):
                total[start : start + len(weights)] += weights
            num_clips += len(starts)
        return total / np.float32(num_clips)

    @_one_thread()
    def step_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (T, K) float32 of each timestep, read as one sequence; the mean over the crops."""
        steps = self._steps(features)
        with torch.inference_mode():
            crops = self._crops_at_a_time.over(len(steps), lambda some: self.network.read(steps[some]).float())
            logits = torch.cat(list(crops))
            return self.spec.calibration.apply(np.asarray(logits.softmax(dim=-1).mean(dim=0).cpu()))

    def stream(self) -> Stream:
        """Follow a video as it comes; the answers are those of reading it whole, to 1e-5.

        Raises ModelError for a model that cannot: a network that needs the end of the video, a clip model that looks at
        clips of some frames and averages, or one that averages over crops.
        """
        view = self.spec.view
        if self.task == "clip" and view.clip_frames:
            raise ModelError(
                f"this model answers for clips of {view.clip_frames} timesteps and averages over them, which is no "
                "stream; train one with view.clip_frames: 0, or a frame model"
            )
        if view.crops > 1:
            raise ModelError(
                f"this model averages over {view.crops} crops of a frame; a stream has one: train with view.crops: 1"
            )
        return Stream(self.network, self.spec.task, self.spec.calibration)

    def _clips(self, features: np.ndarray) -> Iterator[tuple[list[int], Steps]]:
        """The clips of a video, some at a time: the timesteps they begin at, and the network's answer.

        The answer has a row for each crop of the first clip, then of the second, and so on.
        """
        steps = self._steps(features)
        num_crops, num_steps = steps.shape[:2]
        starts, size = self.clips_of(num_steps)

        def answer(rows: slice) -> tuple[list[int], Steps]:
            some = starts[rows]
            with torch.inference_mode():
                clips = torch.cat([steps[:, start : start + size] for start in some])
                return some, self.network.steps(clips, torch.full((len(some) * num_crops,), size))

        return self._clips_at_a_time.over(len(starts), answer)

    def _steps(self, features: np.ndarray) -> torch.Tensor:
        """(crops, T, D) on the network's device."""
        expected = self.spec.architecture["feature_size"]
        if features.ndim not in (2, 3) or features.shape[-1] != expected or 0 in features.shape:
            raise ModelError(
                f"features of shape {features.shape}; expected (T, {expected}) or (T, crops, {expected}) "
                "with T of 1 or more"
            )
        by_crop = features[None] if features.ndim == 2 else features.swapaxes(0, 1)
        device = self.network.feature_mean.device
        return torch.from_numpy(np.array(by_crop, dtype=np.float32, order="C")).to(device)


def save_model(folder: Path, model: Model, backbone_file: Path, fold: Iterable[FoldVideo] = ()) -> None:
    """Write a model folder; it appears whole or not at all. One process at a time: it removes what a dead one left.

    fold: the videos of the fold it was trained in, on every side.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
        save_file(tensors, temporary / FILES[0])
        shutil.copyfile(backbone_file, temporary / FILES[1])
        names = list(FILES)
        if rows := sorted((video.split, video.sha256, video.size_bytes) for video in fold):
            write_table(temporary / FOLD_FILE, FOLD_COLUMNS, [[sha256, size, split] for split, sha256, size in rows])
            names.append(FOLD_FILE)
        text = {
            "format": MODEL_FORMAT,
            **asdict(model.spec),
            "classes": list(model.spec.classes),
            "files": {name: content_hash(temporary / name) for name in names},
        }
        (temporary / "model.yaml").write_text(
            yaml.safe_dump(text, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8"
        )
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_model(folder: Path | str, device: str = "cpu") -> Model:
    """Read a model folder and check every hash in it.

    Raises:
        ModelError: the folder is missing, incomplete, damaged, or of another format.
    """
    folder = Path(folder)
    spec = verify_model(folder)
    try:
        network = RecurrentClassifier(num_classes=len(spec.classes), **spec.architecture)
        network.load_state_dict(load_file(folder / FILES[0]))
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / FILES[0]}: does not fit the architecture in model.yaml ({error})") from error
    return Model(spec, network.to(device), folder)
