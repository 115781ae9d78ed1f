"""Memory of extraction: one very long video, and a thousand short ones.

    python benchmarks/memory.py [--hours 2] [--files 1000] [--fps 1] [--backbone mobilenet_v3_small] [--material FOLDER]

The long video is 1080p at a low bit rate, ten drawn seconds again and again. Memory is the proportional set size of
this process and its decoding processes together, looked at every half second. "Over the loaded model" is what it
exceeds this process's own by, when network and extractor are made and nothing has been decoded. Growth is of anonymous
memory: the rest are pages of libraries, whose shares change when other programs that use them come and go, which also
moves the peak, so it is given for both. Minutes are minutes of the video. Features are the result and grow with the
video; growth is given with them and without.
"""

import argparse
import contextlib
import os
import platform
import statistics
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from extract import calibrated_backbone
from material import clips, material_folder, repeated

from pipeline.features.extract import Extractor
from pipeline.features.store import VideoFeatures
from pipeline.video.isolation import DecoderPool
from pipeline.video.reader import Frame

SHORT_SIDE, CROP = 256, 224
NUM_CORES = len(os.sched_getaffinity(0))
MB = 1e6
SETTLED_MINUTE = 5
SETTLED_FILES = 0.2  # of all: caches are warm then
DIFFERENT_FILES = 10
SECONDS_BETWEEN = 0.5
NEAR_SAMPLES = 9  # of which the median is taken


class Memory(NamedTuple):
    """Bytes: proportional set size, and the part of it that is not pages of files on disk."""

    whole: int
    anonymous: int


class Sample(NamedTuple):
    """Frames done, and what was taken then."""

    done: int
    memory: Memory


class Watch:
    """Looks at memory in a thread of its own, beside a count that others raise."""

    def __init__(self) -> None:
        self.done = 0
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def add(self, count: int) -> None:
        self.done += count

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN):
            self.samples.append(Sample(self.done, memory_in_use()))

    def around(self, share: float) -> float:
        """Median of the anonymous memory near this share of the work, in bytes."""
        near = sorted(self.samples, key=lambda sample: abs(sample.done - share * self.done))[:NEAR_SAMPLES]
        return statistics.median(sample.memory.anonymous for sample in near)


def memory_in_use() -> Memory:
    """Of this process and its children."""
    whole = anonymous = 0
    own = psutil.Process()
    for process in (own, *own.children()):
        with contextlib.suppress(OSError):  # it has ended
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            sizes = {words[0]: int(words[1]) * 1024 for line in lines if (words := line.split())[-1] == "kB"}
            whole, anonymous = whole + sizes["Pss:"], anonymous + sizes["Pss_Anon:"] + sizes["Pss_Shmem:"]
    return Memory(whole, anonymous)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--fps", type=float, default=1)
    parser.add_argument("--backbone", default="mobilenet_v3_small")
    parser.add_argument("--material", type=Path, help="folder to keep drawn videos in (default: a temporary one)")
    options = parser.parse_args()
    print(time.strftime("%Y-%m-%d"), platform.machine(), f"{NUM_CORES} cores, torch {torch.__version__}")
    with material_folder(options.material) as folder:
        (source,) = clips("h264_1080p_low", 1, folder)
        long = repeated(source, options.hours * 3600, folder) if options.hours else None
        short = clips("h264_short", DIFFERENT_FILES, folder, seconds=1.0)
        extractor = Extractor(calibrated_backbone(options.backbone, source), CROP, "cpu", workers=NUM_CORES)
        if long is not None:
            long_video(long, extractor, options.fps)
        if options.files:
            short_files([short[number % DIFFERENT_FILES] for number in range(options.files)], extractor, options.fps)


def long_video(path: Path, extractor: Extractor, fps: float) -> None:
    model, begin = memory_in_use(), time.perf_counter()
    with DecoderPool() as pool, Watch() as watch:
        run([(path, pool.reader(path).frames(fps, SHORT_SIDE))], extractor, watch)
    minutes = watch.done / fps / 60
    settled, end = watch.around(SETTLED_MINUTE / minutes), watch.around(1)
    features = watch.done * extractor.backbone.feature_size * 2
    own = features * (1 - SETTLED_MINUTE / minutes)
    print(f"{minutes:.0f} minutes of 1080p, {watch.done} frames, {time.perf_counter() - begin:.0f} s:", end=" ")
    whole, anonymous = (max(s.memory[part] for s in watch.samples) - model[part] for part in (0, 1))
    print(f"peak {whole / MB:.0f} MB over the loaded model ({model.whole / MB:.0f} MB),", end=" ")
    print(f"{anonymous / MB:.0f} MB of it anonymous;", end=" ")
    print(f"from minute {SETTLED_MINUTE} to the end {(end - settled) / MB:+.1f} MB,", end=" ")
    print(f"{(end - settled - own) / MB:+.1f} MB without the {own / MB:.1f} MB of features", flush=True)


def short_files(paths: list[Path], extractor: Extractor, fps: float) -> None:
    with DecoderPool() as pool, Watch() as watch:
        jobs = ((number, pool.reader(path).frames(fps, SHORT_SIDE)) for number, path in enumerate(paths))
        run(jobs, extractor, watch)
    settled, end = watch.around(SETTLED_FILES), watch.around(1)
    print(f"{len(paths)} files of 1 s: {settled / MB:.0f} MB after {SETTLED_FILES:.0%} of them,", end=" ")
    print(f"{end / MB:.0f} MB at the end, growth {end / settled - 1:+.1%}")


def run(jobs: Iterable[tuple[object, Iterable[Frame]]], extractor: Extractor, watch: Watch) -> None:
    for key, result in extractor.run(jobs, watch.add):
        if not isinstance(result, VideoFeatures):
            raise SystemExit(f"{key}: {result}")


if __name__ == "__main__":
    main()
