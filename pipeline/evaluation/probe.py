"""The bias probe: a model is shown videos with one thing changed, through its own backbone and crop.

Pictures are changed whole, and cropped afterwards, by the functions of extraction; so an unchanged video comes out bit
for bit as it was extracted, and what differs is the change.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.errors import ConfigError, LrcnError, VideoError
from pipeline.evaluation.flips import Shown
from pipeline.features.backbones import Backbone
from pipeline.features.extract import Extractor
from pipeline.models.modelfolder import Model
from pipeline.video.changes import BACKGROUND_CHANGES, CHANGES, Picture, changed, separate
from pipeline.video.reader import Frame, i420_to_rgb
from pipeline.view import features_key

UNCHANGED = "unchanged"
MAX_BYTES = 2**29  # of a video's frames in memory; a few changed copies of them come on top
CPU_TOLERANCE, CUDA_TOLERANCE = 1e-5, 0.05  # on a GPU features are of 8 bits, and not the same bits in every run


@dataclass(frozen=True)
class Clip:
    """The timesteps of a video. frames: `(T, H, W, 3) uint8` RGB, all that the view's crops are cut of."""

    frames: np.ndarray
    time_seconds: np.ndarray
    pts_seconds: np.ndarray


@dataclass(frozen=True)
class Subject:
    """A video to be probed. labels: as in Shown, of the clip task (1,), of the frame task (T,). load: reads it anew."""

    video_id: str
    group: str
    labels: np.ndarray
    load: Callable[[], Clip]


class TooLong(VideoError):
    """A video whose frames do not fit into the memory that the probe takes for one."""


def read_clip(frames: Iterable[Frame]) -> Clip:
    """Decoded frames as RGB; raises TooLong when they need more than MAX_BYTES."""
    rgb: list[np.ndarray] = []
    times: list[tuple[float, float]] = []
    for frame in frames:
        rgb.append(i420_to_rgb(frame.i420))
        times.append((frame.time_seconds, frame.pts_seconds))
        if len(rgb) * rgb[0].nbytes > MAX_BYTES:
            raise TooLong(f"its frames need more than {MAX_BYTES // 2**20} MB of memory; probe a part of it")
    return Clip(np.stack(rgb), *np.array(times).T)


class Prober:
    """Answers of one model to videos as they are and changed.

    backbone: the model's own CNN. workers: as for Extractor. Raises ConfigError for a model that looks at optical flow
    or at ready-made features, ViewMismatch for another backbone.
    """

    def __init__(self, model: Model, backbone: Backbone, workers: int = 1) -> None:
        view, device = model.spec.view, model.network.feature_mean.device
        if view.flow or not view.has_pictures:
            seen = "optical flow" if view.flow else "ready-made features"
            raise ConfigError(f"the probe changes pictures, and this model looks at {seen}; expected one of colour")
        model.require_features(features_key(view, backbone.name, backbone.weights_sha256))
        self.model = model
        self.extractor = Extractor(backbone, view.crop, device, workers=workers, crops=view.crops)

    def answers(self, clip: Clip, versions: Mapping[str, Callable[[], np.ndarray]]) -> dict[str, np.ndarray]:
        """Class probabilities by version: `(1, K)` float32 of a clip model, `(T, K)` of a frame model.

        versions: give the frames `(T, H, W, 3) uint8`; they are called one after the other, where the crops are cut, so
        that not all of them lie in memory at a time.
        """

        def pictures(version: Callable[[], np.ndarray]) -> Iterator[Picture]:
            for time, pts, rgb in zip(clip.time_seconds, clip.pts_seconds, version(), strict=True):
                yield Picture(time, pts, rgb)

        found = {}
        for name, result in self.extractor.run((name, pictures(version)) for name, version in versions.items()):
            if isinstance(result, Exception):
                raise result
            probs = self.model.predict_features(result.values.astype(np.float32))
            found[name] = probs[None] if self.model.task == "clip" else probs
        return found

    def unchanged(self, clip: Clip) -> np.ndarray:
        """The answer to a video as it is, through the path that changed ones take."""
        return self.answers(clip, {UNCHANGED: lambda: clip.frames})[UNCHANGED]

    def check(self, video_id: str, probs: np.ndarray, stored: np.ndarray) -> None:
        """Raise LrcnError unless the answer to an unchanged video is the one that its stored features give."""
        same_shape = probs.shape == np.atleast_2d(stored).shape
        difference = float(np.abs(probs - stored).max()) if same_shape else np.inf
        if not difference <= (CUDA_TOLERANCE if self.extractor.on_gpu else CPU_TOLERANCE):
            raise LrcnError(
                f"{video_id}: unchanged, the probe gets another answer than the evaluation (probabilities differ by "
                f"{difference:.2g}); expected the same frames, weights and kind of device: "
                "run the extract, train and evaluate stages again here"
            )

    def probe(
        self,
        subjects: Sequence[Subject],
        donors: Sequence[Subject],
        *,
        seed: int,
        expected: Callable[[Subject], np.ndarray] | None = None,
    ) -> Iterator["Probed"]:
        """Show each subject with all changes that can be made to it.

        donors: videos whose backgrounds may be borrowed: of another group, and in the clip task another class, than the
        subject's; drawn from the seed and the subject's place in the list. expected: gives the evaluation's answer, see
        `check`.
        """
        for number, subject in enumerate(subjects):
            try:
                clip = subject.load()
            except VideoError as error:
                yield Probed(subject, None, 0.0, {}, [], {"everything": str(error)})
                continue
            layers = separate(clip.frames)
            reasons = dict.fromkeys(BACKGROUND_CHANGES, layers.problem) if layers.problem else {}
            other = None if reasons else self._background_for(subject, donors, np.random.default_rng([seed, number]))
            if other is None:
                reasons.setdefault("background_replaced", "no other video of another class and group")
            versions = {
                name: partial(changed, name, clip.frames, layers, other) for name in CHANGES if name not in reasons
            }
            answers = self.answers(clip, {UNCHANGED: lambda frames=clip.frames: frames, **versions})  # type: ignore[misc]
            before = answers.pop(UNCHANGED)
            if expected is not None:
                self.check(subject.video_id, before, expected(subject))
            shown = [
                Shown(subject.video_id, subject.group, name, subject.labels, before, after)
                for name, after in answers.items()
            ]
            yield Probed(subject, clip, layers.foreground_share, versions, shown, reasons)

    def _background_for(
        self, subject: Subject, donors: Sequence[Subject], rng: np.random.Generator
    ) -> np.ndarray | None:
        """The background of a donor, None when there is none to be had."""
        is_clip = self.model.task == "clip"
        fit = [
            donor
            for donor in donors
            if donor.group != subject.group and not (is_clip and donor.labels[0] == subject.labels[0])
        ]
        for place in rng.permutation(len(fit)):
            with suppress(VideoError):
                layers = separate(fit[place].load().frames)
                if not layers.problem:
                    return layers.background
        return None


@dataclass(frozen=True)
class Probed:
    """A subject that was probed.

    clip: None when it could not be read. versions: give its changed frames, by change. reasons: of the changes that
    were not made, by change (`everything`: of all).
    """

    subject: Subject
    clip: Clip | None
    foreground_share: float
    versions: Mapping[str, Callable[[], np.ndarray]]
    shown: Sequence[Shown]
    reasons: Mapping[str, str]


def left_out(probed: Iterable[Probed]) -> dict[str, int]:
    """How many videos were not shown with a change, by change and reason."""
    return dict(Counter(f"{change}: {reason}" for one in probed for change, reason in one.reasons.items()))


def spread(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Places of `count` items, spread evenly over their labels, drawn from the seed; in increasing order.

    >>> spread([0, 0, 0, 0, 1, 1], 4, seed=0)[-2:]
    [4, 5]
    """
    turns: dict[int, int] = defaultdict(int)
    ranked: list[tuple[int, int, int]] = []
    for place in np.random.default_rng(seed).permutation(len(labels)).tolist():
        ranked.append((turns[labels[place]], len(ranked), place))
        turns[labels[place]] += 1
    return sorted(place for _, _, place in sorted(ranked)[:count])
