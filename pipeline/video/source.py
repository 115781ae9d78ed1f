"""Opens a video file with care: only regular local files, only video formats, only real video streams."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.errors import RejectedVideo
from pipeline.video.limits import Limits
from pipeline.video.sniff import describe

# FFmpeg reads some 300 formats, among them pictures, text drawn as video, and scripts and playlists that make it open
# other files or addresses. These are the ones that hold video and nothing else.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,gif,ogg,h264,hevc,vvc,m4v,obu,ivf,rm,dv,"
    "mxf,yuv4mpegpipe"
)
# What comes of it depends on the limit, and on what else runs: a broken file may ask for any amount.
OUT_OF_MEMORY = "needs more memory than there is, or than the limit grants"


@dataclass
class Source:
    """An open file and the stream that is read from it. Notes are oddities found so far."""

    path: Path
    container: InputContainer
    stream: VideoStream
    notes: list[str] = field(default_factory=list)

    @property
    def codec(self) -> str:
        """Name of the codec, whichever decoder reads it."""
        return str(self.stream.codec_context.codec.canonical_name)

    @property
    def format_names(self) -> set[str]:
        """Names of the container format, such as {"matroska", "webm"}."""
        return set(self.container.format.name.split(","))


@dataclass(frozen=True)
class FileState:
    """What of a file changes when it is written to."""

    size_bytes: int
    modified_ns: int


def read_state(path: Path) -> FileState:
    """Size and modification time of a regular file that is not empty; raises RejectedVideo for anything else."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise RejectedVideo(f"cannot be read: {one_line(error)}", is_transient=True) from error
    if not stat.S_ISREG(status.st_mode):
        raise RejectedVideo("not a regular file")
    if status.st_size == 0:
        raise RejectedVideo("empty file (0 bytes)")
    return FileState(status.st_size, status.st_mtime_ns)


@contextmanager
def open_source(path: Path, limits: Limits) -> Iterator[Source]:
    """Open a video file and choose its stream, ready to be decoded by one thread.

    Raises RejectedVideo with the reason, without the path: the caller knows it.
    """
    # Absolute: FFmpeg takes a relative name with a colon, and a folder called `http:`, for a protocol.
    path = Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve would follow links, and so change the name
    read_state(path)
    with _open(path, limits) as container:
        yield Source(path, container, *choose_stream(container, limits))


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raise RejectedVideo for a picture of more pixels than the limit."""
    if width * height > limits.pixels_per_frame:
        raise RejectedVideo(
            f"picture of {width}x{height} is above the limit of {limits.pixels_per_frame} pixels", is_transient=True
        )


def one_line(error: BaseException) -> str:
    """What an exception of PyAV or the operating system says, in one line and without the path."""
    if isinstance(error, OSError | av.FFmpegError) and error.strerror:
        return error.strerror
    return " ".join([f"{type(error).__name__}:", *str(error).split()]).removesuffix(":")


def _open(path: Path, limits: Limits) -> InputContainer:
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "max_pixels": str(limits.pixels_per_frame)}
    try:
        # Metadata need not be UTF-8: by default that alone fails the file (PyAV issue 1107).
        return av.open(str(path), options=options, metadata_errors="replace")
    except PermissionError as error:
        raise RejectedVideo(f"cannot be read: {one_line(error)}", is_transient=True) from error
    except MemoryError as error:
        raise RejectedVideo(OUT_OF_MEMORY, is_transient=True) from error
    except Exception as error:  # broken files also raise IndexError, MemoryError, UnicodeDecodeError
        raise RejectedVideo(_why_not_opened(path, error)) from error


def _why_not_opened(path: Path, error: Exception) -> str:
    try:
        known = describe(path)
    except OSError as unreadable:
        return f"cannot be read: {one_line(unreadable)}"
    if known:
        return known
    # The whitelist of formats answers with EINVAL.
    if isinstance(error, av.error.ArgumentError):
        return "not in a video format that is read here"
    return f"cannot be opened: {one_line(error)}"


def choose_stream(container: InputContainer, limits: Limits) -> tuple[VideoStream, list[str]]:
    """The video stream of an open container, ready to be decoded by one thread, and oddities; raises RejectedVideo."""
    streams = list(container.streams.video)
    if not streams:
        raise RejectedVideo("no video stream")
    streams = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise RejectedVideo("no video, only a cover picture")
    # PyAV has no codec context for a codec that FFmpeg does not know.
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise RejectedVideo("its video codec is unknown: there is no decoder for it")
    chosen = max(streams, key=lambda stream: stream.codec_context.width * stream.codec_context.height)
    context, notes = chosen.codec_context, []
    if len(streams) > 1:
        sizes = ", ".join(f"{stream.codec_context.width}x{stream.codec_context.height}" for stream in streams)
        notes.append(f"{len(streams)} video streams ({sizes}): the largest is read")
    aspect = context.sample_aspect_ratio
    if aspect and aspect != 1:
        notes.append(f"pixels are not square ({aspect.numerator}:{aspect.denominator}): shown as stored")
    check_size(context.width, context.height, limits)
    # Threads make damaged files decode differently from run to run.
    context.thread_type, context.thread_count = "NONE", 1
    context.options = {"max_pixels": str(limits.pixels_per_frame)}
    return chosen, notes
