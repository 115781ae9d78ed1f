"""Frames to feature vectors: videos are decoded side by side while the backbone works on batches of fixed size."""

import contextlib
import copy
import functools
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch

from pipeline.device import Halving
from pipeline.errors import RejectedVideo, VideoError, WeightsError
from pipeline.features.backbones import Backbone
from pipeline.features.batches import PartialVideo
from pipeline.features.frozen import FrozenBackbone, Replica
from pipeline.features.run import Run
from pipeline.features.store import VideoFeatures
from pipeline.video.changes import Picture
from pipeline.video.flow import NO_FLOW
from pipeline.video.reader import Frame

# Part of the result: another batch size moves the last bits. On a CPU 16 frames are fastest: a thread's share of the
# cache holds what goes from layer to layer.
CPU_BATCH_SIZE = 16
CUDA_BATCH_SIZE = 128
CUDA_THREADS = 2  # of each GPU: while one batch is computed, the next one is copied

K = TypeVar("K")


class Extractor:
    """Runs a backbone over the frames of many videos.

    Frames of all videos share batches of one fixed size, padded where too few are left: on a CPU a video's features
    are the same bits whatever its neighbours, its place, the number of workers, or the number of cores. There, every
    core computes batches of its own in one thread each, which is faster than all cores on one batch. On a GPU they are
    computed in bfloat16 (float16 where the hardware has none), and equal only as far as its libraries promise.

    The backbone is moved to `device`. Of several devices, all GPUs or all CPUs, each has a replica of it and computes
    the next batch as soon as it is free; `network` is on the first. crop, crops, flow: as in View.
    workers: videos decoded at a time, each read, and its flow computed, by one thread. Raises ValueError when the
    backbone cannot take frames of `crop` pixels.
    """

    def __init__(
        self,
        backbone: Backbone,
        crop: int,
        device: torch.device | str | Sequence[torch.device | str],
        workers: int = 1,
        *,
        crops: Literal[1, 10] = 1,
        flow: Literal["", "dis", "farneback"] = "",
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected 1 or more videos decoded at a time")
        devices = [torch.device(one) for one in ([device] if isinstance(device, torch.device | str) else device)]
        if len({one.type for one in devices}) != 1:
            raise ValueError(f"devices are {', '.join(map(str, devices)) or 'none'}; expected one kind, GPUs or CPUs")
        self.device = devices[0]
        self.backbone = backbone.to(device=self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.crop = crop
        self.crops = crops
        self.flow = flow
        self.workers = workers
        self.on_gpu = self.device.type == "cuda"
        self.batch_size = CUDA_BATCH_SIZE if self.on_gpu else CPU_BATCH_SIZE
        # Of each device.
        self.compute_threads = CUDA_THREADS if self.on_gpu else max(1, len(os.sched_getaffinity(0)) // len(devices))
        backbone.check_crop(crop)
        self.network = FrozenBackbone(self.backbone, crop)
        self._devices = devices

    @functools.cached_property
    def replicas(self) -> list[Replica]:
        """One on each device, made when they are first wanted: live frames need one only."""
        networks = [self.network, *(copy.deepcopy(self.network).to(device) for device in self._devices[1:])]
        return [
            Replica(device, network, Halving(self.batch_size, "frames"))
            for device, network in zip(self._devices, networks, strict=True)
        ]

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
        waiting: dict[int, PartialVideo[K]] = {}
        turn = 0
        run = Run(self, videos, progress)
        with contextlib.closing(run.complete_videos()) as complete:
            for video in complete:
                waiting[video.index] = video
                while (ready := turn if in_order else video.index) in waiting:
                    yield self._result(waiting.pop(ready))
                    run.let_one_begin()
                    turn += 1

    def _result(self, video: "PartialVideo[K]") -> tuple[K, VideoFeatures | Exception]:
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
