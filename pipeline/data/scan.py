"""The media folder as rows of `videos.csv`: every file answered for, hashed, and described by its header."""

import math
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pipeline.data.tables import Video
from pipeline.discovery import walk
from pipeline.errors import DataError, RejectedVideo, VideoError
from pipeline.files import content_hash
from pipeline.threads import in_threads


class VideoHeader(Protocol):
    """What a container states about its video; `pipeline.video` fills it, so that nothing here opens media."""

    @property
    def codec(self) -> str: ...  # noqa: D102
    @property
    def pixel_format(self) -> str: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def rotation_degrees(self) -> int: ...  # noqa: D102
    @property
    def fps_header(self) -> float | None: ...  # noqa: D102
    @property
    def duration_seconds_header(self) -> float | None: ...  # noqa: D102
    @property
    def num_frames_header(self) -> int: ...  # noqa: D102
    @property
    def has_audio(self) -> bool: ...  # noqa: D102
    @property
    def bit_rate(self) -> int: ...  # noqa: D102


OWN_TABLE = "a table of the data set"
ReadHeader = Callable[[Path], VideoHeader]


def scan_media(media: Path, read_header: ReadHeader, *, tables: Collection[str] = (), workers: int = 1) -> list[Video]:
    """One row for every file below `media`, without label and group, in the order of the paths' bytes.

    Symbolic links are followed, and each name of a file has its row: labels may be given to any of them; a folder with
    several names is entered by one. Hidden files, files that are no video and what cannot be read or listed are rows
    with status `rejected` and a reason. read_header: raises RejectedVideo for what is no video. tables: paths of the
    data set's own tables and lists (or of folders of them), which are not offered to it. workers: files read at a time.
    Raises DataError when the media folder itself cannot be listed.
    """
    start = len(os.path.join(media, ""))  # noqa: PTH118 - the walk joins its paths like this
    entries = []
    for entry in walk([str(media)], enter_hidden=True):
        if entry.path == str(media):
            raise DataError(f"{media}: {entry.reason}; make it readable")
        entries.append((entry.path[start:], entry.reason))
    entries.sort(key=lambda item: os.fsencode(item[0]))
    return list(in_threads(lambda item: _row(media, item[0], item[1], read_header, tables), entries, max(1, workers)))


def folder_state(media: Path) -> set[tuple[str, int, int]]:
    """Path, size in bytes and modification time in nanoseconds of every file that `scan_media` would list."""
    found = set()
    for entry in walk([str(media)], enter_hidden=True):
        with suppress(OSError):
            stat = os.stat(entry.path)  # noqa: PTH116 - a name that is no valid UTF-8 stays as it is
            found.add((entry.path, stat.st_size, stat.st_mtime_ns))
    return found


def _row(media: Path, video_id: str, reason: str, read_header: ReadHeader, tables: Collection[str]) -> Video:
    if reason:
        return Video(video_id, "", 0, "rejected", reason)
    path = media / video_id
    try:
        size_bytes, sha256 = path.stat().st_size, content_hash(path)
    except OSError as error:
        return Video(video_id, "", 0, "rejected", f"cannot be read ({error.strerror})")
    if any(part.startswith(".") for part in video_id.split("/")):
        return Video(video_id, sha256, size_bytes, "rejected", "a hidden file, which systems and editors leave behind")
    if any(video_id == table or video_id.startswith(f"{table}/") for table in tables):
        return Video(video_id, sha256, size_bytes, "rejected", OWN_TABLE)
    try:
        header = read_header(path)
    except RejectedVideo as error:
        advice = "; this may pass: run the index stage again" if error.is_transient else ""
        return Video(video_id, sha256, size_bytes, "rejected", _one_line(error) + advice)
    except VideoError:
        raise  # no fault of the file
    except Exception as error:  # noqa: BLE001  whatever one file makes a demuxer do, the other files must be listed
        reason = f"its header cannot be read ({type(error).__name__}: {_one_line(error)})"
        return Video(video_id, sha256, size_bytes, "rejected", reason)
    return Video(
        video_id=video_id,
        sha256=sha256,
        size_bytes=size_bytes,
        status="ok",
        codec=header.codec,
        pixel_format=header.pixel_format,
        width=header.width,
        height=header.height,
        rotation_degrees=header.rotation_degrees,
        fps_header=_finite(header.fps_header),
        duration_seconds_header=_finite(header.duration_seconds_header),
        num_frames_header=header.num_frames_header,
        has_audio=header.has_audio,
        bit_rate=header.bit_rate,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
