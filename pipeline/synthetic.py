"""Draws the demo data set: people who do eight actions that come in four time-reversed pairs.

Within a pair, one class is the other one played backwards, and that holds for everything in the video: pose, camera
shake, light, noise, frame times, and, because every frame is coded by itself at a constant quantiser, the compression
too. So no frame and no set of frames tells the two apart; only their order does. People, places, sizes, speeds and
frame rates are drawn without looking at the class.

With `tied` the place follows from the class, so that one frame does tell: the same people and movements, and a shortcut
to be found.

The only module beside `pipeline.video` that imports av: it encodes.
"""

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from pipeline.errors import DataError
from pipeline.files import TEMPORARY_SUFFIX, replacing, write_table, write_text
from pipeline.synthetic_pose import draw_person
from pipeline.synthetic_scene import SCENES
from pipeline.synthetic_video import CLASSES, Place, draw_video, generator, plan_clip, plan_recording

Image = npt.NDArray[np.uint8]

GENERATOR_VERSION = 2  # raised when the same seed draws other pictures
FINE_TICKS = 60_000  # ticks a second for irregular times: a multiple of the usual rates, and MPEG-4 allows up to 65535
LETTERS = "abcdefghijklmnopqrstuvwxyz"
COMMIT_FILE, PROGRESS_FILE = "dataset.json", ".drawing.json"

# Options per codec: lossless, or lossy with every frame coded by itself, so that decoding a video played backwards
# gives the same pictures in reverse order. bitexact: no encoder name or date in the file.
LOSSLESS: dict[str, dict[str, str]] = {
    "libx264": {"qp": "0", "preset": "ultrafast"},
    "libx264rgb": {"qp": "0", "preset": "ultrafast"},
    "ffv1": {},
}
LOSSY = {
    "libx264": {"qp": "29", "preset": "superfast", "g": "1", "tune": "zerolatency"},
    "mpeg4": {"qmin": "4", "qmax": "4", "g": "1"},
}
PIXEL_FORMATS = {"libx264": "yuv420p", "libx264rgb": "rgb24", "ffv1": "bgr0", "mpeg4": "yuv420p"}


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[npt.NDArray[np.uint8]],
    *,
    fps: float = 25,
    pts_seconds: Sequence[float] | None = None,
    codec: str = "libx264",
    lossless: bool = True,
    rotation_degrees: int = 0,
    container_format: str | None = None,
) -> Path:
    """Writes frames to a video file, in one thread and without dates, so equal input gives equal bytes.

    path: its suffix chooses the container (.mp4, .mkv, .avi, .mov, .ts), unless `container_format` names one.
    frames: upright `(H, W, 3) uint8` RGB, all of one size, at least one.
    fps: rate when `pts_seconds` is None; otherwise only the last frame's duration, 1/fps.
    pts_seconds: presentation time of each frame, increasing, one per frame, kept to 1/60000 s (Matroska: to 1 ms).
    codec: libx264 or mpeg4 (stored as yuv420p: even sides), libx264rgb or ffv1 (stored as RGB).
    lossless: libx264 keeps every value of the yuv420p picture, libx264rgb and ffv1 every RGB value; mpeg4 cannot.
        When False, every frame is coded by itself at a constant quantiser.
    rotation_degrees: 0, 90, 180 or 270. The pictures are stored turned anticlockwise by it and the file says that
        they must be turned clockwise by it (.mp4, .mov): a player shows `frames` as they were given.

    Returns the path. Raises ValueError for frames, times or options that do not fit; a file begun by then is left.
    """
    target = Path(path).absolute()  # a colon in a relative name would be taken for a protocol
    options = (LOSSLESS if lossless else LOSSY).get(codec)
    if options is None:
        possible = ", ".join(LOSSLESS if lossless else LOSSY)
        raise ValueError(f"codec is {codec!r} with lossless={lossless}; expected one of {possible}")
    if rotation_degrees not in (0, 90, 180, 270):
        raise ValueError(f"rotation_degrees is {rotation_degrees}; expected 0, 90, 180 or 270")
    rate = Fraction(fps).limit_denominator(1001)
    time_base = 1 / rate if pts_seconds is None else Fraction(1, FINE_TICKS)
    last_duration = 1 if pts_seconds is None else max(1, round(FINE_TICKS / fps))
    ticks = None if pts_seconds is None else [round(seconds * FINE_TICKS) for seconds in pts_seconds]
    if ticks is not None and any(late <= early for early, late in pairwise(ticks)):
        raise ValueError("pts_seconds must increase from frame to frame, by at least 1/60000 s")
    reformatter = VideoReformatter()
    shape: tuple[int, ...] = ()
    count = 0
    with av.open(
        os.fspath(target), "w", format=container_format, container_options={"fflags": "+bitexact"}
    ) as container:
        stream = container.add_stream(codec, rate=rate, options={**options, "threads": "1", "flags": "+bitexact"})
        assert isinstance(stream, av.VideoStream)  # every codec of PIXEL_FORMATS is
        stream.thread_count = 1
        stream.pix_fmt = PIXEL_FORMATS[codec]
        stream.time_base = stream.codec_context.time_base = time_base

        def packets() -> "Iterator[av.Packet[av.VideoStream]]":
            nonlocal shape, count
            for rgb in frames:
                picture = np.ascontiguousarray(np.rot90(rgb, rotation_degrees // 90))
                if not shape:
                    shape = _check_shape(picture, stream.pix_fmt == "yuv420p")
                    stream.height, stream.width = shape[:2]
                    if rotation_degrees:
                        stream.set_display_rotation(-rotation_degrees)
                if picture.shape != shape or picture.dtype != np.uint8:
                    raise ValueError(f"frame {count} is {picture.shape} {picture.dtype}; expected {shape} uint8")
                if ticks is not None and count >= len(ticks):
                    raise ValueError(
                        f"pts_seconds has {len(ticks)} times; expected one for every frame, there are more"
                    )
                frame = reformatter.reformat(av.VideoFrame.from_ndarray(picture, "rgb24"), format=stream.pix_fmt)
                frame.pts = count if ticks is None else ticks[count]
                frame.time_base = time_base
                count += 1
                yield from stream.encode(frame)
            if shape:
                yield from stream.encode(None)

        # One packet is held back: the last one's duration is the last frame's, and no later time tells it.
        held: av.Packet[av.VideoStream] | None = None
        for packet in packets():
            if held is not None:
                container.mux(held)
            held = packet
        if held is None or (ticks is not None and count != len(ticks)):
            raise ValueError(f"{count} frames were given; expected at least 1, and as many as pts_seconds has times")
        held.duration = last_duration
        container.mux(held)
    return target


def _check_shape(picture: Image, even: bool) -> tuple[int, ...]:
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a frame has shape {picture.shape}; expected (height, width, 3)")
    if even and (picture.shape[0] % 2 or picture.shape[1] % 2):
        raise ValueError(f"a frame has shape {picture.shape}; yuv420p needs even sides, take libx264rgb or ffv1")
    return picture.shape


def barcode_frame(index: int, height: int, width: int) -> Image:
    """A frame `(height, width, 3) uint8` RGB that carries its number: 16 bars in the top third, the highest bit left.

    Below, the left half is reddish and the right half bluish, brighter downwards, so a turned picture is seen.
    """
    if not 0 <= index < 1 << 16 or width < 16 or height < 6:
        raise ValueError(f"barcode {index} in {height} x {width}; expected 0 to 65535 in at least 6 x 16 pixels")
    rgb = np.empty((height, width, 3), np.uint8)
    level = np.linspace(60, 160, height)[:, None]
    column = np.arange(width)[None, :]
    rgb[:, :, 0] = level + np.where(column < width / 2, 60, -40)
    rgb[:, :, 1] = level
    rgb[:, :, 2] = level + np.where(column < width / 2, -40, 60)
    bit = 15 - np.arange(width) * 16 // width
    rgb[: height // 3] = np.where((index >> bit) & 1, 235, 20)[None, :, None]
    return rgb


def read_barcode(rgb: npt.NDArray[np.uint8]) -> int:
    """The number in a barcode frame `(H, W, 3) uint8`, also when resized. Raises ValueError if none."""
    height, width = rgb.shape[:2]
    row = rgb[height // 12 : max(height // 12 + 1, height // 4)].mean(axis=(0, 2))
    centers = ((np.arange(16) + 0.5) * width / 16).astype(int)
    levels = row[centers]
    if np.any((levels > 90) & (levels < 165)):
        raise ValueError(f"no barcode in the top third: brightness {levels.round().tolist()}, expected dark or bright")
    return int(sum(1 << (15 - place) for place in range(16) if levels[place] > 127))


def draw_dataset(
    folder: Path,
    *,
    seed: int = 0,
    num_people: int = 40,
    clips_per_class: int = 2,
    recordings_per_person: int = 2,
    tied: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draws the data set into a folder and returns the folder; what is there already is kept.

    Writes `clips/<class>/person-07_a.mp4` (`clips_per_class` per person and class), `recordings/person-07_a.mp4`
    (`recordings_per_person`), `videos.csv` (path, label, person; no label for recordings), `segments.csv` (path,
    start_seconds, end_seconds, label; recordings only, seconds from the first frame, rests have no row) and, last,
    `dataset.json`.
    Equal seed and counts give equal bytes, whatever the number of workers. An interrupted run goes on where it stopped.

    tied: every class has a place of its own, the same for all people; everything else is drawn as without. A recording
        shows many classes, so there are none: give 0 of them.
    workers: processes that draw; None: one per usable core; 1: none beside this one. More than one are started afresh
        ("spawn"), so a script that calls this needs the usual `if __name__ == "__main__":`.
    progress: called with (videos done, videos in all) after every video.

    Raises DataError when a count is out of range, the folder holds videos that are not of this data set, or a worker
    process dies.
    """
    workers = workers if workers is not None else _usable_cores()
    counts_fit = 1 <= num_people <= 999 and 1 <= clips_per_class <= 26
    counts_fit &= recordings_per_person == 0 if tied else 1 <= recordings_per_person <= 26
    if not (counts_fit and seed >= 0 and workers >= 1):
        raise DataError(
            f"demo data set of seed {seed}, {num_people} people, {clips_per_class} clips per class, "
            f"{recordings_per_person} recordings each, {workers} workers; expected a seed of 0 or more, "
            f"1 to 999 people, 1 to 26 clips, {'no recordings' if tied else '1 to 26 recordings'}, at least 1 worker"
        )
    identity = {
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "num_people": num_people,
        "clips_per_class": clips_per_class,
        "recordings_per_person": recordings_per_person,  # 0 exactly where backgrounds are tied
    }
    names = _video_names(num_people, clips_per_class, recordings_per_person)
    files = (*names, "videos.csv", *([] if tied else ["segments.csv"]))
    if _holds(folder / COMMIT_FILE, identity) and all((folder / name).is_file() for name in files):
        return folder
    _prepare(folder, identity, names)
    missing = [name for name in names if not (folder / name).is_file()]
    done = len(names) - len(missing)
    for _ in _drawn(folder, seed, missing, workers, tied):
        done += 1
        if progress is not None:
            progress(done, len(names))
    write_table(folder / "videos.csv", ("path", "label", "person"), ((name, *names[name]) for name in names))
    if not tied:
        write_table(folder / "segments.csv", ("path", "start_seconds", "end_seconds", "label"), _segments(names, seed))
    total = hashlib.sha256()
    for name in files:
        total.update(hashlib.sha256((folder / name).read_bytes()).digest())
    counts = {
        "num_clips": sum(name.startswith("clips/") for name in names),
        "num_recordings": num_people * recordings_per_person,
    }
    write_text(folder / COMMIT_FILE, _as_json({**identity, **counts, "sha256": total.hexdigest()}))
    (folder / PROGRESS_FILE).unlink(missing_ok=True)
    return folder


def _video_names(num_people: int, clips_per_class: int, recordings_per_person: int) -> dict[str, tuple[str, str]]:
    """Path -> (label, person), in path order."""
    names = {}
    for number in range(1, num_people + 1):
        person = f"person-{number:02d}"
        for letter in LETTERS[:recordings_per_person]:
            names[f"recordings/{person}_{letter}.mp4"] = ("", person)
        for label in CLASSES:
            for letter in LETTERS[:clips_per_class]:
                names[f"clips/{label}/{person}_{letter}.mp4"] = (label, person)
    return dict(sorted(names.items()))


def _segments(names: dict[str, tuple[str, str]], seed: int) -> Iterator[tuple[str, ...]]:
    for name, (label, _) in names.items():
        if not label:
            for start, end, action in plan_recording(generator(seed, name)).segments:
                yield name, f"{start:.3f}", f"{end:.3f}", action


def _as_json(value: dict[str, object]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _holds(path: Path, identity: dict[str, int]) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and all(found.get(key) == value for key, value in identity.items())


def _prepare(folder: Path, identity: dict[str, int], names: dict[str, tuple[str, str]]) -> None:
    """Leaves in the folder only finished videos of this very data set, and a note that it is being drawn."""
    for part in ("clips", "recordings"):
        for path in sorted((folder / part).rglob("*")):
            if path.name.startswith(".") and path.name.endswith(TEMPORARY_SUFFIX):
                path.unlink()  # of a run that was killed; it would count as a broken video of the data set
            elif path.is_file() and path.relative_to(folder).as_posix() not in names:
                raise DataError(
                    f"{path}: not a video of this data set ({identity}); draw into another folder, or empty this one"
                )
    current = _holds(folder / PROGRESS_FILE, identity) or _holds(folder / COMMIT_FILE, identity)
    for path in [folder / COMMIT_FILE, *(folder / name for name in names if not current)]:
        path.unlink(missing_ok=True)
    write_text(folder / PROGRESS_FILE, _as_json({**identity}))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _drawn(folder: Path, seed: int, names: list[str], workers: int, tied: bool) -> Iterator[str]:
    if workers == 1 or len(names) <= 1:
        for name in names:
            yield _draw_file(folder, seed, name, tied)
        return
    # spawn: a forked copy of a process that holds threads (torch, av) can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(names)), context, initializer=_start_worker)
    try:
        for job in as_completed([pool.submit(_draw_file, folder, seed, name, tied) for name in names]):
            yield job.result()
    except BrokenProcessPool as error:
        raise DataError(
            f"{folder}: a drawing process died (out of memory?); run again, what is drawn is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Workers of a process that was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _place_of(label: str, seed: int) -> Place:
    """The place of a class in a tied data set. The two classes of a pair have different kinds of place."""
    return Place(tuple(SCENES)[CLASSES.index(label) % len(SCENES)], seed, f"place of {label}")


def _draw_file(folder: Path, seed: int, name: str, tied: bool) -> str:
    path = folder / name
    rng = generator(seed, name)
    person = draw_person(generator(seed, path.stem.split("_")[0]), tuple(SCENES))
    plan = plan_clip(path.parent.name, rng) if name.startswith("clips/") else plan_recording(rng)
    video = draw_video(plan, person, rng, _place_of(path.parent.name, seed) if tied else None)
    with replacing(path) as temporary:
        write_video(
            temporary,
            video.frames,
            fps=video.fps,
            pts_seconds=video.pts_seconds,
            lossless=False,
            rotation_degrees=video.rotation_degrees,
            container_format="mp4",
        )
    return name
