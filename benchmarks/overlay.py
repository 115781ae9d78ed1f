"""Frames a second of an overlay beside decoding alone, and what watching for a thumbnail costs.

    python benchmarks/overlay.py [--seconds 10] [--rounds 3] [--material FOLDER]

In this process and in processor time, one thread: a folder of files is done by as many processes as there are cores.
The thumbnail's share is of decoding, resizing and handing over at 8 frames/s, short side 256, the file written too;
extraction, which it goes with, costs more than that.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from material import clips, material_folder

from pipeline.inference.answers import Segment
from pipeline.inference.drawing import OverlayState, Timeline, draw_overlay
from pipeline.inference.thumbnails import Thumbnail
from pipeline.video.decode import Decoder
from pipeline.video.overlay import draw_over
from pipeline.video.reader import Frame, VideoReader

FPS, SHORT_SIDE = 8, 256
THUMBNAILS = 100  # made, of which the median is taken
KINDS = ("h264_720p", "mpeg4_320x240")
SEGMENTS = [
    Segment(second, second + 0.8, "walk" if second % 2 else "sit_down", 0.5 + second / 20) for second in range(10)
]
TIMELINE = Timeline(SEGMENTS, 0.0, 10.0, ("sit_down", "walk"), 0.8)


def seconds_of(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def overlay(path: Path, out: Path) -> None:
    def draw(rgb: object, time_seconds: float) -> None:
        now = TIMELINE.at(time_seconds)
        label, score = ("", None) if now is None else (now.label, now.score)
        draw_overlay(rgb, OverlayState(TIMELINE, time_seconds, label, score))

    draw_over(path, out, draw)


def thumbnail(frames: list[Frame], out: Path) -> None:
    one = Thumbnail()
    for _ in one.watch(frames):
        pass
    one.write(out, "a.mp4")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--material", type=Path)
    options = parser.parse_args()
    with material_folder(options.material) as folder, tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        for kind in KINDS:
            (path,) = clips(kind, 1, folder, options.seconds)
            num_frames = sum(1 for _ in Decoder(path))
            tasks = {
                "decoding alone": lambda path=path: sum(1 for _ in Decoder(path)),
                "overlay": partial(overlay, path, out / "overlay.mp4"),
                "decoding and resizing": lambda path=path: sum(1 for _ in VideoReader(path).frames(FPS, SHORT_SIDE)),
            }
            taken: dict[str, list[float]] = {name: [] for name in tasks}
            for _ in range(options.rounds):
                for name, task in tasks.items():
                    taken[name].append(seconds_of(task))
            median = {name: statistics.median(values) for name, values in taken.items()}
            frames = list(VideoReader(path).frames(FPS, SHORT_SIDE))
            extra = statistics.median(seconds_of(partial(thumbnail, frames, out)) for _ in range(THUMBNAILS))
            print(f"{kind}: {num_frames} frames")
            for name in ("decoding alone", "overlay"):
                print(f"  {name}: {num_frames / median[name]:.0f} frames/s")
            share = extra / median["decoding and resizing"]
            print(
                f"  thumbnail: {1000 * extra:.2f} ms a file, {share:.2%} of decoding and resizing {len(frames)} frames"
            )


if __name__ == "__main__":
    main()
