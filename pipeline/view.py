"""The view: how a model looks at a video. One frozen value, hashed into every store and model."""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

# Raised when the code changes what the same numbers mean, so that nothing made before is taken for current.
FRAMES_FORMAT = 2
FEATURES_FORMAT = 2
FLOW_FORMAT = 1  # of flow images: pipeline/video/flow.py


@dataclass(frozen=True)
class View:
    """How a video is sampled, resized and cut into clips.

    fps: frames taken per second of video, on a time grid that starts at the first frame.
    short_side: pixels of the shorter side after resizing; the longer one follows from the aspect ratio. 0, as crop: no
        pictures, the data set holds ready-made features.
    crop: side in pixels of the square centre crop that the backbone sees.
    clip_frames: timesteps of one clip; 0 = the whole video is one clip.
    clip_stride: timesteps from one clip to the next in validation, test and prediction (LRCN: 16 frames, stride 8).
    crops: squares cut from each frame, each with features of its own: 1 = the centre; 10 = centre and corners, and all
        five mirrored. Training draws one of them for each clip, prediction averages over them (LRCN's test).
    flow: "" = colour; `dis` or `farneback` = optical flow to this frame from the one before, as an image.
    """

    # Read by the configuration's reader: unknown keys and wrong types are errors. Plain data, so that the modules
    # that compute need no configuration library.
    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    fps: float
    short_side: int
    crop: int
    clip_frames: int = 0
    clip_stride: int = 0
    crops: Literal[1, 10] = 1
    flow: Literal["", "dis", "farneback"] = ""

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000:
            raise ValueError(f"view.fps is {self.fps}; expected a rate above 0 and up to 1000 frames per second")
        if not self.has_pictures and (self.crops != 1 or self.flow):
            raise ValueError(
                "view.short_side and view.crop are 0, which means features without pictures: no crops, no flow"
            )
        if self.has_pictures:
            self._check_picture()
        if self.clip_frames < 0 or self.clip_stride < 0:
            raise ValueError("view.clip_frames and view.clip_stride count timesteps; expected 0 or more")
        if (self.clip_frames > 0) != (self.clip_stride > 0):
            raise ValueError(
                f"view.clip_frames is {self.clip_frames} and view.clip_stride is {self.clip_stride}; "
                "expected both above 0 (clips), or both 0 (the whole video is one clip)"
            )

    def _check_picture(self) -> None:
        if not 16 <= self.short_side <= 4096 or self.short_side % 2:
            raise ValueError(f"view.short_side is {self.short_side}; expected an even number of pixels from 16 to 4096")
        if not 16 <= self.crop <= self.short_side:
            raise ValueError(
                f"view.crop is {self.crop}; expected 16 to view.short_side ({self.short_side}) pixels: "
                "the crop is cut out of the resized frame"
            )

    @property
    def has_pictures(self) -> bool:
        """Whether there are frames to look at; False for ready-made features."""
        return not self.short_side == self.crop == 0

    @property
    def frames_key(self) -> str:
        """Identity of stored frames: everything that shapes them, and nothing else."""
        return digest({"format": FRAMES_FORMAT, "fps": float(self.fps), "short_side": self.short_side})

    def clip_starts(self, num_steps: int) -> list[int]:
        """First timesteps of the clips that cover a video; the last clip ends at the video's end.

        >>> View(fps=10, short_side=128, crop=112, clip_frames=16, clip_stride=8).clip_starts(35)
        [0, 8, 16, 19]
        >>> View(fps=10, short_side=128, crop=112, clip_frames=16, clip_stride=8).clip_starts(10)
        [0]
        """
        if self.clip_frames == 0 or num_steps <= self.clip_frames:
            return [0]
        last = num_steps - self.clip_frames
        starts = list(range(0, last + 1, self.clip_stride))
        return starts if starts[-1] == last else [*starts, last]


def features_key(view: View, backbone: str, weights_sha256: str) -> str:
    """Identity of stored features: the frames, the crop, and the network that turned them into vectors."""
    return digest(
        {
            "format": FEATURES_FORMAT,
            "frames": view.frames_key,
            "crop": view.crop,
            "crops": view.crops,
            "flow": f"{view.flow} {FLOW_FORMAT}" if view.flow else "",
            "backbone": backbone,
            "weights": weights_sha256,
        }
    )


def digest(value: object) -> str:
    """First 16 hex digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
