"""Overlays of a folder of results: `overlays/<name>.mp4`, a video with its answer drawn on it, for every answer."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from pipeline import __version__
from pipeline.errors import RejectedVideo
from pipeline.files import DISK_FULL, explaining_full_disk, replacing, sweep, write_text
from pipeline.inference.answers import Answer, Segment, is_output_name, output_name
from pipeline.inference.drawing import Timeline
from pipeline.inference.ledger import file_state
from pipeline.inference.overlayworker import DONE
from pipeline.progress import Progress
from pipeline.remote import staged
from pipeline.threads import in_threads
from pipeline.video.isolation import DecoderPool, absolute
from pipeline.video.limits import Limits
from pipeline.video.overlay import LONGEST_SIDE

OVERLAYS = "overlays"
WORKER = "pipeline.inference.overlayworker"
MADE = ".made.jsonl"
NO_OVERLAY = "no overlay"
# When all is encoded, MP4's index moves to the front, and all of the file behind it: ten hours of video take a while,
# in which no picture comes.
SECONDS_TO_REWRITE = 300.0


def update_overlays(
    folder: Path, answers: Iterable[Answer], *, threshold: float | None, task: str, limits: Limits, workers: int
) -> list[tuple[str, str]]:
    """Make the overlays that are missing; remove those of answers that are gone or changed.

    An overlay is up to date when it was made, whole, of the same answer, threshold and file. Each is made in a child
    process under `limits`; one that fails costs that overlay only.

    folder: of the results, locked by the caller. answers: as the tables have them, iterable twice; those without a
    label get no overlay. workers: overlays made at a time.

    Returns (path, what is to be said), in the order of the answers, of every overlay that could not be made, or lacks
    something. Raises StoreError when the disk is full, and VideoError when no process can be started.
    """
    made = _Made(folder / OVERLAYS)
    digests = prune_overlays(folder, answers, threshold=threshold, task=task)
    todo = {path for path, digest in digests.items() if not made.holds(path, digest)}
    if not todo:
        return []
    wanted, lock = (answer for answer in answers if answer.path in todo), threading.Lock()

    def make_next(_: int) -> list[tuple[str, str]]:
        with lock:
            answer = next(wanted)
        target = made.folder / f"{output_name(answer.path)}.mp4"
        try:
            notes = write_overlay(answer, answer.path, target, pool=pool, threshold=threshold, task=task)
        except RejectedVideo as error:
            return [(answer.path, f"{NO_OVERLAY}: {error}")]
        with lock:
            made.add(answer.path, digests[answer.path])
        return [(answer.path, f"overlay: {note}") for note in notes]

    patient = replace(limits, seconds_without_progress=max(limits.seconds_without_progress, SECONDS_TO_REWRITE))
    with overlay_pool(patient) as pool:
        results = in_threads(make_next, range(len(todo)), workers)
        said = list(itertools.chain.from_iterable(Progress("overlay", len(todo)).over(results)))
    made.compact(digests)
    return said


def prune_overlays(folder: Path, answers: Iterable[Answer], *, threshold: float | None, task: str) -> dict[str, str]:
    """Remove the overlays of answers that are gone or changed, which would show what is no longer said.

    Returns the digest of what each answer's overlay shows, by path.
    """
    digests = {answer.path: _digest(answer, threshold, task) for answer in answers if answer.is_answered}
    made = _Made(folder / OVERLAYS)
    keep = {output_name(path) for path, digest in digests.items() if made.holds(path, digest)}
    if made.folder.is_dir():
        sweep(made.folder)
        for path in sorted(made.folder.glob("*.mp4")):
            if is_output_name(path.stem) and path.stem not in keep:
                path.unlink()
    return digests


def overlay_pool(limits: Limits = Limits()) -> DecoderPool:  # noqa: B008 - frozen
    """Processes for `write_overlay`; use it as a context manager."""
    return DecoderPool(limits, WORKER)


def write_overlay(
    answer: Answer,
    source: str | os.PathLike[str],
    target: Path,
    *,
    pool: DecoderPool,
    threshold: float | None,
    task: str,
) -> list[str]:
    """Write a video with its answer drawn on it, in a child process; it appears whole or not at all.

    source: the video. threshold: as for `write_results`. Returns what is to be said about it, such as sound left out.
    Raises RejectedVideo when the video cannot be read or drawn on, or exceeds its limits.
    """
    timeline = overlay_timeline(answer, threshold, task)
    job = {
        "segments": [asdict(segment) for segment in timeline.segments],
        "end_seconds": timeline.end_seconds,
        "classes": list(timeline.classes),
        "threshold": threshold,
    }
    with replacing(target) as temporary:
        with staged(absolute(source)) as local, pool.child() as child:
            child.ask(job | {"path": local, "target": absolute(temporary)})
            kind, contents = child.answer()
        values = json.loads(contents)
        if kind != DONE:
            if values["errno"] in DISK_FULL:
                raise OSError(values["errno"], os.strerror(values["errno"]))
            raise RejectedVideo(values["reason"])
    return list(values["notes"])


def overlay_timeline(answer: Answer, threshold: float | None, task: str) -> Timeline:
    """What an overlay of an answer shows at each time: segments that do not overlap.

    answer: with segments that do not overlap, see `resultfolder.timeline_of`. Of a clip model that looked at one clip,
    the overall label.
    """
    length = None if answer.video is None else answer.video.duration_seconds
    end = max(answer.seconds or 0.0, length or 0.0)
    segments = answer.segments
    if task == "clip" and len(segments) < 2:
        segments = (Segment(0.0, math.inf, answer.label, answer.score or 0.0),)
    return Timeline(segments, 0.0, end, sorted(answer.scores), threshold)


def _digest(answer: Answer, threshold: float | None, task: str) -> str:
    """Of all that an overlay depends on: the answer, what makes it sure, the file, and how it is drawn."""
    values = [answer.to_json(), threshold, task, file_state(answer.path), __version__, LONGEST_SIDE]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode("ascii")).hexdigest()


class _Made:
    """Which overlays were made of what: a line of JSON each, appended as they are finished; a torn one is ignored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / MADE
        self._entries: dict[str, tuple[str, int]] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self._path.read_bytes().split(b"\n"):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    self._entries[entry["path"]] = (entry["digest"], entry["size_bytes"])

    def holds(self, path: str, digest: str) -> bool:
        """Whether the overlay of a video is there, as it was made, and shows this."""
        try:
            size_bytes = (self.folder / f"{output_name(path)}.mp4").stat().st_size
        except OSError:
            return False
        return self._entries.get(path) == (digest, size_bytes)

    def add(self, path: str, digest: str) -> None:
        """Note an overlay that has just been finished. Unsynced: a line that is lost costs one overlay."""
        entry = (digest, (self.folder / f"{output_name(path)}.mp4").stat().st_size)
        self._entries[path] = entry
        with explaining_full_disk(self._path), self._path.open("ab") as file:
            file.write(b"\n" + _line(path, entry).encode("ascii"))

    def compact(self, keep: Iterable[str]) -> None:
        """Rewrite the list with one line for each of these videos."""
        write_text(self._path, "".join(_line(path, self._entries[path]) for path in keep if path in self._entries))


def _line(path: str, entry: tuple[str, int]) -> str:
    return json.dumps({"path": path, "digest": entry[0], "size_bytes": entry[1]}) + "\n"
