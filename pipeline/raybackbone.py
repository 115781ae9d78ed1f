"""The actor that makes features of frames that tasks decode, and answers of features."""

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ray

from pipeline.errors import ConfigError, LrcnError
from pipeline.features.store import VideoFeatures
from pipeline.raydecode import End, Look, LostWorkerError, Source, decode, require_versions
from pipeline.threads import SIGNAL_SECONDS
from pipeline.video.flow import FlowFrame
from pipeline.video.reader import Frame
from pipeline.video.verdict import Verdict

PIECES_AHEAD = 2  # of a video, that wait to be taken
READERS_AHEAD = 1  # videos that are asked for while the tasks of others take all processors


class Job(NamedTuple):
    """A video to be done; name: what messages and answers call it."""

    number: int
    name: str
    source: Source


@dataclass(frozen=True)
class Setup:
    """What an actor is made from.

    files: of a model folder, or a backbone's alone. head: makes of this folder and a device the function that turns a
    video's features, or their error, into what is wanted in their place; see Head. num_tasks: videos decoded at a time.
    """

    files: Mapping[str, bytes]
    device: str
    num_tasks: int
    look: Look
    head: "Callable[[Path, str], Head] | None"


# Of a video's name, its features or the error that it ended in, and its verdict. It runs in the actor.
Head = Callable[[str, VideoFeatures | Exception, Verdict | None], Any]


class Done(NamedTuple):
    """A video that is done. result: features, what the head made of them, or the error that it ended in."""

    number: int
    result: Any
    end: End


class Report(NamedTuple):
    """What an actor did since its last report. Busy seconds: of all compute threads, and of the recurrent network."""

    done: list[Done]
    num_frames: int
    compute_seconds: float
    head_seconds: float


@dataclass(eq=False)
class _Reading:
    """A video that an actor is at."""

    job: Job
    end: End = field(default_factory=End)

    def __str__(self) -> str:
        return self.job.name


class Backbones:
    """The actor: a backbone, and the recurrent network where answers are wanted, on one GPU or on a node's processors.

    It computes on while nobody asks. `exchange` hands it jobs and takes what is done.
    """

    def start(self, setup: Setup) -> LrcnError | int:
        """Load what is in the setup; returns the number of threads that compute, or the error, for the driver."""
        try:
            return self._start(setup)
        except LrcnError as error:
            return error

    def _start(self, setup: Setup) -> int:
        require_versions(setup.look.versions)
        # With PyTorch, which a task that decodes has no use for.
        from pipeline.device import choose_device
        from pipeline.features.backbones import read_backbone
        from pipeline.features.extract import Extractor

        device = choose_device(setup.device)
        with tempfile.TemporaryDirectory(prefix="lrcn-") as name:
            folder = Path(name)
            for file, data in setup.files.items():
                (folder / file).write_bytes(data)
            backbone = read_backbone(folder / "backbone.safetensors")
            self._head = setup.head and setup.head(folder, str(device))
        view, workers = setup.look.view, setup.num_tasks + READERS_AHEAD
        self._extractor = Extractor(backbone, view.crop, device, workers=workers, crops=view.crops)
        self._lock, self._computing = threading.Lock(), threading.local()
        self._extractor.network.register_forward_pre_hook(self._begin_batch)
        self._extractor.network.register_forward_hook(self._end_batch)
        self._num_frames, self._compute_seconds, self._head_seconds = 0, 0.0, 0.0
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Done | BaseException] = queue.SimpleQueue()
        self._task: Any = ray.remote(num_cpus=1, num_returns="streaming", max_retries=0)(decode).options(
            _generator_backpressure_num_objects=PIECES_AHEAD
        )
        self._look = ray.put(setup.look)
        threading.Thread(target=self._run, name="run", daemon=True).start()
        return self._extractor.compute_threads

    def exchange(self, jobs: list[Job]) -> Report:
        """Begin jobs; returns what was done meanwhile, as soon as there is something, or after a second."""
        for job in jobs:
            self._jobs.put(job)
        done: list[Done] = []
        try:
            item = self._done.get(timeout=SIGNAL_SECONDS)
            while True:
                if isinstance(item, BaseException):
                    raise item
                done.append(item)
                item = self._done.get_nowait()
        except queue.Empty:
            pass
        with self._lock:
            counts = self._num_frames, self._compute_seconds, self._head_seconds
            self._num_frames, self._compute_seconds, self._head_seconds = 0, 0.0, 0.0
        return Report(done, *counts)

    def _run(self) -> None:
        try:
            for reading, result in self._extractor.run(self._readings(), self._count, in_order=False):
                self._done.put(Done(reading.job.number, self._finished(reading, result), reading.end))
        except BaseException as error:  # noqa: BLE001 - raised again where the driver asks
            self._done.put(error)

    def _readings(self) -> Iterator[tuple[_Reading, Iterator[Any]]]:
        while True:
            reading = _Reading(self._jobs.get())
            yield reading, self._frames(reading)

    def _frames(self, reading: _Reading) -> Iterator[Any]:
        """A video's frames, from a task of its own; runs in a thread of the extractor."""
        try:
            for reference in self._task.remote(reading.job.source, self._look):
                piece, end = ray.get(reference)
                if end is not None:
                    reading.end = end
                    if end.error is not None:
                        raise end.error
                if piece is not None:
                    kind: Any = FlowFrame if piece.pixels.ndim == 4 else Frame
                    times = zip(piece.time_seconds, piece.pts_seconds, piece.pictures, strict=True)
                    for time_seconds, pts_seconds, picture in times:
                        yield kind(time_seconds, pts_seconds, piece.pixels[picture])
                    del piece, times  # its memory is Ray's, and free when nobody holds it
        except ray.exceptions.RayError as error:
            raise LostWorkerError(str(error).splitlines()[0]) from None

    def _finished(self, reading: _Reading, result: Any) -> Any:
        if self._head is None or isinstance(result, LostWorkerError | ConfigError):
            return result
        begin = time.monotonic()
        finished = self._head(reading.job.name, result, reading.end.verdict)
        with self._lock:
            self._head_seconds += time.monotonic() - begin
        return finished

    def _count(self, num_frames: int) -> None:
        with self._lock:
            self._num_frames += num_frames

    def _begin_batch(self, network: Any, pixels: Any) -> None:
        self._computing.since = time.monotonic()

    def _end_batch(self, network: Any, pixels: Any, vectors: Any) -> None:
        import torch

        if vectors.is_cuda:
            torch.cuda.current_stream(vectors.device).synchronize()  # for which the thread is about to wait
        with self._lock:
            self._compute_seconds += time.monotonic() - self._computing.since
