"""Decoding video to RGB frames, 8 a second at short side 224: this project, the limits, and other readers.

    python benchmarks/decode.py [--rounds 5] [--material FOLDER] [--seconds 10]

Every reader decodes as many files at a time as there are usable cores, each with one decoding thread. The limit is
decoding alone: every frame decoded, none converted. Rounds are interleaved; speeds are medians over the rounds, and
"of the limit" is the median of the ratios within a round, by the clock and by processor time (which other programs on
the machine disturb less). OpenCV, torchcodec, decord and ffmpeg are tried; one that is not there is named with the
reason. The material is drawn; clips of ../shared/data/fight are added when it is there.
"""

import argparse
import importlib.metadata
import math
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import psutil
from av.video.reformatter import Interpolation
from material import clips, material_folder
from numpy.typing import NDArray
from readers import (
    FPS,
    RGB,
    Clip,
    Read,
    decode_only,
    decord,
    ffmpeg,
    in_child_processes,
    in_this_process,
    opencv,
    torchcodec,
)

from pipeline.video.isolation import DecoderPool
from pipeline.video.sampling import frames_on_grid

NUM_THREADS = len(os.sched_getaffinity(0))
FIGHT = Path(__file__).resolve().parents[2] / "shared/data/fight"
FIGHT_STRIDE = 10  # every tenth clip of the fight set
NUM_COMPARED = 2  # clips of each material whose frames are compared
NEIGHBOURS = 4  # frames before and after the right one that a wrong frame is looked for among
TIE_LEVELS = 0.1  # grey levels; neighbours that differ less from each other are the same picture
STRIPE_PIXELS = 2.6  # period of the stripes; what is left of them in a picture 3.2 times smaller is aliasing
ALIASED_SHARE = 0.35  # of their contrast: area averaging leaves 0.14, interpolation between neighbours 0.64
REFERENCE = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class Cost(NamedTuple):
    """Of one round: by the clock, and of all processes' processor time."""

    wall_seconds: float
    processor_seconds: float


@dataclass
class Row:
    """One line of the table. stripes: share of the contrast of fine stripes that is left in its frames."""

    name: str
    read: Read
    executor: Executor
    is_limit: bool = False
    stripes: float = math.nan
    wrong: int = 0
    levels: list[float] = field(default_factory=list)
    rounds: list["Cost"] = field(default_factory=list)


def num_frames(read: Read, clip: Clip) -> int:
    return sum(1 for _ in read(clip))


def all_frames(read: Read, clip: Clip) -> list[RGB]:
    return list(read(clip))


def make_rows(stack: ExitStack) -> list[Row]:
    pool = stack.enter_context(DecoderPool())
    threads = stack.enter_context(ThreadPoolExecutor(NUM_THREADS))

    def processes() -> Executor:
        context = multiprocessing.get_context("spawn")
        return stack.enter_context(ProcessPoolExecutor(NUM_THREADS, mp_context=context))

    n = NUM_THREADS
    return [
        Row(f"limit: decoding only, {n} processes", decode_only, processes(), is_limit=True),
        Row(f"limit: decoding only, {n} threads", decode_only, threads, is_limit=True),
        Row(f"ours, {n} child processes", partial(in_child_processes, pool), threads),
        Row(f"ours without isolation, {n} threads", in_this_process, threads),
        Row("OpenCV, INTER_AREA", partial(opencv, cv2.INTER_AREA), processes()),
        Row("OpenCV, INTER_LINEAR", partial(opencv, cv2.INTER_LINEAR), processes()),
        Row("torchcodec, exact", torchcodec, processes()),
        Row("decord", decord, processes()),
        Row("ffmpeg to a pipe, area", ffmpeg, threads),
    ]


def usable(rows: Sequence[Row], stripes: Clip) -> list[Row]:
    """The rows whose reader works here, with `stripes` filled in; the reasons of the others are printed."""
    kept = []
    for row in rows:
        try:
            # One job for each process, so that all of them start.
            answers = [row.executor.submit(all_frames, row.read, stripes) for _ in range(NUM_THREADS)]
            frames, *_ = [answer.result() for answer in answers]
        except ModuleNotFoundError as error:
            print(f"{row.name}: not installed ({error})")
        except Exception as error:  # noqa: BLE001 - a peer that fails costs its own row
            print(f"{row.name}: fails ({' '.join(str(error).split())[:200]})")
        else:
            if not row.is_limit:
                row.stripes = contrast(frames[len(frames) // 2])
            kept.append(row)
    return kept


def contrast(rgb: RGB) -> float:
    """Share of the stripes' contrast left in a frame; its border is left out."""
    return float(rgb[8:-8, 8:-8, 1].std() / draw_grey().std())


def draw_grey() -> NDArray[np.float32]:
    """`(720, 1280)`: fine stripes across and along, added up."""
    wave: NDArray[np.float32] = 40 * np.sin(2 * np.pi * np.arange(1280, dtype=np.float32) / STRIPE_PIXELS)
    return 128 + wave[:720, None] + wave[None, :]


def draw_stripes(path: Path) -> Clip:
    grey = np.clip(draw_grey(), 0, 255).astype(np.uint8)
    picture = av.VideoFrame.from_ndarray(np.repeat(grey[..., None], 3, axis=2), format="rgb24")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"qp": "4", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
        for index in range(FPS):
            frame = picture.reformat(format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Clip.of(path)


def compare(rows: Sequence[Row], clip: Clip) -> None:
    """Add to each row how many of its frames are not those of the grid, and how far brightness is from area means."""
    pictures, times = [], []
    with av.open(clip.path) as container:
        for frame in container.decode(video=0):
            times.append(float(frame.time or 0.0))
            end = times[-1] + float((frame.duration or 0) * (frame.time_base or 0))
            small = frame.reformat(clip.width, clip.height, "rgb24", interpolation=REFERENCE)
            pictures.append(cv2.cvtColor(small.to_ndarray(), cv2.COLOR_RGB2GRAY))
    chosen = frames_on_grid([moment - times[0] for moment in times], FPS, end - times[0])
    for row in (row for row in rows if not row.is_limit):
        frames = row.executor.submit(all_frames, row.read, clip).result()
        row.wrong += abs(len(frames) - len(chosen))
        for index, rgb in zip(chosen, frames, strict=False):
            grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
            near = range(max(index - NEIGHBOURS, 0), min(index + NEIGHBOURS + 1, len(pictures)))
            distance = {i: cv2.norm(pictures[i], grey, cv2.NORM_L1) / grey.size for i in near}
            row.wrong += distance[index] > min(distance.values()) + TIE_LEVELS
            row.levels.append(distance[index])


def run_round(row: Row, material: Sequence[Clip]) -> tuple[Cost, int]:
    """What the whole material costs, and the number of frames that came."""
    begin, processor = time.perf_counter(), processor_seconds()
    frames = sum(row.executor.map(partial(num_frames, row.read), material))
    return Cost(time.perf_counter() - begin, processor_seconds() - processor), frames


def processor_seconds() -> float:
    """Of this process and its children, those that have ended included."""
    this = psutil.Process()
    ended = this.cpu_times()
    alive = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return float(ended.children_user + ended.children_system + sum(times.user + times.system for times in alive))


def measure(title: str, rows: Sequence[Row], material: list[Clip], num_rounds: int) -> None:
    """Print the table of one material."""
    for row in rows:
        row.rounds, row.levels, row.wrong = [], [], 0
    for clip in material[:NUM_COMPARED]:
        compare(rows, clip)
    cost, num_decoded = run_round(rows[0], material)
    turns = math.ceil(1 / cost.wall_seconds)  # a round of the limit takes a second at least
    for turn in range(num_rounds + 1):
        for row in rows:
            cost, _ = run_round(row, material * turns)
            row.rounds += [cost] if turn else []  # the first round only warms up
    limit = min((row for row in rows if row.is_limit), key=wall_seconds)
    print(
        f"\n{title}: {len(material)} files, {num_decoded} frames; {num_rounds} rounds of {turns} turns; load {load()}\n"
    )
    print("| reader | decoded frames/s | of the limit | in processor time | wrong frames | brightness off | filter |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        speed = num_decoded * turns / wall_seconds(row)
        pairs = list(zip(limit.rounds, row.rounds, strict=True))
        wall = statistics.median(least.wall_seconds / own.wall_seconds for least, own in pairs)
        processor = statistics.median(least.processor_seconds / own.processor_seconds for least, own in pairs)
        print(f"| {row.name} | {speed:,.0f} | {wall:.3f} | {processor:.3f} | {describe_frames(row)} |", flush=True)


def wall_seconds(row: Row) -> float:
    return statistics.median(cost.wall_seconds for cost in row.rounds)


def describe_frames(row: Row) -> str:
    if row.is_limit:
        return "- | - | -"
    kind = "aliases" if row.stripes > ALIASED_SHARE else "averages"
    wrong = f"{row.wrong} of {len(row.levels)}" if row.wrong else "none"
    return f"{wrong} | {statistics.fmean(row.levels):.2f} | {kind} ({row.stripes:.2f} of stripes left)"


def load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def print_machine() -> None:
    model = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    print(f"{time.strftime('%Y-%m-%d')}, {NUM_THREADS} cores ({model}), load {load()}")
    libraries = ".".join(map(str, av.library_versions["libavcodec"]))
    versions = [f"Python {platform.python_version()}", f"PyAV {av.__version__} (libavcodec {libraries})"]
    versions += [f"OpenCV {cv2.__version__}"]
    for name in ("torchcodec", "decord"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    if shutil.which("ffmpeg"):
        banner = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout
        versions.append(" ".join(banner.split()[:3]))
    print(", ".join(versions))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--material", type=Path, help="folder for the drawn clips, kept; default: a temporary one")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each drawn clip")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print_machine()
    with material_folder(options.material) as folder, ExitStack() as stack:
        rows = usable(make_rows(stack), draw_stripes(folder / "stripes.mp4"))
        for kind in ("h264_720p", "hevc_1080p", "mpeg4_320x240"):
            drawn = clips(kind, 2 * NUM_THREADS, folder, options.seconds)
            measure(kind, rows, list(map(Clip.of, drawn)), options.rounds)
        if FIGHT.is_dir():
            measure("fight", rows, list(map(Clip.of, sorted(FIGHT.rglob("*.mp4"))[::FIGHT_STRIDE])), options.rounds)
        else:
            print(f"\nfight: skipped, {FIGHT} is not there")


if __name__ == "__main__":
    main()
