"""Files with nothing wrong that a reader still gets wrong: every frame k of them carries the number k."""

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from tests.faults.case import COUNT, SIZE, Fault, box, changed, patched, video
from tests.videos import add_cover, draw, write

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder describes itself in twenty lines otherwise
Make = Callable[[Path], object]
QUIET = {"x265-params": "log-level=none", "crf": "10"}
VP9 = {"crf": "20", "deadline": "realtime", "cpu-used": "8"}
AV1 = {"preset": "12", "crf": "20", "svtav1-params": "lp=1"}
INTERLACED = {"x264-params": "interlaced=1:tff=1", "flags": "+ildct+ilme", "qp": "4"}
STEPS = (0.04, 0.04, 0.2, 0.1, 0.033, 0.5, 0.02)


def good(
    id: str, name: str, make: Make, note: str = "", numbers: Sequence[int] | None = range(COUNT), fps: float = 25
) -> Fault:
    """A file whose verdict is ok. note: pattern of its notes; "" for none."""
    return Fault(id, name, make, note=note, numbers=numbers, fps=fps)


def short(count: int, **options: object) -> Make:
    """A video of fewer frames, for what takes long or is large."""
    return video(num_frames=count, **options)


def blank(count: int, size: tuple[int, int], **options: object) -> Make:
    """A grey video of a size that can carry no number."""
    pictures = [np.full((size[1], size[0], 3), 128, np.uint8)] * count
    return lambda path: write(path, pictures=pictures, **options)  # type: ignore[arg-type]


def joined(first: Make, second: Make) -> Make:
    """The bytes of one file, then those of another."""

    def make(path: Path) -> None:
        first(path)
        data = path.read_bytes()
        second(path)
        path.write_bytes(data + path.read_bytes())

    return make


def covered(path: Path) -> None:
    """A video with a cover picture of a larger size beside it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        add_cover(container, path.with_name("cover.jpeg"), size=(320, 240))
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(draw(number, *SIZE), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def variable(path: Path, first_seconds: float = 0.0, **options: object) -> None:
    """A variable frame rate: steps between 0.02 and 0.5 s."""
    times = np.cumsum([first_seconds, *(STEPS * COUNT)[: COUNT - 1]]).round(3).tolist()
    video(pts_seconds=times, **options)(path)


def at_rate(data: bytearray, frames: int | None = None, rate: int | None = None) -> bytearray:
    """An AVI whose header states another number of frames, or another rate."""
    if frames is not None:
        for name, offset in ((b"avih", 20), (b"strh", 36)):
            patched(data, box(data, name) + offset, "<I", frames)
    if rate is not None:
        patched(data, box(data, b"strh") + 28, "<I", rate)
    return data


def times_hundred(data: bytearray) -> bytearray:
    """An MP4 whose boxes state a hundred times its length."""
    for name, offset in ((b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 20)):
        at = box(data, b"moov", name) + offset
        patched(data, at, ">I", 100 * int.from_bytes(data[at : at + 4], "big"))
    return data


def rows() -> list[Fault]:
    """The 78 files."""
    return [*containers_and_codecs(), *times(), *pictures(), *sizes()]


def containers_and_codecs() -> list[Fault]:
    """What the frames are wrapped in, and how they are coded."""
    h264 = video()
    fragmented = video(container_options={"movflags": "frag_keyframe+empty_moov"}, options={"g": "12", "qp": "4"})
    return [
        good("A29", "plain.mp4", h264),
        good("A29", "plain.mkv", h264),
        good("A29", "plain.mov", h264),
        good("A29", "plain.ts", h264),
        good("A29", "plain.flv", h264),
        good("A29", "plain.avi", video(options={"bf": "0", "qp": "4"})),
        good("A29", "fragmented.mp4", fragmented),
        good("A29", "b-frames.mp4", video(options={"bf": "4", "g": "24", "qp": "4"})),
        good("A29", "open-gop.mkv", video(options={"bf": "4", "g": "12", "qp": "4", "x264-params": "open-gop=1"})),
        good("A29", "open-gop.ts", video(options={"bf": "4", "g": "12", "qp": "4", "x264-params": "open-gop=1"})),
        good("A29", "hevc.mp4", video(codec="libx265", options=QUIET)),
        good("A29", "hevc.ts", video(codec="libx265", options=QUIET)),
        good("A29", "vp8.webm", video(codec="libvpx", options={"crf": "8", "b": "1M"})),
        good("A29", "vp9.webm", video(codec="libvpx-vp9", options=VP9)),
        good("A43", "av1.mkv", short(20, codec="libsvtav1", options=AV1), numbers=range(20)),
        good("A43", "av1.mp4", short(20, codec="libsvtav1", options=AV1), numbers=range(20)),
        good("A29", "mpeg4.avi", video(codec="mpeg4", options={"q": "3"})),
        good("A29", "mpeg4.mp4", video(codec="mpeg4", options={"q": "3", "bf": "2"})),
        good("A29", "mpeg2.ts", video(codec="mpeg2video", options={"q": "3", "bf": "2"})),
        good("A29", "mpeg2.mpg", video(codec="mpeg2video", options={"q": "3", "bf": "2"})),
        good("A29", "mpeg1.mpg", video(codec="mpeg1video", options={"q": "3"})),
        good("A29", "flv1.flv", video(codec="flv", options={"q": "3"})),
        good("A29", "h263.3gp", video(codec="h263", size=(128, 96), options={"q": "3"}), "not square"),
        good("A29", "wmv2.wmv", video(codec="wmv2", options={"q": "3"})),
        good("A29", "msmpeg4.avi", video(codec="msmpeg4", options={"q": "3"})),
        good("A29", "mjpeg.avi", video(codec="mjpeg", pixel_format="yuvj420p")),
        good("A29", "cinepak.mov", short(8, codec="cinepak", pixel_format="rgb24"), numbers=range(8)),
        good("A29", "qtrle.mov", video(codec="qtrle", pixel_format="rgb24")),
        good("A29", "huffyuv.avi", video(codec="huffyuv", pixel_format="yuv422p")),
        good("A29", "raw.avi", video(codec="rawvideo")),
        good("A28", "raw.h264", h264, "without a time stamp"),
        good("A28", "raw.hevc", video(codec="libx265", options=QUIET), "without a time stamp"),
        good("A39", "two-streams.mkv", video(second_stream=(48, 48)), "2 video streams"),
        good("A40", "covered.mp4", covered),
        good("A44", "metadata.mp4", changed(h264, lambda d: d.replace(b"Lavf", b"L\xe4v\xff"))),
    ]


def times() -> list[Fault]:
    """When the frames are shown, and what the header says of it."""
    negative = [(number - 20) / 25 for number in range(COUNT)]
    keep = {"avoid_negative_ts": "disabled"}
    ntsc = Fraction(30000, 1001)
    return [
        good("A21", "one.mp4", short(1), numbers=[0]),
        good("A21", "two.mp4", short(2), numbers=[0, 1]),
        good("A22", "live.webm", video(codec="libvpx-vp9", options=VP9, container_options={"live": "1"})),
        good("A22", "live.mkv", video(container_options={"live": "1"})),
        good("A23", "states-10.avi", changed(video(codec="mpeg4"), partial(at_rate, frames=10)), "states 10 frames"),
        good(
            "A23", "states-6000.avi", changed(video(codec="mpeg4"), partial(at_rate, frames=6000)), "states 6000 frames"
        ),
        good("A23", "states-100-times.mp4", changed(video(), times_hundred), r".*"),
        good("A24", "rate-0.avi", changed(video(codec="mpeg4"), partial(at_rate, rate=0)), r".*"),
        good("A25", "variable.mp4", variable, "variable frame rate"),
        good("A25", "variable.mkv", variable, "variable frame rate"),
        good("A26", "late.mkv", video(pts_seconds=[1000 + number / 25 for number in range(COUNT)])),
        good("A26", "late.ts", video(pts_seconds=[1000 + number / 25 for number in range(COUNT)])),
        good(
            "A27",
            "negative.mkv",
            video(pts_seconds=negative, container_options=keep, options={"bf": "0", "qp": "4"}),
            r".*",
        ),
        good(
            "A27",
            "edit-list.mp4",
            video(pts_seconds=negative, options={"bf": "0", "qp": "4", "g": "1"}),
            r".*",
            numbers=range(20, COUNT),
        ),
        good("A42", "fast.mp4", video(fps=1000), fps=1000),
        good("A42", "ntsc.mp4", video(fps=ntsc), fps=30),
        good("A42", "time-lapse.mkv", short(4, fps=Fraction(1, 60)), numbers=range(4), fps=1),
    ]


def pictures() -> list[Fault]:
    """How a picture is stored."""
    return [
        good("A30", "interlaced.mp4", video(options=INTERLACED)),
        good("A30", "interlaced.ts", video(options=INTERLACED)),
        good("A31", "turned-90.mp4", video(rotation_degrees=90)),
        good("A31", "turned-180.mp4", video(rotation_degrees=180)),
        good("A31", "turned-270.mov", video(rotation_degrees=270)),
        good("A32", "wide-pixels.mp4", video(options={"qp": "4", "aspect": "2:1"}), "not square"),
        good("A33", "ten-bit.mp4", video(pixel_format="yuv420p10le")),
        good("A33", "ten-bit.mkv", video(codec="libx265", pixel_format="yuv420p10le", options=QUIET)),
        good(
            "A33",
            "ten-bit-av1.mp4",
            short(9, codec="libsvtav1", pixel_format="yuv420p10le", options=AV1),
            numbers=range(9),
        ),
        good("A33", "4-2-2.mkv", video(pixel_format="yuv422p")),
        good("A33", "4-4-4.mp4", video(pixel_format="yuv444p")),
        good("A33", "grey.mkv", video(codec="ffv1", pixel_format="gray")),
        good("A33", "grey-16.mkv", video(codec="ffv1", pixel_format="gray16le")),
        good("A33", "rgb-16.mkv", video(codec="ffv1", pixel_format="gbrp16le")),
        good("A33", "alpha.webm", video(codec="libvpx-vp9", pixel_format="yuva420p", options=VP9)),
        good("A33", "alpha.mov", video(codec="prores_ks", pixel_format="yuva444p10le")),
        good("A33", "bgra.mkv", video(codec="ffv1", pixel_format="bgra")),
        good("A33", "full-range.mov", video(codec="mjpeg", pixel_format="yuvj420p")),
        good("A34", "delays.gif", partial(variable, codec="gif", pixel_format="rgb8"), r".*"),
    ]


def sizes() -> list[Fault]:
    """Pictures of odd, tiny, long and changing sizes."""
    ffv1 = {"codec": "ffv1", "pixel_format": "yuv444p"}
    parts = [video(size=size, num_frames=30, options={"bf": "0", "qp": "4"}) for size in (SIZE, (128, 80))]
    both = [*range(30), *range(30)]
    return [
        good("A35", "odd.mkv", video(size=(97, 73), **ffv1)),
        good("A35", "odd.mp4", video(size=(97, 73), pixel_format="yuv444p")),
        good("A35", "1x1.mkv", blank(4, (1, 1), **ffv1), numbers=None),
        good("A35", "2x2.mkv", blank(4, (2, 2), **ffv1), numbers=None),
        good("A35", "16x4096.mkv", blank(4, (16, 4096), **ffv1), numbers=None),
        good("A36", "8k.mov", short(2, size=(7680, 4320), codec="mjpeg", pixel_format="yuvj420p"), numbers=range(2)),
        good("A38", "changing.h264", joined(*parts), "picture size changes", numbers=both),
    ]
