"""Small videos drawn by code. Every picture carries its own number, so that a test sees which frame it really got."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange

BARS = 16
PTS_TIME_BASE = Fraction(1, 90000)


def draw(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """An upright picture `(height, width, 3) uint8`: `number` as 16 bars on top, red on the left, blue on the right."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, : width // 2] = (200, 40, 40)
    picture[:, width // 2 :] = (40, 40, 200)
    for bar in range(BARS):
        bit = number >> (BARS - 1 - bar) & 1
        picture[: height // 3, bar * width // BARS : (bar + 1) * width // BARS] = 255 * bit
    return picture


def number_of(i420: np.ndarray) -> int:
    """The number that an upright frame `(H * 3 // 2, W)` carries in its luma."""
    height, width = i420.shape[0] * 2 // 3, i420.shape[1]
    bars = i420[: height // 3, : width // BARS * BARS].reshape(height // 3, BARS, -1).mean(axis=(0, 2))
    return sum(int(level > 128) << (BARS - 1 - bar) for bar, level in enumerate(bars))


def write(
    path: Path,
    num_frames: int = 30,
    *,
    pictures: Sequence[np.ndarray] | None = None,
    size: tuple[int, int] = (64, 48),
    fps: int | Fraction = 25,
    pts_seconds: Sequence[float] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    format: str | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    colorspace: int | None = None,
    full_range: bool = False,
    rotation_degrees: int = 0,
    display_matrix: Sequence[int] | None = None,
    audio: bool = False,
    second_stream: tuple[int, int] | None = None,
) -> Path:
    """Write numbered frames (or `pictures`). With `rotation_degrees` they are stored turned, and the file says so."""
    pictures = [draw(number, *size) for number in range(num_frames)] if pictures is None else pictures
    with av.open(str(path), "w", format=format, options=container_options or {}) as container:
        small = container.add_stream("libx264", rate=fps) if second_stream else None
        if small is not None:
            small.width, small.height, small.pix_fmt, small.thread_count = *second_stream, "yuv420p", 1
        stream = container.add_stream(codec, rate=fps, options=options or ({"qp": "4"} if "264" in codec else {}))
        stored = [np.ascontiguousarray(np.rot90(picture, rotation_degrees // 90)) for picture in pictures]
        stream.height, stream.width = stored[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.thread_type, stream.thread_count = "NONE", 1
        if pts_seconds is not None:
            stream.time_base = stream.codec_context.time_base = PTS_TIME_BASE
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if full_range:
            stream.codec_context.color_range = ColorRange.JPEG
        if rotation_degrees:
            stream.set_display_rotation(-rotation_degrees)
        if display_matrix:
            stream.set_display_matrix(display_matrix)
        sound = container.add_stream("aac", rate=48000, layout="mono") if audio else None
        for index, picture in enumerate(stored):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pixel_format,
                dst_colorspace=colorspace if colorspace in (1, 5, 9) else None,
                dst_color_range=ColorRange.JPEG if full_range else None,
            )
            frame.pts, frame.time_base = index, Fraction(1, fps)
            if pts_seconds is not None:
                frame.pts, frame.time_base = round(pts_seconds[index] / PTS_TIME_BASE), PTS_TIME_BASE
            container.mux(stream.encode(frame))
            if small is not None:
                other = av.VideoFrame.from_ndarray(draw(999, *second_stream), format="rgb24")
                other.pts, other.time_base = index, Fraction(1, fps)
                container.mux(small.encode(other.reformat(format="yuv420p")))
            if sound is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 48000 // fps), np.float32), "fltp", "mono")
                silence.sample_rate, silence.pts, silence.time_base = 48000, index * (48000 // fps), Fraction(1, 48000)
                container.mux(sound.encode(silence))
        for output in container.streams:
            container.mux(output.encode(None))
    return path


def add_cover(container: OutputContainer, temporary: Path, size: tuple[int, int] = (64, 48)) -> None:
    """Put a cover picture into a file that has all its other streams, and nothing in them yet."""
    write(temporary, 1, codec="mjpeg", pixel_format="yuvj420p", format="image2pipe", size=size)
    packet = av.Packet(temporary.read_bytes())
    temporary.unlink()
    art = container.add_stream("mjpeg", rate=1)
    art.width, art.height, art.pix_fmt = *size, "yuvj420p"
    art.disposition = av.stream.Disposition.attached_pic
    packet.stream, packet.time_base, packet.pts, packet.dts = art, Fraction(1, 90000), 0, 0
    container.start_encoding()
    container.mux(packet)


def remux(source: Path, target: Path, keep: Callable[[int, bool], bool]) -> Path:
    """Copy the packets for which `keep(number, is_keyframe)` says so, undecoded."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(container.demux(video=0)):
            if packet.size and keep(number, packet.is_keyframe):
                packet.stream = stream
                output.mux(packet)
    return target
