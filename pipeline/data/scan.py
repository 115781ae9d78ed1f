"""The media folder as rows of `videos.csv`: every file answered for, hashed, and described by its header."""

import hashlib
import math
import os
import stat
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from pipeline.data.tables import Video
from pipeline.errors import DataError, RejectedVideo


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


ReadHeader = Callable[[Path], VideoHeader]


def scan_media(media: Path, read_header: ReadHeader, *, tables: Collection[str] = (), workers: int = 1) -> list[Video]:
    """One row for every file below `media`, without label and group, in the order of the paths' bytes.

    Symbolic links are followed. Hidden files, files that are no video and files that cannot be read are rows with
    status `rejected` and a reason. read_header: raises RejectedVideo for what is no video. tables: paths of the data
    set's own tables and lists (or of folders of them), which are not offered to it. workers: files read at a time.
    Raises DataError when a folder cannot be listed or a link leads back into a folder that holds it.
    """
    ids = sorted(_files_below(media, "", ()), key=os.fsencode)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(lambda video_id: _row(media, video_id, read_header, tables), ids))


def _files_below(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> list[str]:
    """Paths of all entries that are no folders, relative to the media folder."""
    try:
        identity = (folder.stat().st_dev, folder.stat().st_ino)
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be listed ({error.strerror}); make it readable") from None
    if identity in above:
        raise DataError(f"{folder}: a symbolic link that leads back into its own folder; remove it")
    found = []
    for entry in entries:
        if entry.is_dir():
            found += _files_below(Path(entry.path), f"{prefix}{entry.name}/", (*above, identity))
        else:
            found.append(prefix + entry.name)
    return found


def _row(media: Path, video_id: str, read_header: ReadHeader, tables: Collection[str]) -> Video:
    path = media / video_id
    try:
        info = path.stat()
        # Opening a pipe would wait for somebody to write into it.
        if not stat.S_ISREG(info.st_mode):
            return Video(video_id, "", 0, "rejected", "neither a file nor a link to one")
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        broken = path.is_symlink() and not path.exists()
        reason = "a symbolic link to a file that does not exist" if broken else f"cannot be read ({error.strerror})"
        return Video(video_id, "", 0, "rejected", reason)
    if any(part.startswith(".") for part in video_id.split("/")):
        return Video(
            video_id, sha256, info.st_size, "rejected", "a hidden file, which systems and editors leave behind"
        )
    if any(video_id == table or video_id.startswith(f"{table}/") for table in tables):
        return Video(video_id, sha256, info.st_size, "rejected", "a table of the data set, not a video")
    try:
        header = read_header(path)
    except RejectedVideo as error:
        return Video(video_id, sha256, info.st_size, "rejected", _one_line(error))
    except Exception as error:  # noqa: BLE001  whatever one file makes a demuxer do, the other files must be listed
        reason = f"its header cannot be read ({type(error).__name__}: {_one_line(error)})"
        return Video(video_id, sha256, info.st_size, "rejected", reason)
    return Video(
        video_id=video_id,
        sha256=sha256,
        size_bytes=info.st_size,
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
