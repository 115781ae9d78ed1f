"""Frames on disk: one lossless video file per source video, named by its content hash, with a record beside it."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RejectedVideo, StoreError
from pipeline.files import replacing, write_text
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

    folder: created at the first write. key: everything that shapes the frames (View.frames_key); None to look at
    entries of any key.
    """

    def __init__(self, folder: Path | str, key: str | None) -> None:
        self.folder = Path(folder)
        self.key = key

    def has(self, sha256: str) -> bool:
        """Whether an entry of this key is there, undamaged: all of it is read. That of a rejected video counts."""
        return not self.fault(sha256)

    def fault(self, sha256: str) -> str:
        """What is wrong with an entry, all of which is read; "" when nothing is."""
        try:
            record = self._record(sha256)
            if record.info.verdict.status != "rejected":
                with self._media(record):
                    pass
        except StoreError as error:
            return str(error)
        return ""

    def write(self, sha256: str, frames: Iterable[Frame], verdict_fn: Callable[[], Verdict]) -> StoredInfo:
        """Store the frames of a video as they come, and the verdict that stands when the last one has come.

        Whole or not at all: when `frames` or `verdict_fn` raises, nothing is left behind and the error passes through.
        Raises ValueError when there are no frames, or frames of different sizes.
        """
        key, media = self._own_key(), self._path(sha256, MEDIA)
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
            with temporary.open("rb") as file:
                checksum = _checksum(file)
        self._write_record(_Record(key, sha256, checksum, info, times, stamps))
        return info

    def write_rejected(self, sha256: str, verdict: Verdict) -> StoredInfo:
        """Store that a video has no usable frame, so that nobody decodes it again to find out."""
        if verdict.status != "rejected":
            raise ValueError(f"the verdict on {sha256} is {verdict.status}; expected rejected, or frames to go with it")
        info = StoredInfo(0, 0, 0, 0, verdict)
        self._write_record(_Record(self._own_key(), sha256, "", info, [], []))
        self._path(sha256, MEDIA).unlink(missing_ok=True)
        return info

    def read(self, sha256: str) -> Iterator[Frame]:
        """Frames of a video in order; the entry is verified when the first one is asked for.

        Raises StoreError when there is no entry of this key or it is damaged, RejectedVideo with the reason when the
        video was rejected.
        """
        record = self._usable(sha256)
        times = zip(record.time_seconds, record.pts_seconds, strict=True)
        with self._media(record) as file:
            try:
                for (time, pts), i420 in zip(times, read_lossless(file), strict=True):
                    yield Frame(time, pts, i420)
            except (av.FFmpegError, IndexError, ValueError) as error:
                path = self._path(sha256, MEDIA)
                raise StoreError(f"{path}: cannot be decoded as it was stored ({one_line(error)}); {ADVICE}") from error

    def checksum(self, sha256: str) -> str:
        """SHA-256 of an entry's record, which holds that of its frames; raises StoreError when there is no entry."""
        return _text_checksum(asdict(self._record(sha256)))

    def info(self, sha256: str) -> StoredInfo:
        """Number, size and verdict of a video's frames; raises StoreError when there is no such entry."""
        return self._record(sha256).info

    def verdict(self, sha256: str) -> Verdict:
        """The verdict on a video; raises StoreError when there is no entry of this key or its record is damaged."""
        return self._record(sha256).info.verdict

    def times(self, sha256: str) -> NDArray[np.float64]:
        """Grid times `(T,) float64` of a video's frames in seconds; raises what `read` raises, but reads no frame."""
        return np.asarray(self._usable(sha256).time_seconds, np.float64)

    def pts(self, sha256: str) -> NDArray[np.float64]:
        """Presentation times `(T,) float64` of the frames shown at those times; as `times`."""
        return np.asarray(self._usable(sha256).pts_seconds, np.float64)

    def entries(self) -> list[str]:
        """Content hashes of the videos of which something is here, whatever its key or state, in order."""
        paths = self.folder.glob("*")
        return sorted({path.stem for path in paths if path.suffix in (MEDIA, RECORD) and _is_sha256(path.stem)})

    def size_bytes(self, sha256: str) -> int:
        """Disk space that a video's files take, whatever their key or state."""
        return sum(path.stat().st_size for path in self._paths(sha256) if path.exists())

    def remove(self, sha256: str) -> None:
        """Delete a video's files, whatever their key or state."""
        for path in self._paths(sha256):
            path.unlink(missing_ok=True)

    def prune(self, keep: Collection[str]) -> list[str]:
        """Delete the entries of videos that are not in `keep`, whatever their key; returns their hashes."""
        removed = [sha256 for sha256 in self.entries() if sha256 not in keep]
        for sha256 in removed:
            self.remove(sha256)
        return removed

    def _paths(self, sha256: str) -> list[Path]:
        return [self._path(sha256, suffix) for suffix in (RECORD, MEDIA)]

    def _path(self, sha256: str, suffix: str) -> Path:
        if not _is_sha256(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256; expected 64 hex digits, as in the videos table")
        return self.folder / f"{sha256}{suffix}"

    def _own_key(self) -> str:
        if self.key is None:
            raise ValueError(f"{self.folder}: opened for entries of any key; expected a key, to write under")
        return self.key

    def _usable(self, sha256: str) -> _Record:
        record = self._record(sha256)
        if record.info.verdict.status == "rejected":
            raise RejectedVideo(record.info.verdict.reason)
        return record

    def _record(self, sha256: str) -> _Record:
        path = self._path(sha256, RECORD)
        try:
            text = path.read_bytes()
            values = json.loads(text)
            stated = values.pop("record_checksum")
            record = _parse(values)
        except FileNotFoundError:
            raise StoreError(f"{path}: no stored frames of this video; {ADVICE}") from None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{path}: damaged or unreadable record ({type(error).__name__}); {ADVICE}") from error
        # The text too: a flipped bit may turn a number into another spelling of itself.
        if stated != _text_checksum(values) or record.sha256 != sha256 or text != _record_text(values).encode("ascii"):
            raise StoreError(f"{path}: damaged record (the checksum does not fit the contents); {ADVICE}")
        if self.key not in (None, record.key):
            raise StoreError(
                f"{path}: frames were made under key {record.key}, expected {self.key} (another rate or size); {ADVICE}"
            )
        return record

    def _write_record(self, record: _Record) -> None:
        write_text(self._path(record.sha256, RECORD), _record_text(asdict(record)))

    @contextmanager
    def _media(self, record: _Record) -> Iterator[BufferedReader]:
        """The file of frames, verified, and open: what is read is what was verified, even if another takes its name."""
        path = self._path(record.sha256, MEDIA)
        try:
            file = path.open("rb")
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror}); {ADVICE}") from error
        with file:
            try:
                whole = os.fstat(file.fileno()).st_size == record.info.size_bytes
                whole = whole and _checksum(file) == record.checksum
                file.seek(0)
            except OSError as error:
                raise StoreError(f"{path}: cannot be read ({error.strerror}); {ADVICE}") from error
            if not whole:
                raise StoreError(f"{path}: damaged frames (the checksum does not fit the contents); {ADVICE}")
            yield file


def _parse(values: dict[str, Any]) -> _Record:
    info = dict(values["info"])
    info["verdict"] = Verdict.from_json(info["verdict"])
    return _Record(**{**values, "info": StoredInfo(**info)})


def _is_sha256(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def _checksum(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _record_text(values: dict[str, Any]) -> str:
    text = json.dumps({**values, "record_checksum": _text_checksum(values)}, indent=1, ensure_ascii=True)
    return text + "\n"


def _text_checksum(values: dict[str, Any]) -> str:
    # Through text and back: a tuple becomes a list there, and the digest must be that of what will be read.
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode("ascii")).hexdigest()
