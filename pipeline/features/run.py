"""The threads of one extraction: some read videos and fill batches, some compute full ones."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np
import torch

from pipeline.features.batches import Batch, Filling, PartialVideo
from pipeline.features.frozen import Replica, compute_context
from pipeline.threads import SIGNAL_SECONDS
from pipeline.video.changes import Picture
from pipeline.video.flow import FlowFrame, flow_frames
from pipeline.video.reader import Frame

if TYPE_CHECKING:
    from pipeline.features.extract import Extractor

QUEUED_BATCHES = 2  # full batches that may wait, for each thread that computes
VIDEOS_AHEAD = 64  # videos that may be ready, or on their way, before the one whose turn it is
SECONDS_TO_STOP = 2.0  # for the threads that decode
IDLE_SECONDS = 0.5  # without a full batch; then one with the last frames of a video is computed as it is

K = TypeVar("K")


class Run(Generic[K]):
    """The threads of one run. Some each read one video after the other and fill batches, some compute full ones.

    Every queue ends with None, once for each of its readers.
    """

    def __init__(
        self,
        extractor: "Extractor",
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
        self._free: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._complete: queue.SimpleQueue[PartialVideo[K] | BaseException | None] = queue.SimpleQueue()
        self._fillings = [Filling() for _ in range(extractor.workers)]
        self._readers = [
            threading.Thread(
                target=self._guard, args=(self._read_videos, filling), name=f"decode-{number}", daemon=True
            )
            for number, filling in enumerate(self._fillings)
        ]
        self._computers = [
            threading.Thread(target=self._guard, args=(self._compute, replica), name=f"compute-{number}", daemon=True)
            for number, replica in enumerate(extractor.replicas * extractor.compute_threads)
        ]
        self._num_reading = extractor.workers
        shape = (extractor.batch_size, extractor.crop, extractor.crop, 3)
        for _ in range(extractor.workers + (1 + QUEUED_BATCHES) * len(self._computers)):
            # Takes memory when it is first filled.
            self._free.put(Batch(torch.empty(shape, dtype=torch.uint8, pin_memory=extractor.on_gpu)))

    def complete_videos(self) -> Generator[PartialVideo[K], None, None]:
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

    def _read_videos(self, filling: Filling) -> None:
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
            video = PartialVideo(index, key, np.empty((0, self._extractor.backbone.feature_size), np.float16))
            self._end(video, self._read(video, frames, filling))
        self._hand_over(filling)
        with self._lock:
            self._num_reading -= 1
            if not self._num_reading:
                for _ in self._computers:
                    self._full.put(None)

    def _read(self, video: PartialVideo[K], frames: Iterable[Frame | Picture], filling: Filling) -> Exception | None:
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

    def _add(self, video: PartialVideo[K], frame: Frame | Picture | FlowFrame, filling: Filling) -> bool:
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

    def _wanted(
        self, video: PartialVideo[K], frames: Iterable[Frame | Picture]
    ) -> Iterable[Frame | Picture | FlowFrame]:
        """The frames that the backbone sees, those read being counted."""

        def counted() -> Iterator[Any]:
            for frame in frames:
                video.num_frames += 1
                yield frame

        return flow_frames(counted(), self._extractor.flow) if self._extractor.flow else counted()

    def _hand_over(self, filling: Filling) -> None:
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

    def _next_batch(self) -> Batch | None:
        while True:
            try:
                return self._full.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self._hand_over_ended()

    def _compute(self, replica: Replica) -> None:
        with compute_context(replica.device):
            while (batch := self._next_batch()) is not None and not self._stop.is_set():
                try:
                    values = replica.vectors(batch.pixels)
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

    def _take_vectors(self, video: PartialVideo[K], first: int, values: np.ndarray) -> None:
        with self._lock:
            if video.error is None:
                try:
                    video.keep(first, values)
                except MemoryError as error:
                    video.error = error
                self._pass_on_if_complete(video)

    def _fail(self, video: PartialVideo[K], error: Exception) -> None:
        with self._lock:
            if video.error is None:
                video.error = error
                self._pass_on_if_complete(video)

    def _end(self, video: PartialVideo[K], error: Exception | None) -> None:
        with self._lock:
            video.ended, video.error = True, video.error or error
            self._pass_on_if_complete(video)

    def _pass_on_if_complete(self, video: PartialVideo[K]) -> None:
        if video.ended and (video.error is not None or video.num_computed == video.num_rows):
            video.finish()
            self._complete.put(video)
