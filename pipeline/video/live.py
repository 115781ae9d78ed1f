"""Live sources: a file in real time, a pipe, a camera, an address. The only place that opens the last two.

An address is opened because the user named it, with the protocols of its scheme and no others: what a server sends,
playlists included, opens no local file. Everything else that reads video stays closed to the network.
"""

import glob
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.errors import RejectedVideo, VideoError
from pipeline.video.decode import DecodedFrame, Decoder
from pipeline.video.limits import Limits
from pipeline.video.reader import VideoReader
from pipeline.video.source import FORMATS, choose_stream, one_line
from pipeline.video.verdict import Verdict

# Motion JPEG as cameras send it, in parts of one answer or bare.
STREAM_FORMATS = f"{FORMATS},mpjpeg,mjpeg"
# scheme: (protocols it needs, formats it may hold)
SCHEMES = {
    "http": ("http,https,tls,tcp,crypto", f"{STREAM_FORMATS},hls"),
    "https": ("http,https,tls,tcp,crypto", f"{STREAM_FORMATS},hls"),
    "rtsp": ("rtsp,rtp,udp,tcp", "rtsp,mpegts"),
    "rtsps": ("rtsps,rtsp,rtp,udp,tls,tcp", "rtsp,mpegts"),
    "rtmp": ("rtmp,tcp", "flv,live_flv"),
    "rtmps": ("rtmps,rtmp,tls,tcp", "flv,live_flv"),
    "rtp": ("rtp,udp", "rtp,mpegts"),
    "udp": ("udp", STREAM_FORMATS),
    "tcp": ("tcp", STREAM_FORMATS),
}
# Formats whose pictures have no time stamps of their own: FFmpeg would count them at 25 frames/s.
UNTIMED_FORMATS = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "vvc", "m4v", "mpegvideo", "obu", "yuv4mpegpipe"})
# For so long a source's header is looked for; FFmpeg's own 5 s would be the age of the first answer.
ANALYZE_SECONDS = 1.0
# Time stamps that go back by more, or ahead of the clock on the wall by more, are those of another stream.
JUMP_BACK_SECONDS = 1.0
JUMP_AHEAD_SECONDS = 5.0
WAKE_SECONDS = 0.25  # a wait is cut into such pieces, between which it says that it goes on

Clock = tuple[Callable[[], float], Callable[[float], None]]  # the time in seconds; sleep
WALL: Clock = (time.monotonic, time.sleep)


@dataclass(frozen=True)
class LiveSource:
    """What is followed, and how.

    name: for messages, without a password. fast: a file as fast as it can be read, not by its own times.
    timeout_seconds: for opening, and between two pieces of data. rtsp_transport: tcp or udp.
    """

    kind: Literal["file", "pipe", "camera", "address"]
    url: str
    name: str
    ends: bool = False
    fast: bool = False
    timeout_seconds: float = 10.0
    rtsp_transport: str = "tcp"


def find_source(text: str, **options: Any) -> LiveSource:
    """The source that a user named: a file, a named pipe, `-` for standard input, `0` or /dev/video0, an address.

    options: further fields of LiveSource. Raises VideoError, with a message that says what was expected, for a scheme
    that is not read, and when there is no such file or camera.
    """
    if text == "-":
        # Through this name a child opens the very pipe; a file that is redirected is read from its beginning.
        path, is_file = f"/proc/{os.getpid()}/fd/0", False
        with suppress(OSError):  # it is closed, which opening it tells
            is_file = stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
        return LiveSource("file" if is_file else "pipe", path, "standard input", ends=True, **options)
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text):
        scheme = match[1].lower()
        name = without_password(text)
        if scheme not in SCHEMES:
            raise VideoError(f"{name}: {scheme}:// is not read; expected one of {', '.join(SCHEMES)}, or a path")
        return LiveSource("address", scheme + text[len(scheme) :], name, **options)
    if text.isdecimal() and not os.path.lexists(text):
        text = f"/dev/video{text}"
    path = os.path.abspath(text)  # noqa: PTH100 - FFmpeg takes a relative name with a colon for a protocol
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except (OSError, ValueError) as error:
        if path.startswith("/dev/video"):
            cameras = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"  # noqa: PTH207
            raise VideoError(f"{text}: no such camera; there is {cameras}") from None
        raise VideoError(f"{text}: {one_line(error)}; expected a file, a camera such as /dev/video0, or an "
                         "address such as rtsp://host/path") from None  # fmt: skip
    if stat.S_ISREG(mode):
        return LiveSource("file", path, text, ends=True, **options)
    if stat.S_ISFIFO(mode):
        return LiveSource("pipe", path, text, **options)
    if stat.S_ISCHR(mode):
        return LiveSource("camera", path, text, **options)
    raise VideoError(f"{text}: no file, pipe or camera; `lrcn predict` takes folders")


def without_password(address: str) -> str:
    """An address as it may be shown: user, password and query left out.

    >>> without_password("rtsp://admin:secret@10.0.0.7:554/live?key=1")
    'rtsp://10.0.0.7:554/live'
    """
    scheme, _, rest = address.partition("://")
    host = re.split("[/?#]", rest)[0]
    path = rest[len(host) :]
    if "@" not in host and "@" in path and not re.fullmatch(r"([^:]*|\[.*\])(:\d*)?", host):
        host, path = "", path.rpartition("@")[2]  # what was to be the password has one of /?# in it
    return f"{scheme.lower()}://{host.rpartition('@')[2]}{re.split('[?#]', path)[0]}"


def live_reader(source: LiveSource, limits: Limits, progress: Callable[[], None] = lambda: None) -> VideoReader:
    """A reader whose pictures come when they are there. progress: called now and then while it waits for their time."""
    kind = PacedDecoder if source.kind == "file" else LiveDecoder
    return VideoReader(source.url, limits, kind(source, limits, progress))


class PacedDecoder(Decoder):
    """A file's pictures at their own times, counted from the first; the same pictures as Decoder's."""

    def __init__(
        self, source: LiveSource, limits: Limits, progress: Callable[[], None] = lambda: None, clock: Clock = WALL
    ) -> None:
        super().__init__(source.url, limits)
        self._fast = source.fast
        self._progress, self._clock_on_wall = progress, clock

    def __iter__(self) -> Iterator[DecodedFrame]:
        now = self._clock_on_wall[0]
        begin: float | None = None
        for frame in super().__iter__():
            begin = now() if begin is None else begin
            due = now() if self._fast else begin + frame.time_seconds
            wait_until(due, self._clock_on_wall, self._progress)
            yield frame._replace(arrived_seconds=due)


def wait_until(due_seconds: float, clock: Clock, progress: Callable[[], None]) -> None:
    """Wait for a time of the clock, if it is not over; progress: called in between."""
    now, sleep = clock
    while (left := due_seconds - now()) > 0:
        sleep(min(left, WAKE_SECONDS))
        progress()


class LiveDecoder(Decoder):
    """Pictures of a pipe, a camera or an address as they come; nothing grows while it goes on.

    Times are the source's own stamps where it has some, else those of arrival. HLS, which comes in pieces of seconds,
    and a file at an address, which comes as fast as the network is, play at their own pace: a picture that comes early
    waits. Ends with the source; raises RejectedVideo when it breaks off, or its stamps jump, which are another
    stream's then.
    """

    def __init__(
        self, source: LiveSource, limits: Limits, progress: Callable[[], None] = lambda: None, clock: Clock = WALL
    ) -> None:
        super().__init__(source.url, limits)
        self._source = source
        self._last_step_seconds = 0.0
        self._progress, self._clock_on_wall = progress, clock

    def last_frame_duration(self, picture: VideoFrame, fps: float) -> float:
        """As long as the picture before it."""
        return self._last_step_seconds or 1 / fps

    def __iter__(self) -> Iterator[DecodedFrame]:
        try:
            with open_live(self._source, self._limits) as (container, stream):
                yield from self._follow(container, stream)
        except RejectedVideo as error:
            self.reject(str(error), error.is_transient)
            raise
        except Exception as error:
            raise self.reject(self._why(error), is_transient=True) from error
        if not self._found.num_frames:
            raise self.reject("it ended before a picture came", is_transient=True)
        self.verdict = Verdict("ok")

    def _why(self, error: Exception) -> str:
        if isinstance(error, av.error.ExitError):
            return f"nothing came for {self._source.timeout_seconds:g} s"
        return f"cannot be read: {one_line(error)}"

    def _follow(self, container: InputContainer, stream: VideoStream) -> Iterator[DecodedFrame]:
        times = StampedTimes(Fraction(stream.time_base or 1), stamped(container))
        context, now = stream.codec_context, self._clock_on_wall[0]
        # Only what does not go on for ever has a size.
        comes_early = self._source.kind == "address" and ("hls" in container.format.name or container.size > 0)
        begin = time_seconds = 0.0  # of the pace, where there is one; of the latest picture
        for packet in container.demux(stream):  # at the end an empty one: the pictures that the codec still holds
            arrived = now()
            try:
                pictures = context.decode(packet)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - a bad packet costs its own pictures, not those after it
                self._found.last_error = one_line(error)
                continue
            for picture in pictures:
                self._examine(picture)
                before, time_seconds = time_seconds, times.tick(picture.pts, arrived)
                self._last_step_seconds = time_seconds - before
                if comes_early:
                    begin = max(begin, arrived - time_seconds)
                    arrived = begin + time_seconds
                    wait_until(arrived, self._clock_on_wall, self._progress)
                yield DecodedFrame(picture, time_seconds, arrived)


class StampedTimes:
    """Seconds from a live source's first picture, never going back.

    >>> times = StampedTimes(Fraction(1, 10))
    >>> [times.tick(pts, arrived) for pts, arrived in ((50, 7.0), (51, 7.2), (None, 7.25))]
    [0.0, 0.1, 0.25]
    """

    def __init__(self, time_base: Fraction, has_stamps: bool = True) -> None:
        self._time_base = time_base
        self._has_stamps = has_stamps
        self._first: tuple[int | None, float] | None = None
        self._latest = (0.0, 0.0)

    def tick(self, pts: int | None, arrived_seconds: float) -> float:
        """The time of the next picture; raises RejectedVideo when its stamp does not follow the one before."""
        pts = pts if self._has_stamps else None
        if self._first is None:
            self._first, self._latest = (pts, arrived_seconds), (0.0, arrived_seconds)
            return 0.0
        first_pts, first_arrived = self._first
        latest, latest_arrived = self._latest
        time_seconds = arrived_seconds - first_arrived
        if pts is not None and first_pts is not None:
            time_seconds = float((pts - first_pts) * self._time_base)
        step = time_seconds - latest
        if step < -JUMP_BACK_SECONDS or step - (arrived_seconds - latest_arrived) > JUMP_AHEAD_SECONDS:
            raise RejectedVideo(f"its time stamps jump by {step:.1f} s", is_transient=True)
        self._latest = max(time_seconds, latest), arrived_seconds
        return self._latest[0]


def stamped(container: InputContainer) -> bool:
    """Whether the pictures of a container's format have time stamps."""
    return not UNTIMED_FORMATS & set(container.format.name.split(","))


@contextmanager
def open_live(source: LiveSource, limits: Limits) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a pipe, a camera or an address; its video stream, ready to be decoded by one thread.

    Raises RejectedVideo when there is none, and what PyAV raises when it cannot be opened.
    """
    protocols, formats = SCHEMES[source.url.partition(":")[0]] if source.kind == "address" else ("file", STREAM_FORMATS)
    options = {
        "protocol_whitelist": protocols,
        "format_whitelist": "video4linux2,v4l2" if source.kind == "camera" else formats,
        "max_pixels": str(limits.pixels_per_frame),
        "analyzeduration": str(round(ANALYZE_SECONDS * 1e6)),
        "fpsprobesize": "0",  # without it 20 pictures are read ahead to guess the rate, which nobody asks for here
        "rtsp_transport": source.rtsp_transport,
    }
    with av.open(
        source.url,
        format="v4l2" if source.kind == "camera" else None,
        options=options,
        metadata_errors="replace",
        timeout=source.timeout_seconds,
    ) as container:
        yield container, choose_stream(container, limits)[0]
