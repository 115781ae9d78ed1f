"""Features on disk: one checksummed `.safetensors` file per video, named by the video's content hash."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from pipeline.errors import RejectedVideo, StoreError, ViewMismatch
from pipeline.files import replacing

SUFFIX = ".safetensors"
SHA256 = re.compile(r"[0-9a-f]{64}")
ADVICE = "run the extract stage again: it rebuilds what is missing or damaged"


@dataclass(frozen=True, eq=False)
class VideoFeatures:
    """What the backbone saw of one video: a vector per timestep, and the times of the timesteps.

    values: (T, D), finite, T >= 1: float16 where a backbone made them, float32 where they came ready-made. (T, C, D) of
        C crops of each frame, in the order of pipeline.features.crop.
    time_seconds: (T,) float64, finite: the times of the grid, from the first frame shown.
    pts_seconds: (T,) float64, finite: presentation times of the frames shown then, minus the first one's.

    Raises ValueError when the arrays are not such.
    """

    values: np.ndarray
    time_seconds: np.ndarray
    pts_seconds: np.ndarray

    def __post_init__(self) -> None:
        if (
            self.values.ndim not in (2, 3)
            or 0 in self.values.shape
            or self.values.dtype not in (np.float16, np.float32)
        ):
            raise ValueError(
                f"feature values are {self.values.dtype} of shape {self.values.shape}; expected float16 or float32 "
                "of shape (T, D) or (T, crops, D) with at least one timestep and one feature"
            )
        for name, times in (("time_seconds", self.time_seconds), ("pts_seconds", self.pts_seconds)):
            if times.shape != self.values.shape[:1] or times.dtype != np.float64:
                raise ValueError(
                    f"{name} is {times.dtype} of shape {times.shape}; "
                    f"expected one float64 for each of the {len(self.values)} feature vectors"
                )
            if not np.isfinite(times).all():
                raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(times))} times that are not finite")
        bad = np.flatnonzero(~np.isfinite(self.values).reshape(len(self.values), -1).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(self.values)} feature vectors are not finite in {self.values.dtype} "
                f"(the first at {self.time_seconds[bad[0]]:.3f} s)"
            )

    @property
    def num_crops(self) -> int:
        """Vectors of each timestep."""
        return 1 if self.values.ndim == 2 else self.values.shape[1]

    def crop(self, number: int) -> np.ndarray:
        """The vectors of one crop, (T, D) of the dtype of `values`, a view; 0 is the centre.

        Raises ValueError for a crop that is not there.
        """
        if not 0 <= number < self.num_crops:
            raise ValueError(
                f"crop {number} of features of shape {self.values.shape}; expected 0 to {self.num_crops - 1}"
            )
        return self.values if self.values.ndim == 2 else self.values[:, number]


class FeatureStore:
    """A folder of features made under one key; safe for several writers, a damaged file is noticed when it is read.

    A video that gives no features (of one picture there is no flow) has a file too, with the reason.

    folder: created at the first write. key: everything that shapes the values (see pipeline.view.features_key); None to
    look at features of any key.
    """

    def __init__(self, folder: Path | str, key: str | None) -> None:
        self.folder = Path(folder)
        self.key = key

    def path(self, sha256: str) -> Path:
        """File of the video with this content hash; raises ValueError for anything but 64 hex digits."""
        if not SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256; expected 64 hex digits, as in the videos table")
        return self.folder / f"{sha256}{SUFFIX}"

    def has(self, sha256: str) -> bool:
        """Whether features of this key are there, undamaged: all of the file is read. A reason for none counts."""
        return not self.fault(sha256)

    def fault(self, sha256: str) -> str:
        """What is wrong with a file, all of which is read; "" when nothing is."""
        try:
            self.read(sha256)
        except RejectedVideo:
            return ""
        except (StoreError, ViewMismatch) as error:
            return str(error)
        return ""

    def write(self, sha256: str, features: VideoFeatures, damage: str = "") -> None:
        """Store a video's features, whole or not at all; what stood there before is replaced.

        damage: what was wrong with the video, "" when all of it could be read.
        """
        if self.key is None:
            raise ValueError(f"{self.folder}: opened for features of any key; expected a key, to write under")
        arrays = {
            "values": features.values,
            "time_seconds": features.time_seconds,
            "pts_seconds": features.pts_seconds,
        }
        label = f"{self.key} {sha256} {damage}"
        metadata = {"key": self.key, "damage": damage, "checksum": checksum(arrays, label)}
        write_arrays(self.path(sha256), arrays, metadata)

    def write_rejected(self, sha256: str, reason: str) -> None:
        """Store that a video gives no features, and why, so that nobody tries it again to find out."""
        if self.key is None or not reason:
            raise ValueError(f"{self.folder}: expected a key to write under, and a reason, got {reason!r}")
        metadata = {"key": self.key, "rejected": reason, "checksum": checksum({}, f"{self.key} {sha256} - {reason}")}
        write_arrays(self.path(sha256), {}, metadata)

    def read(self, sha256: str) -> VideoFeatures:
        """The stored features of a video.

        Raises StoreError when they are missing or damaged, ViewMismatch when they were made under another key,
        RejectedVideo with the reason when the video gives none.
        """
        return self.read_with_damage(sha256)[0]

    def rejection(self, sha256: str) -> str:
        """Why a video gives no features, "" when it has some; raises StoreError and ViewMismatch as `read` does."""
        try:
            self.read(sha256)
        except RejectedVideo as error:
            return str(error)
        return ""

    def read_with_damage(self, sha256: str) -> tuple[VideoFeatures, str]:
        """The same, and what was wrong with the video: "" when all of it could be read."""
        path = self.path(sha256)
        try:
            arrays, metadata = read_arrays(path)
        except FileNotFoundError:
            raise StoreError(f"{path}: no stored features for this video; {ADVICE}") from None
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"{path}: damaged or unreadable features ({' '.join(str(error).split())}); {ADVICE}"
            ) from None
        # Over key and name too: a flipped bit in the key must not pass for another view, nor one video for another.
        reason = metadata.get("rejected", "")
        state = f"- {reason}" if reason else metadata.get("damage")
        if metadata.get("checksum") != checksum(arrays, f"{metadata.get('key')} {sha256} {state}"):
            raise StoreError(f"{path}: damaged features (the checksum does not fit the contents); {ADVICE}")
        if self.key not in (None, metadata.get("key")):
            raise ViewMismatch(
                f"{path}: features were made under key {metadata.get('key')}, expected {self.key} "
                "(another view, backbone or weights); run the extract stage again"
            )
        if reason:
            raise RejectedVideo(reason)
        try:
            return VideoFeatures(**arrays), metadata["damage"]
        except (TypeError, ValueError) as error:
            raise StoreError(f"{path}: unusable features ({error}); {ADVICE}") from None

    def times(self, sha256: str) -> np.ndarray:
        """Times of a video's timesteps, (T,) float64 in seconds; the values are neither read nor verified.

        Raises what `read` raises.
        """
        path = self.path(sha256)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                times = None if metadata.get("rejected") else file.get_tensor("time_seconds")
        except (OSError, SafetensorError):
            return self.read(sha256).time_seconds  # which says what is wrong
        if times is None or self.key not in (None, metadata.get("key")):
            return self.read(sha256).time_seconds
        return np.asarray(times)

    def checksum(self, sha256: str) -> str:
        """The checksum that a video's file states, which `read` compares; raises StoreError when there is no file."""
        path = self.path(sha256)
        try:
            with safe_open(path, framework="numpy") as file:
                return str((file.metadata() or {})["checksum"])
        except (OSError, SafetensorError, KeyError):
            raise StoreError(f"{path}: missing or unreadable features; {ADVICE}") from None

    def entries(self) -> list[str]:
        """Content hashes of the videos that have a file here, whatever its key or state, in order."""
        names = sorted(path.name.removesuffix(SUFFIX) for path in self.folder.glob(f"*{SUFFIX}"))
        return [name for name in names if SHA256.fullmatch(name)]

    def size_bytes(self, sha256: str) -> int:
        """Disk space that a video's file takes, whatever its key or state; 0 when there is none."""
        path = self.path(sha256)
        return path.stat().st_size if path.exists() else 0

    def remove(self, sha256: str) -> None:
        """Delete a video's file, whatever its key or state."""
        self.path(sha256).unlink(missing_ok=True)

    def prune(self, keep: Collection[str]) -> list[str]:
        """Delete the files of videos that are not in `keep`, whatever their key; returns the hashes deleted."""
        removed = [sha256 for sha256 in self.entries() if sha256 not in keep]
        for sha256 in removed:
            self.remove(sha256)
        return removed


def checksum(arrays: Mapping[str, np.ndarray], label: str = "") -> str:
    """SHA-256 hex digest over a label and, in order of their names, the arrays' names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(label).encode("ascii"))
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(json.dumps([name, array.dtype.str, arrays[name].shape]).encode("ascii"))
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a `.safetensors` file whole or not at all; equal contents give equal bytes.

    Raises StoreError when the disk is full; then nothing is left behind.
    """
    blob = safetensors.numpy.save(
        {name: np.asarray(array, order="C") for name, array in arrays.items()}, dict(metadata)
    )
    # safetensors writes its metadata in an order that changes from process to process. Equal files must be equal
    # bytes (DVC compares hashes), so the header (8 bytes of length, then JSON, padded to 8) is written anew, sorted.
    end = 8 + int.from_bytes(blob[:8], "little")
    header = json.dumps(json.loads(blob[8:end]), sort_keys=True, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        file.write(memoryview(blob)[end:])


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a `.safetensors` file; raises OSError or SafetensorError when it cannot be read."""
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
