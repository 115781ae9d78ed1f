"""The media folder as rows of `videos.csv`: every file answered for, hashed, and described by its header."""

import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.data.tables import Video
from pipeline.discovery import walk
from pipeline.errors import DataError, LrcnError, RejectedVideo, VideoError
from pipeline.prefetch import reading_ahead
from pipeline.remote import size_and_hash
from pipeline.remotelisting import list_folder
from pipeline.remotenames import Url
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


SECONDS_TO_SETTLE = 60.0
SECONDS_BETWEEN_LISTINGS = 0.5
AGAIN = "; this may pass: run the index stage again"
OWN_TABLE = "a table of the data set"
ReadHeader = Callable[[Path | Url], VideoHeader]
Made = TypeVar("Made")


@dataclass(frozen=True)
class MediaFile:
    """A name below the media folder. state: size and modification time; () of what is no file, for the given reason.

    Of an object: what `pipeline.remote.state` says.
    """

    video_id: str
    reason: str
    state: tuple[int | str, ...]


def list_media(media: Path | Url) -> list[MediaFile]:
    """Every name below `media`, in the order of the paths' bytes; none where there is no such folder.

    Raises DataError when it cannot be listed.
    """
    if isinstance(media, Url):
        return [MediaFile(name, "", (state,)) for name, state in list_folder(media).items()]
    if not media.is_dir():
        return []
    start = len(os.path.join(media, ""))  # noqa: PTH118 - the walk joins its paths like this
    files = []
    for entry in walk([str(media)], enter_hidden=True):
        if entry.path == str(media):
            raise DataError(f"{media}: {entry.reason}; make it readable")
        files.append(MediaFile(entry.path[start:], entry.reason, () if entry.reason else _state(entry.path)))
    return sorted(files, key=lambda file: os.fsencode(file.video_id))


def _state(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a name that is no valid UTF-8 stays as it is
    except OSError:
        return ()  # it has gone meanwhile
    return status.st_size, status.st_mtime_ns


def until_settled(media: Path | Url, make: Callable[[Sequence[MediaFile]], Made]) -> Made:
    """What is made of a listing of `media`: of the first one that is still true afterwards.

    While files come or change, an error may be of that (a table names a file that came after the listing). Raises
    DataError when they still do after a minute, naming one.
    """
    deadline = time.monotonic() + SECONDS_TO_SETTLE
    files = list_media(media)
    while True:
        try:
            made = make(files)
        except LrcnError:
            if (listed := list_media(media)) == files:
                raise
        else:
            if (listed := list_media(media)) == files:
                return made
        if time.monotonic() > deadline:
            changed = min(({*files} ^ {*listed}), key=lambda file: os.fsencode(file.video_id)).video_id
            raise DataError(
                f"{media}: still changes after {SECONDS_TO_SETTLE:g} s ({changed!r}); "
                "wait until what writes there has ended, and run again"
            )
        files = listed
        time.sleep(SECONDS_BETWEEN_LISTINGS)


def scan_media(
    media: Path | Url,
    read_header: ReadHeader,
    *,
    tables: Collection[str] = (),
    workers: int = 1,
    files: Sequence[MediaFile] | None = None,
    known: dict[MediaFile, Video] | None = None,
) -> list[Video]:
    """One row for every file below `media`, without label and group, in the order of the paths' bytes.

    Symbolic links are followed, and each name of a file has its row: labels may be given to any of them; a folder with
    several names is entered by one. Hidden files, files that are no video and what cannot be read or listed are rows
    with status `rejected` and a reason. read_header: raises RejectedVideo for what is no video. tables: paths of the
    data set's own tables and lists (or of folders of them), which are not offered to it. workers: files read at a time.
    files: the listing, where there is one. known: rows of files that need not be read again; those of others are added.
    Raises DataError when the media folder itself cannot be listed.
    """
    files, known = list_media(media) if files is None else files, {} if known is None else known
    new = [file for file in files if file not in known]
    found = in_threads(lambda file: _row(media, file.video_id, file.reason, read_header, tables), new, max(1, workers))
    rows = reading_ahead([str(media / file.video_id) for file in new], found)
    known.update(zip(new, rows, strict=True))
    return [known[file] for file in files]


def _row(media: Path | Url, video_id: str, reason: str, read_header: ReadHeader, tables: Collection[str]) -> Video:
    if reason:
        return Video(video_id, "", 0, "rejected", reason)
    path = media / video_id
    try:
        size_bytes, sha256 = size_and_hash(path)
    except OSError as error:
        return Video(video_id, "", 0, "rejected", f"cannot be read ({error.strerror})")
    except RejectedVideo as error:  # of an object: a table must not depend on how a network feels
        raise DataError(f"{path}: {error}; run again when it can be fetched") from None
    if any(part.startswith(".") for part in video_id.split("/")):
        return Video(video_id, sha256, size_bytes, "rejected", "a hidden file, which systems and editors leave behind")
    if any(video_id == table or video_id.startswith(f"{table}/") for table in tables):
        return Video(video_id, sha256, size_bytes, "rejected", OWN_TABLE)
    try:
        header = read_header(path)
    except RejectedVideo as error:
        advice = AGAIN if error.is_transient else ""
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
