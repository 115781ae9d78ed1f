"""Files of which a part can be read: that part is used, its frames are the right ones, and the verdict says damaged."""

from collections.abc import Callable
from pathlib import Path

from tests.faults.case import Fault, box, changed, flipped, patched, textured, video
from tests.videos import remux

FASTSTART = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
# Every packet a key frame: what is damaged in one picture does not show in the next.
INTRA = {"g": "1", "bf": "0", "qp": "8"}
GROUPS = {"g": "12", "bf": "2", "qp": "8", "x264-params": "scenecut=0"}
MISSING = r"of the index not in the file|the file ends at|cut off in the middle|cannot be decoded"


def full(**options: object) -> Callable[[Path], object]:
    """A video whose packets are all of about one size."""
    return lambda path: video(pictures=textured(), **{"options": INTRA, **options})(path)


def cut(share: float, **options: object) -> Callable[[Path], object]:
    """A video cut off after a share of its bytes."""
    return changed(full(**options), lambda data: data[: int(len(data) * share) | 1])


def hole(**options: object) -> Callable[[Path], object]:
    """A video with zeros in the middle, as an interrupted sparse download leaves them."""

    def change(data: bytearray) -> bytearray:
        middle = len(data) // 2
        data[middle : middle + 40_000] = bytes(40_000)
        return data

    return changed(full(**options), change)


def flips(count: int, seed: int, **options: object) -> Callable[[Path], object]:
    """A video with random bits turned over in its pictures; headers are left alone."""

    def change(data: bytearray) -> bytearray:
        if b"mdat" in data:
            return flipped(data, count, box(data, b"mdat"), data.rindex(b"moov"), seed)
        return flipped(data, count, len(data) // 10, len(data) * 9 // 10, seed)

    return changed(full(**{"options": GROUPS, **options}), change)


def without(keep: Callable[[int, bool], bool], **options: object) -> Callable[[Path], object]:
    """A video some of whose packets are missing."""

    def make(path: Path) -> None:
        whole = path.with_name(f"whole-{path.name}")
        full(**{"options": GROUPS, **options})(whole)
        remux(whole, path, keep)
        whole.unlink()

    return make


def damaged(id: str, name: str, make: Callable[[Path], object], reason: str, *, in_order: bool = True) -> Fault:
    """in_order: the numbers that the frames carry can be read, and increase."""
    return Fault(id, name, make, "damaged", reason, in_order=in_order)


def rows() -> list[Fault]:
    """The 27 files."""
    bad = r"cannot be decoded|flagged corrupt|without a picture"
    return [
        damaged("A9", "cut-h264.mp4", cut(0.5, container_options=FASTSTART), "not in the file"),
        damaged(
            "A9",
            "cut-hevc.mp4",
            cut(
                0.5,
                codec="libx265",
                container_options=FASTSTART,
                options={"x265-params": "log-level=none:keyint=1", "crf": "8"},
            ),
            "not in the file",
        ),
        damaged(
            "A9",
            "cut-mpeg4.mp4",
            cut(0.7, codec="mpeg4", container_options=FASTSTART, options={"g": "1", "q": "3"}),
            "not in the file",
        ),
        damaged(
            "A9",
            "cut.mov",
            cut(0.3, codec="mjpeg", pixel_format="yuvj420p", container_options=FASTSTART, options={}),
            "not in the file",
        ),
        damaged("A10", "last-byte.mp4", changed(full(container_options=FASTSTART), lambda data: data[:-1]), r"\w"),
        damaged("A11", "cut.mkv", cut(0.5), MISSING),
        damaged(
            "A11",
            "cut.webm",
            cut(0.5, codec="libvpx-vp9", options={"crf": "20", "g": "1", "deadline": "realtime", "cpu-used": "8"}),
            MISSING,
        ),
        damaged("A11", "cut.ts", cut(0.5), MISSING),
        damaged("A11", "cut.avi", cut(0.5, codec="mpeg4", options={"g": "1", "q": "3"}), MISSING),
        damaged("A11", "cut.flv", cut(0.5, codec="flv", options={"g": "1", "q": "3"}), MISSING),
        damaged("A11", "cut.wmv", cut(0.5, codec="wmv2", options={"g": "1", "q": "3"}), r"\w"),
        damaged("A11", "cut.gif", cut(0.5, codec="gif", pixel_format="rgb8", options={}), "cut off before its trailer"),
        damaged("A12", "fragmented-cut.mp4", cut(0.5, container_options=FRAGMENTED), MISSING),
        damaged("A13", "flips20-h264.mp4", flips(20, 1), bad, in_order=False),
        damaged("A13", "flips500-h264.mp4", flips(500, 2), bad, in_order=False),
        damaged("A13", "flips500-mpeg4.avi", flips(500, 3, codec="mpeg4", options={"q": "3"}), r"\w", in_order=False),
        damaged(
            "A13",
            "flips500-mjpeg.mkv",
            flips(500, 4, codec="mjpeg", pixel_format="yuvj420p", options={}),
            r"\w",
            in_order=False,
        ),
        damaged(
            "A13",
            "flips500-hevc.mp4",
            flips(500, 4, codec="libx265", options={"x265-params": "log-level=none"}),
            r"\w",
            in_order=False,
        ),
        damaged("A14", "hole-h264.mp4", hole(), bad),
        damaged("A14", "hole.mkv", hole(), r"\w"),
        damaged("A14", "hole.ts", hole(), r"\w"),
        # What is missing cannot be told from what a camera left out, so gaps are a note.
        Fault("A15", "lost.mkv", without(lambda number, key: key or number % 7), note="8 gaps"),
        Fault("A15", "lost.ts", without(lambda number, key: key or number % 7), note="8 gaps"),
        damaged("A16", "no-key-frame.mkv", without(lambda number, key: number >= 5), r"\w"),
        damaged("A16", "no-key-frame.ts", without(lambda number, key: number >= 5), r"\w", in_order=False),
        damaged(
            "A24",
            "timescale.mp4",
            changed(full(container_options=FASTSTART), lambda d: patched(d, box(d, b"mdhd") + 12, ">I", 0)),
            r"\w",
        ),
        damaged("A14", "hole-mpeg2.mpg", hole(codec="mpeg2video", options={"g": "1", "q": "3"}), r"\w"),
    ]
