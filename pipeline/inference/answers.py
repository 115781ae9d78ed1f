"""What is said of a file: a label with its probability and stretches in seconds, or the reason why there is none."""

import hashlib
import os
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from pipeline.errors import RejectedVideo

Status = Literal["ok", "damaged", "rejected", "failed"]


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one label: seconds from the first frame, mean probability of the label in it."""

    start_seconds: float
    end_seconds: float
    label: str
    score: float


@dataclass(frozen=True)
class VideoFacts:
    """What decoding said of a video; see Verdict. num_frames: all that were decoded, at the video's own rate."""

    num_frames: int
    duration_seconds: float | None
    width: int
    height: int
    codec: str

    @property
    def fps(self) -> float | None:
        """Frames per second on average; None where it is unknown."""
        if not self.duration_seconds or self.num_frames < 2:
            return None
        return (self.num_frames - 1) / self.duration_seconds


@dataclass(frozen=True, eq=False)
class Timesteps:
    """The answer at each timestep: times (T,) float64 in seconds, probabilities (T, K) float32.

    Of a frame model its own; of a clip model that read several windows the mean of those that cover the timestep.
    """

    time_seconds: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Answer:
    """What became of one file.

    status: ok, damaged (answered from its readable part), rejected (no usable frame), failed (it could be read but not
    answered). label, score: of the whole video, with its probability; of a frame model the action that fills most of
    it, with its share of the time. frames: timesteps looked at. seconds: length on the view's grid. scores: probability
    (frame model: share of the time) of each class. segments: of a frame model the runs of one label, the background
    left out; of a clip model the clips or windows it looked at. video: None where there was none (ready-made features).
    timesteps: of a frame model, and of a clip model that read several windows, while the answer is fresh; they are
    kept in a file of their own.
    """

    path: str
    status: Status
    reason: str = ""
    label: str = ""
    score: float | None = None
    runner_up: str = ""
    runner_up_score: float | None = None
    frames: int = 0
    seconds: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    video: VideoFacts | None = None
    timesteps: Timesteps | None = field(default=None, compare=False, repr=False)

    @property
    def is_answered(self) -> bool:
        """Whether there is a label."""
        return self.status in ("ok", "damaged")

    def to_json(self) -> dict[str, Any]:
        """Plain values, `timesteps` left out."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "timesteps"}
        values["segments"] = [asdict(segment) for segment in self.segments]
        values["video"] = None if self.video is None else asdict(self.video)
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Answer":
        """The answer whose `to_json` went through JSON; raises KeyError or TypeError for anything else."""
        segments = tuple(Segment(**segment) for segment in values["segments"])
        video = None if values["video"] is None else VideoFacts(**values["video"])
        return cls(**{**values, "segments": segments, "video": video})


def status_of(error: Exception) -> Literal["rejected", "failed"]:
    """The status of a file whose frames ended in an error; what may go better next time is no answer to keep."""
    return "rejected" if isinstance(error, RejectedVideo) and not error.is_transient else "failed"


def reason_of(error: Exception) -> str:
    """Why a file has no answer; what nobody foresaw is named by its type too."""
    if isinstance(error, RejectedVideo):
        return str(error)
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}" if str(error) else "not enough memory"
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def output_name(path: str) -> str:
    """Name, without ending, of what is written for one file: its own, made harmless, and twelve digits of its path.

    Two files never share a name, whatever they are called and wherever they lie.

    >>> output_name("clips/sit down.mp4")
    'sit_down.mp4-a7b653e00b63'
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", os.path.basename(path))[-80:].lstrip(".-")  # noqa: PTH119
    return f"{stem or 'file'}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"


def is_output_name(stem: str) -> bool:
    """Whether a name without ending looks like one of `output_name`: other files in those folders are not touched."""
    return re.fullmatch("[A-Za-z0-9._-]+-[0-9a-f]{12}", stem) is not None
