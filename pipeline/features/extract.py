"""Frames to feature vectors: videos are decoded side by side while the backbone works on batches of fixed size."""

import contextlib
import os
import queue
import threading
import time
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from pipeline.device import Halving
from pipeline.errors import RejectedVideo, VideoError, WeightsError
from pipeline.features.backbones import Backbone
from pipeline.features.crop import crop_of_frame
from pipeline.features.frozen import FrozenBackbone, compute_context
from pipeline.features.store import VideoFeatures
from pipeline.threads import SIGNAL_SECONDS
from pipeline.video.changes import Picture
from pipeline.video.flow import NO_FLOW, FlowFrame, flow_frames
from pipeline.video.reader import Frame

# Part of the result: another batch size moves the last bits. On a CPU 16 frames are fastest: a thread's share of the
# cache holds what goes from layer to layer.
CPU_BATCH_SIZE = 16
CUDA_BATCH_SIZE = 128
CUDA_THREADS = 2  # while one batch is computed, the next one is copied
QUEUED_BATCHES = 2  # full batches that may wait, for each thread that computes
VIDEOS_AHEAD = 64  # videos that may be ready, or on their way, before the one whose turn it is
GROWN_ROWS = 256  # for which room is made, when there is none for more vectors of a video
SECONDS_TO_STOP = 2.0  # for the threads that decode
IDLE_SECONDS = 0.5  # without a full batch; then one with the last frames of a video is computed as it is

K = TypeVar("K")


class Extractor:
    """Runs a backbone over the frames of many videos.

    Frames of all videos share batches of one fixed size, padded where too few are left: on a CPU a video's features
    are the same bits whatever its neighbours, its place, the number of workers, or the number of cores. There, every
    core computes batches of its own in one thread each, which is faster than all cores on one batch. On a GPU they are
    computed in bfloat16 (float16 where the hardware has none), and equal only as far as its libraries promise.

    The backbone is moved to `device`. crop, crops, flow: as in View. workers: videos decoded at a time, each read, and
    its flow computed, by one thread. Raises ValueError when the backbone cannot take frames of `crop` pixels.
    """

    def __init__(
        self,
        backbone: Backbone,
        crop: int,
        device: torch.device | str,
        workers: int = 1,
        *,
        crops: Literal[1, 10] = 1,
        flow: Literal["", "dis", "farneback"] = "",
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected 1 or more videos decoded at a time")
        self.device = torch.device(device)
        self.backbone = backbone.to(device=self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.crop = crop
        self.crops = crops
        self.flow = flow
        self.workers = workers
        self.on_gpu = self.device.type == "cuda"
        self.batch_size = CUDA_BATCH_SIZE if self.on_gpu else CPU_BATCH_SIZE
        self.compute_threads = CUDA_THREADS if self.on_gpu else len(os.sched_getaffinity(0))
        backbone.check_crop(crop)
        self.network = FrozenBackbone(backbone, crop)
        self.at_a_time = Halving(self.batch_size, "frames")

    def run(
        self,
        videos: Iterable[tuple[K, Iterable[Frame | Picture]]],
        progress: Callable[[int], None] = lambda num_frames: None,
        *,
        in_order: bool = True,
    ) -> Generator[tuple[K, VideoFeatures | Exception], None, None]:
        """Features of every video, or the error that it ended in.

        The frames are those of the view; flow is computed from them here (not from changed pictures), so the first
        picture's timesteps get no features, and a video of one picture ends in RejectedVideo. Values are (T, D), or
        (T, 10, D) of ten crops.

        Both `videos` and its frames are iterated in worker threads, so opening a file belongs into the frames'
        iterator: an error there costs this video only. An error of `videos` itself, or of the device, ends the run.
        Closing the generator stops the threads and closes the frames' iterators. Held in memory: a bounded number of
        frames, and the vectors of at most VIDEOS_AHEAD videos. Where a GPU's memory does not hold a batch, half as many
        frames are computed at a time from then on; a video for which one is too many, or whose vectors are, ends in a
        MemoryError.

        progress: told, by the threads that compute, of the frames that each batch held. in_order: give the videos in
        the order of `videos`, so that quick ones wait for a slow one before them; otherwise each as soon as it is done.
        """
        waiting: dict[int, _Video[K]] = {}
        turn = 0
        run = _Run(self, videos, progress)
        with contextlib.closing(run.complete_videos()) as complete:
            for video in complete:
                waiting[video.index] = video
                while (ready := turn if in_order else video.index) in waiting:
                    yield self._result(waiting.pop(ready))
                    run.let_one_begin()
                    turn += 1

    def _result(self, video: "_Video[K]") -> tuple[K, VideoFeatures | Exception]:
        if video.error is not None:
            return video.key, video.error
        if not video.times:
            if video.num_frames:
                return video.key, RejectedVideo(NO_FLOW)
            return video.key, VideoError(f"{video.key}: no frames came out of the video; expected at least one")
        if not video.values.any():
            return video.key, WeightsError(
                f"{video.key}: every feature of backbone {self.backbone.name} is 0 in float16; "
                "random weights of deep networks do that: train them (finetune), or take trained weights"
            )
        try:
            values = video.values if self.crops == 1 else video.values.reshape(len(video.times), self.crops, -1)
            return video.key, VideoFeatures(values, np.array(video.times), np.array(video.pts))
        except ValueError as error:
            return video.key, VideoError(f"{video.key}: backbone {self.backbone.name} gave unusable features: {error}")


@dataclass(eq=False)
class _Video(Generic[K]):
    """A video on its way: grid and presentation times of its timesteps, vectors of the crops computed."""

    index: int
    key: K
    values: np.ndarray  # (T * crops, D) float16; while frames come, with room for more
    times: "array[float]" = field(default_factory=lambda: array("d"))
    pts: "array[float]" = field(default_factory=lambda: array("d"))
    num_frames: int = 0  # that were read; flow begins later
    num_rows: int = 0  # crops put into batches
    num_computed: int = 0
    ended: bool = False
    error: Exception | None = None

    def keep(self, first: int, values: np.ndarray) -> None:
        """Take the vectors of the crops from `first` on; batches may come in any order."""
        end = first + len(values)
        if end > len(self.values):
            # In place: a long video's vectors never lie in memory twice.
            self.values.resize((end + GROWN_ROWS, values.shape[1]), refcheck=False)
        self.values[first:end] = values
        self.num_computed += len(values)

    def finish(self) -> None:
        """Give back the room that is not needed."""
        num_rows = self.num_rows if self.error is None else 0
        self.values.resize((num_rows, self.values.shape[1]), refcheck=False)


@dataclass(eq=False)
class _Batch:
    """Pixels, and whose they are: (video, its first crop in the batch, how many)."""

    pixels: Tensor  # (B, crop, crop, 3) uint8, pinned when the device is a GPU
    parts: list[tuple[_Video[Any], int, int]] = field(default_factory=list)
    num_rows: int = 0
    num_frames: int = 0  # whose first crop is here

    def add(self, video: _Video[Any], frame: Frame | Picture | FlowFrame, crop: int, number: int) -> None:
        crop_of_frame(frame, crop, number, self.pixels[self.num_rows].numpy())
        self.num_rows += 1
        self.num_frames += number == 0
        last, first, count = self.parts[-1] if self.parts else (None, 0, 0)
        if last is video:
            self.parts[-1] = (video, first, count + 1)
        else:
            self.parts.append((video, video.num_rows, 1))
        video.num_rows += 1


class _Filling:
    """The batch that one thread fills. The lock is held while a frame is put in, or the batch is taken away."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.batch: _Batch | None = None

    def take(self) -> _Batch | None:
        """The batch as it is, which is left to the caller; under the lock."""
        batch, self.batch = self.batch, None
        return batch


class _Run(Generic[K]):
    """The threads of one run. Some each read one video after the other and fill batches, some compute full ones.

    Every queue ends with None, once for each of its readers.
    """

    def __init__(
        self,
        extractor: Extractor,
        videos: Iterable[tuple[K, Iterable[Frame | Picture]]],
        progress: Callable[[int], None],
    ) -> None:
        self._extractor = extractor
        self._videos: Iterator[tuple[int, tuple[K, Iterable[Frame | Picture]]]] = enumerate(videos)
        self._progress = progress
        self._lock = threading.Lock()  # over all videos' state
        self._taking = threading.Lock()
        self._stop = threading.Event()
        self._permits = threading.Semaphore(max(VIDEOS_AHEAD, extractor.workers))
        self._free: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._complete: queue.SimpleQueue[_Video[K] | BaseException | None] = queue.SimpleQueue()
        self._fillings = [_Filling() for _ in range(extractor.workers)]
        self._readers = [
            threading.Thread(
                target=self._guard, args=(self._read_videos, filling), name=f"decode-{number}", daemon=True
            )
            for number, filling in enumerate(self._fillings)
        ]
        self._computers = [
            threading.Thread(target=self._guard, args=(self._compute,), name=f"compute-{number}", daemon=True)
            for number in range(extractor.compute_threads)
        ]
        self._num_reading = extractor.workers
        shape = (extractor.batch_size, extractor.crop, extractor.crop, 3)
        for _ in range(extractor.workers + (1 + QUEUED_BATCHES) * extractor.compute_threads):
            # Takes memory when it is first filled.
            self._free.put(_Batch(torch.empty(shape, dtype=torch.uint8, pin_memory=extractor.on_gpu)))

    def complete_videos(self) -> Generator[_Video[K], None, None]:
        """Videos as they get complete; closing it stops the threads. Raises what ended a thread."""
        own_threads = torch.get_num_threads()
        threads = [*self._readers, *self._computers]
        try:
            for thread in threads:
                thread.start()
            num_computing = len(self._computers)
            while num_computing:
                try:
                    # In short waits: a signal that another thread takes does not end a wait of the main thread.
                    item = self._complete.get(timeout=SIGNAL_SECONDS)
                except queue.Empty:
                    continue
                if item is None:
                    num_computing -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            self._stop.set()
            for _ in self._readers:
                self.let_one_begin()
                self._free.put(None)
            for _ in self._computers:
                self._full.put(None)
            deadline = time.monotonic() + SECONDS_TO_STOP
            for thread in threads:
                if thread.ident is not None:  # it was started
                    # A decoder that hangs holds its reader until whoever made the decoder, further out, closes it.
                    thread.join(max(0.0, deadline - time.monotonic()) if thread in self._readers else None)
            # The threads' own setting has become the one that new threads begin with.
            torch.set_num_threads(own_threads)

    def let_one_begin(self) -> None:
        """Let the threads begin one video more."""
        self._permits.release()

    def _guard(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised again where the videos are read
            self._complete.put(error)

    def _read_videos(self, filling: _Filling) -> None:
        while not self._stop.is_set():
            if not self._permits.acquire(blocking=False):
                # The video whose turn it is may wait for these very frames.
                self._hand_over(filling)
                self._permits.acquire()
            with self._taking:
                item = None if self._stop.is_set() else next(self._videos, None)
            if item is None:
                break
            index, (key, frames) = item
            video = _Video(index, key, np.empty((0, self._extractor.backbone.feature_size), np.float16))
            self._end(video, self._read(video, frames, filling))
        self._hand_over(filling)
        with self._lock:
            self._num_reading -= 1
            if not self._num_reading:
                for _ in self._computers:
                    self._full.put(None)

    def _read(self, video: _Video[K], frames: Iterable[Frame | Picture], filling: _Filling) -> Exception | None:
        """Fill batches with a video's frames; returns the error that it ended in."""
        try:
            # A decoder's generator is closed, and with it its file, by the thread that reads it.
            with contextlib.closing(cast(Any, frames)) if hasattr(frames, "close") else contextlib.nullcontext():
                for frame in self._wanted(video, frames):
                    if not self._add(video, frame, filling):
                        return None
                    video.times.append(float(frame.time_seconds))
                    video.pts.append(float(frame.pts_seconds))
        except Exception as error:  # noqa: BLE001 - whatever ends one video is that video's result
            return error
        return None

    def _add(self, video: _Video[K], frame: Frame | Picture | FlowFrame, filling: _Filling) -> bool:
        """Put a frame's crops into the batch, and full batches to those that compute; False when the run stops."""
        for number in range(self._extractor.crops):
            with filling.lock:
                batch = filling.batch = filling.batch or self._free.get()
                if batch is None or self._stop.is_set():
                    return False
                batch.add(video, frame, self._extractor.crop, number)
                is_full = batch.num_rows == self._extractor.batch_size
            if is_full:
                self._hand_over(filling)
        return True

    def _wanted(self, video: _Video[K], frames: Iterable[Frame | Picture]) -> Iterable[Frame | Picture | FlowFrame]:
        """The frames that the backbone sees, those read being counted."""

        def counted() -> Iterator[Any]:
            for frame in frames:
                video.num_frames += 1
                yield frame

        return flow_frames(counted(), self._extractor.flow) if self._extractor.flow else counted()

    def _hand_over(self, filling: _Filling) -> None:
        """Have a batch computed, padded with black frames."""
        with filling.lock:
            batch = filling.take()
        if batch is not None and batch.num_rows:
            batch.pixels[batch.num_rows :] = 0
            self._full.put(batch)
        elif batch is not None:
            self._free.put(batch)

    def _hand_over_ended(self) -> None:
        """Have the last frames of videos computed that wait for those of another, whose decoder takes its time."""
        for filling in self._fillings:
            if filling.lock.acquire(blocking=False):  # else its thread is filling it this moment
                try:
                    waits = filling.batch is not None and any(video.ended for video, *_ in filling.batch.parts)
                finally:
                    filling.lock.release()
                if waits:
                    self._hand_over(filling)

    def _next_batch(self) -> _Batch | None:
        while True:
            try:
                return self._full.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self._hand_over_ended()

    def _compute(self) -> None:
        extractor = self._extractor
        with compute_context(extractor.device):
            while (batch := self._next_batch()) is not None and not self._stop.is_set():
                try:
                    values = self._vectors(batch)
                except MemoryError as error:
                    for video, *_ in batch.parts:
                        self._fail(video, error)
                else:
                    start = 0
                    for video, first, count in batch.parts:
                        self._take_vectors(video, first, values[start : start + count])
                        start += count
                self._progress(batch.num_frames)
                batch.parts, batch.num_rows, batch.num_frames = [], 0, 0
                self._free.put(batch)
        self._complete.put(None)

    def _vectors(self, batch: _Batch) -> np.ndarray:
        """(B, D) float16 of a batch. Raises MemoryError when the device has none left for a single frame."""
        extractor, pixels = self._extractor, batch.pixels

        def vectors(rows: slice) -> np.ndarray:
            on_device = pixels[rows].to(extractor.device, non_blocking=True)
            return extractor.network(on_device).to(torch.float16).cpu().numpy()  # type: ignore[no-any-return]

        return np.concatenate(list(extractor.at_a_time.over(len(pixels), vectors)))

    def _take_vectors(self, video: _Video[K], first: int, values: np.ndarray) -> None:
        with self._lock:
            if video.error is None:
                try:
                    video.keep(first, values)
                except MemoryError as error:
                    video.error = error
                self._pass_on_if_complete(video)

    def _fail(self, video: _Video[K], error: Exception) -> None:
        with self._lock:
            if video.error is None:
                video.error = error
                self._pass_on_if_complete(video)

    def _end(self, video: _Video[K], error: Exception | None) -> None:
        with self._lock:
            video.ended, video.error = True, video.error or error
            self._pass_on_if_complete(video)

    def _pass_on_if_complete(self, video: _Video[K]) -> None:
        if video.ended and (video.error is not None or video.num_computed == video.num_rows):
            video.finish()
            self._complete.put(video)
