"""Frames on disk: one lossless video file per source video, named by its content hash, with a record beside it."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RejectedVideo, StoreError
from pipeline.files import replacing, sweep, write_text
from pipeline.video.i420 import I420
from pipeline.video.lossless import read_lossless, write_lossless
from pipeline.video.reader import Frame
from pipeline.video.source import one_line
from pipeline.video.verdict import Verdict

MEDIA, RECORD = ".mkv", ".json"
ADVICE = "run the decode stage again: it rebuilds what is missing or damaged"


@dataclass(frozen=True)
class StoredInfo:
    """What stands in the store for one video. size_bytes: of the file of frames; 0 for a rejected video."""

    num_frames: int
    width: int
    height: int
    size_bytes: int
    verdict: Verdict


@dataclass(frozen=True)
class _Record:
    """The contents of a `.json` file. checksum: SHA-256 of the `.mkv` file, "" when there is none."""

    key: str
    sha256: str
    checksum: str
    info: StoredInfo
    time_seconds: list[float]
    pts_seconds: list[float]


class FrameStore:
    """A folder of frames made under one key; safe for several writers, a damaged entry is noticed when it is read.

    `<sha256>.mkv` holds the frames, `<sha256>.json` their times, the verdict on the source, and a checksum of both.
    The record is written last: an entry is there when its record is. Frames come back byte for byte.

    folder: created at the first write. key: everything that shapes the frames (View.frames_key).
    """

    def __init__(self, folder: Path | str, key: str) -> None:
        self.folder = Path(folder)
        self.key = key
        self._swept = False

    def has(self, sha256: str, verify: bool = True) -> bool:
        """Whether an entry of this key is there, undamaged; that of a rejected video counts.

        verify=False trusts the file of frames if its size is right, and does not read it.
        """
        try:
            record = self._record(sha256)
            self._check_media(record, verify)
        except StoreError:
            return False
        return True

    def write(self, sha256: str, frames: Iterable[Frame], verdict_fn: Callable[[], Verdict]) -> StoredInfo:
        """Store the frames of a video as they come, and the verdict that stands when the last one has come.

        Whole or not at all: when `frames` or `verdict_fn` raises, nothing is left behind and the error passes through.
        Raises ValueError when there are no frames, or frames of different sizes.
        """
        media = self._path(sha256, MEDIA)
        self._sweep()
        times: list[float] = []
        stamps: list[float] = []

        def timed() -> Iterator[tuple[float, I420]]:
            for frame in frames:
                times.append(frame.time_seconds)
                stamps.append(frame.pts_seconds)
                yield frame.time_seconds, frame.i420

        with replacing(media) as temporary:
            num_frames, width, height = write_lossless(temporary, timed())
            info = StoredInfo(num_frames, width, height, temporary.stat().st_size, verdict_fn())
            checksum = _file_checksum(temporary)
        self._write_record(_Record(self.key, sha256, checksum, info, times, stamps))
        return info

    def write_rejected(self, sha256: str, verdict: Verdict) -> StoredInfo:
        """Store that a video has no usable frame, so that nobody decodes it again to find out."""
        if verdict.status != "rejected":
            raise ValueError(f"the verdict on {sha256} is {verdict.status}; expected rejected, or frames to go with it")
        self._sweep()
        info = StoredInfo(0, 0, 0, 0, verdict)
        self._write_record(_Record(self.key, sha256, "", info, [], []))
        self._path(sha256, MEDIA).unlink(missing_ok=True)
        return info

    def read(self, sha256: str) -> Iterator[Frame]:
        """Frames of a video in order; the entry is verified when the first one is asked for.

        Raises StoreError when there is no entry of this key or it is damaged, RejectedVideo with the reason when the
        video was rejected.
        """
        record = self._usable(sha256)
        self._check_media(record, verify=True)
        times = zip(record.time_seconds, record.pts_seconds, strict=True)
        path = self._path(sha256, MEDIA)
        try:
            for (time, pts), i420 in zip(times, read_lossless(path), strict=True):
                yield Frame(time, pts, i420)
        except (av.FFmpegError, IndexError, ValueError) as error:
            raise StoreError(f"{path}: cannot be decoded as it was stored ({one_line(error)}); {ADVICE}") from error

    def info(self, sha256: str) -> StoredInfo:
        """Number, size and verdict of a video's frames; raises StoreError when there is no such entry."""
        return self._record(sha256).info

    def verdict(self, sha256: str) -> Verdict:
        """The verdict on a video; raises StoreError when there is no entry of this key or its record is damaged."""
        return self._record(sha256).info.verdict

    def times(self, sha256: str) -> NDArray[np.float64]:
        """Grid times `(T,) float64` of a video's frames in seconds; raises what `read` raises, but reads no frame."""
        return np.asarray(self._usable(sha256).time_seconds, np.float64)

    def prune(self, keep: Collection[str]) -> list[str]:
        """Delete the entries of videos that are not in `keep`, whatever their key, and what dead writers left.

        Returns the hashes deleted.
        """
        removed = set()
        for path in sorted(self.folder.glob("*")):
            if path.suffix in (MEDIA, RECORD) and _is_sha256(path.stem) and path.stem not in keep:
                path.unlink(missing_ok=True)
                removed.add(path.stem)
        sweep(self.folder)
        return sorted(removed)

    def _path(self, sha256: str, suffix: str) -> Path:
        if not _is_sha256(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256; expected 64 hex digits, as in the videos table")
        return self.folder / f"{sha256}{suffix}"

    def _sweep(self) -> None:
        if not self._swept:
            sweep(self.folder)
            self._swept = True

    def _usable(self, sha256: str) -> _Record:
        record = self._record(sha256)
        if record.info.verdict.status == "rejected":
            raise RejectedVideo(record.info.verdict.reason)
        return record

    def _record(self, sha256: str) -> _Record:
        path = self._path(sha256, RECORD)
        try:
            values = json.loads(path.read_bytes())
            stated = values.pop("record_checksum")
            record = _parse(values)
        except FileNotFoundError:
            raise StoreError(f"{path}: no stored frames of this video; {ADVICE}") from None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{path}: damaged or unreadable record ({type(error).__name__}); {ADVICE}") from error
        if stated != _text_checksum(values) or record.sha256 != sha256:
            raise StoreError(f"{path}: damaged record (the checksum does not fit the contents); {ADVICE}")
        if record.key != self.key:
            raise StoreError(
                f"{path}: frames were made under key {record.key}, expected {self.key} (another rate or size); {ADVICE}"
            )
        return record

    def _write_record(self, record: _Record) -> None:
        values = asdict(record)
        text = json.dumps({**values, "record_checksum": _text_checksum(values)}, indent=1, ensure_ascii=True)
        write_text(self._path(record.sha256, RECORD), text + "\n")

    def _check_media(self, record: _Record, verify: bool) -> None:
        if record.info.verdict.status == "rejected":
            return
        path = self._path(record.sha256, MEDIA)
        try:
            whole = path.stat().st_size == record.info.size_bytes
            whole = whole and (not verify or _file_checksum(path) == record.checksum)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror}); {ADVICE}") from error
        if not whole:
            raise StoreError(f"{path}: damaged frames (the checksum does not fit the contents); {ADVICE}")


def _parse(values: dict[str, Any]) -> _Record:
    info = dict(values["info"])
    verdict = dict(info["verdict"])
    verdict["notes"] = tuple(verdict["notes"])
    info["verdict"] = Verdict(**verdict)
    return _Record(**{**values, "info": StoredInfo(**info)})


def _is_sha256(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def _file_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_checksum(values: dict[str, Any]) -> str:
    # Through text and back: a tuple becomes a list there, and the digest must be that of what will be read.
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode("ascii")).hexdigest()
