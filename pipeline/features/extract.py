"""Frames to feature vectors: decoding runs ahead in threads while the backbone works on fixed batches."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import VideoError, WeightsError
from pipeline.features.backbones import Backbone
from pipeline.features.store import VideoFeatures
from pipeline.video.reader import Frame, i420_to_rgb

# Part of the result: another batch size moves the last bits. Large enough to keep the device busy.
CPU_BATCH_SIZE = 32
CUDA_BATCH_SIZE = 256
QUEUED_BATCHES = 4  # frames that wait between decoding and the backbone, in batches: all that decoding may run ahead
VIDEOS_AHEAD = 64  # videos that may be ready, or on their way, before the one whose turn it is

K = TypeVar("K")


def center_crop(rgb: np.ndarray, crop: int) -> np.ndarray:
    """The square in the middle of frames: (..., H, W, 3) -> (..., crop, crop, 3), a view.

    The first row is (H - crop) // 2 and the first column (W - crop) // 2: where the middle falls between two pixels,
    the crop lies half a pixel up and left. Raises ValueError when a frame is smaller than the crop.

    >>> center_crop(np.arange(4 * 7 * 3).reshape(4, 7, 3), 2)[0, 0] // 3  # row 1, column 2 of 7
    array([9, 9, 9])
    """
    height, width = rgb.shape[-3:-1]
    if crop > min(height, width):
        raise ValueError(f"frame of {width}x{height} pixels; expected at least {crop}x{crop}, the crop")
    top, left = (height - crop) // 2, (width - crop) // 2
    return rgb[..., top : top + crop, left : left + crop, :]


class Extractor:
    """Runs a backbone over the frames of many videos.

    Frames of all videos share batches of one fixed size, the last one padded: on a CPU a video's features are the
    same bits whatever its neighbours, its place, or the number of workers. On a GPU they are computed in bfloat16
    (float16 where the hardware has none), and equal only as far as its libraries promise.

    The backbone is moved to `device`. workers: videos decoded at a time, each in one thread.
    Raises ValueError when the backbone cannot take frames of `crop` pixels.
    """

    def __init__(self, backbone: Backbone, crop: int, device: torch.device | str, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected 1 or more videos decoded at a time")
        self.device = torch.device(device)
        self.backbone = backbone.to(device=self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.crop = crop
        self.workers = workers
        self.batch_size = CUDA_BATCH_SIZE if self.device.type == "cuda" else CPU_BATCH_SIZE
        backbone.check_crop(crop)

    def run(
        self, videos: Iterable[tuple[K, Iterable[Frame]]]
    ) -> Generator[tuple[K, VideoFeatures | Exception], None, None]:
        """Features of every video, or the error that it ended in, in the order of `videos`.

        Both `videos` and its frames are iterated in worker threads, so opening a file belongs into the frames'
        iterator: an error there costs this video only. An error of `videos` itself, or of the device, ends the run.
        Closing the generator stops the threads and closes the frames' iterators. Held in memory: a bounded number of
        frames, and the vectors of at most VIDEOS_AHEAD videos.
        """
        ahead = _DecodeAhead(videos, self.crop, self.workers, max_frames=QUEUED_BATCHES * self.batch_size)
        batches = _Batches(self.backbone, self.crop, self.batch_size, self.device)
        waiting: dict[int, _Video[K]] = {}
        turn = 0
        with contextlib.closing(ahead.events()) as events:
            for event in events:
                video = waiting.setdefault(event.index, _Video(event.key))
                if event.frame is not None:
                    video.times.append(event.frame.times)
                    batches.add(video, event.frame.rgb)
                else:
                    video.ended, video.error = True, event.error
                while turn in waiting and waiting[turn].complete:
                    yield self._result(waiting.pop(turn))
                    ahead.one_video_done()
                    turn += 1
        batches.flush()
        for index in sorted(waiting):
            yield self._result(waiting[index])

    def _result(self, video: "_Video[K]") -> tuple[K, VideoFeatures | Exception]:
        if video.error is not None:
            return video.key, video.error
        if not video.times:
            return video.key, VideoError(f"{video.key}: no frames came out of the video; expected at least one")
        values, times = np.concatenate(video.rows), np.array(video.times, dtype=np.float64)
        if not values.any():
            return video.key, WeightsError(
                f"{video.key}: every feature of backbone {self.backbone.name} is 0 in float16; "
                "random weights of deep networks do that: train them (finetune), or take trained weights"
            )
        try:
            return video.key, VideoFeatures(values, times[:, 0].copy(), times[:, 1].copy())
        except ValueError as error:
            return video.key, VideoError(f"{video.key}: backbone {self.backbone.name} gave unusable features: {error}")


@dataclass
class _Video(Generic[K]):
    """A video on its way: (grid, presentation) times of the frames decoded, feature vectors of the frames computed."""

    key: K
    times: list[tuple[float, float]] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    num_rows: int = 0
    ended: bool = False
    error: Exception | None = None

    @property
    def complete(self) -> bool:
        return self.ended and (self.error is not None or self.num_rows == len(self.times))


@dataclass
class _Slot:
    """One batch: its pixels, whose they are, and its feature vectors once launched."""

    pixels: Tensor  # (B, crop, crop, 3) uint8, pinned when the device is a GPU
    values: Tensor  # (B, D) float16, likewise
    videos: list[_Video[Any]] = field(default_factory=list)
    done: "torch.cuda.Event | None" = None


class _Batches:
    """Fixed batches through the backbone. On a GPU two take turns: while one is computed, the other is filled."""

    def __init__(self, backbone: Backbone, crop: int, size: int, device: torch.device) -> None:
        self.backbone, self.size, self.device = backbone, size, device
        self.on_gpu = device.type == "cuda"
        self.slots = [
            _Slot(
                torch.zeros((size, crop, crop, 3), dtype=torch.uint8, pin_memory=self.on_gpu),
                torch.zeros((size, backbone.feature_size), dtype=torch.float16, pin_memory=self.on_gpu),
            )
            for _ in range(2 if self.on_gpu else 1)
        ]
        # Emulated bfloat16 (GPUs before Ampere) is slower than float32.
        bf16 = self.on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        self.half = torch.bfloat16 if bf16 else torch.float16

    def add(self, video: _Video[Any], rgb: np.ndarray) -> None:
        """Take one frame; a full batch is launched, and the batch launched before it collected."""
        slot = self.slots[0]
        slot.pixels[len(slot.videos)] = torch.from_numpy(rgb)
        slot.videos.append(video)
        if len(slot.videos) == self.size:
            self._launch(slot)
            self.slots.append(self.slots.pop(0))
            self._collect(self.slots[0])

    def flush(self) -> None:
        """Compute what is left, padded with black frames."""
        current, *launched = self.slots
        for slot in launched:
            self._collect(slot)
        if current.videos:
            current.pixels[len(current.videos) :] = 0
            self._launch(current)
            self._collect(current)

    def _launch(self, slot: _Slot) -> None:
        autocast = torch.autocast("cuda", dtype=self.half) if self.on_gpu else contextlib.nullcontext()
        with torch.inference_mode(), autocast:
            # (B, H, W, 3) seen as (B, 3, H, W) is channels-last already: no copy, and the fast layout.
            frames = slot.pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
            slot.values.copy_(self.backbone(frames).to(torch.float16), non_blocking=True)
            if self.on_gpu:
                slot.done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                slot.done.record()

    def _collect(self, slot: _Slot) -> None:
        """Hand the vectors of a launched batch to their videos."""
        if slot.done is not None:
            slot.done.synchronize()
        values = slot.values.numpy()
        places: dict[int, list[int]] = {}
        for place, video in enumerate(slot.videos):
            places.setdefault(id(video), []).append(place)
        for own in places.values():
            video = slot.videos[own[0]]
            video.rows.append(values[own])
            video.num_rows += len(own)
        slot.videos, slot.done = [], None


@dataclass(frozen=True)
class _Crop:
    rgb: np.ndarray  # (crop, crop, 3) uint8
    times: tuple[float, float]


@dataclass(frozen=True)
class _Event(Generic[K]):
    """A frame of a video, or (frame is None) its end, with the error that it ended in."""

    index: int
    key: K
    frame: _Crop | None = None
    error: Exception | None = None


class _DecodeAhead(Generic[K]):
    """Threads that each read one video at a time; their frames come out of one bounded queue, as they come."""

    def __init__(self, videos: Iterable[tuple[K, Iterable[Frame]]], crop: int, workers: int, max_frames: int) -> None:
        self._videos: Iterator[tuple[int, tuple[K, Iterable[Frame]]]] = enumerate(videos)
        self._crop = crop
        self._taking = threading.Lock()
        self._stop = threading.Event()
        self._permits = threading.Semaphore(max(VIDEOS_AHEAD, workers))
        # None: a worker has ended. An exception: so did the list of videos, or a worker in a way nobody foresaw.
        self._queue: queue.Queue[_Event[K] | BaseException | None] = queue.Queue(maxsize=max_frames)
        self._threads = [
            threading.Thread(target=self._work, name=f"decode-{number}", daemon=True) for number in range(workers)
        ]

    def events(self) -> Generator[_Event[K], None, None]:
        """Frames and ends of all videos, those of one video in order; closing it stops the threads."""
        for thread in self._threads:
            thread.start()
        try:
            running = len(self._threads)
            while running:
                event = self._queue.get()
                if event is None:
                    running -= 1
                elif isinstance(event, BaseException):
                    raise event
                else:
                    yield event
        finally:
            self._stop.set()
            for thread in self._threads:
                self.one_video_done()  # wakes a thread that waits for its turn
                while thread.is_alive():  # and room in the queue one that waits for room
                    with contextlib.suppress(queue.Empty):
                        self._queue.get(timeout=0.01)

    def one_video_done(self) -> None:
        """Let the threads begin one video more."""
        self._permits.release()

    def _work(self) -> None:
        try:
            while self._permits.acquire() and not self._stop.is_set():
                with self._taking:
                    item = next(self._videos, None)
                if item is None:
                    break
                index, (key, frames) = item
                self._queue.put(_Event(index, key, error=self._read(index, key, frames)))
        except BaseException as error:  # noqa: BLE001 - raised again where the events are read
            self._queue.put(error)
        else:
            self._queue.put(None)

    def _read(self, index: int, key: K, frames: Iterable[Frame]) -> Exception | None:
        try:
            try:
                for frame in frames:
                    if self._stop.is_set():
                        break
                    rgb = np.ascontiguousarray(center_crop(i420_to_rgb(frame.i420), self._crop))
                    times = (float(frame.time_seconds), float(frame.pts_seconds))
                    self._queue.put(_Event(index, key, _Crop(rgb, times)))
            finally:
                close = getattr(frames, "close", None)
                if close is not None:  # a decoder's generator: its file is closed by the thread that read it
                    close()
        except Exception as error:  # noqa: BLE001 - whatever ends one video is that video's result
            return error
        return None
