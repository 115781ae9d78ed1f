"""Readers that `decode.py` compares: each turns a file into RGB frames, one for each time of the grid."""

import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple, cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.video.convert import output_size
from pipeline.video.isolation import DecoderPool
from pipeline.video.reader import VideoReader, i420_to_rgb
from pipeline.video.sampling import SLACK_SECONDS, frames_on_grid

FPS = 8
SHORT_SIDE = 224

RGB = NDArray[np.uint8]


class Clip(NamedTuple):
    """A file, and width and height in pixels of the frames wanted."""

    path: str
    width: int
    height: int

    @classmethod
    def of(cls, path: Path) -> "Clip":
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return cls(str(path), *output_size(stream.width, stream.height, SHORT_SIDE))


Read = Callable[[Clip], Iterator[RGB]]  # frames (H, W, 3) uint8, one for each grid time


def decode_only(clip: Clip) -> Iterator[RGB]:
    """The limit: every frame decoded, none converted; an empty picture for each."""
    empty = np.empty(0, np.uint8)
    with av.open(clip.path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            yield empty


def in_this_process(clip: Clip) -> Iterator[RGB]:
    for frame in VideoReader(clip.path).frames(FPS, SHORT_SIDE):
        yield i420_to_rgb(frame.i420)


def in_child_processes(pool: DecoderPool, clip: Clip) -> Iterator[RGB]:
    for frame in pool.reader(clip.path).frames(FPS, SHORT_SIDE):
        yield i420_to_rgb(frame.i420)


def opencv(interpolation: int, clip: Clip) -> Iterator[RGB]:
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(clip.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    grid_step = FPS / capture.get(cv2.CAP_PROP_FPS)
    for index in count():
        if not capture.grab():
            return
        first, stop = (math.ceil(place * grid_step - SLACK_SECONDS) for place in (index, index + 1))
        if first < stop:
            bgr = cv2.resize(capture.retrieve()[1], (clip.width, clip.height), interpolation=interpolation)
            rgb = cast(RGB, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
            for _ in range(first, stop):
                yield rgb


def torchcodec(clip: Clip) -> Iterator[RGB]:
    # Exact mode reads the whole file's index first; frames come in the order of time, without seeking back.
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    resize = Resize((clip.height, clip.width))
    video = VideoDecoder(clip.path, dimension_order="NHWC", seek_mode="exact", transforms=[resize])
    begin, end = video.metadata.begin_stream_seconds, video.metadata.end_stream_seconds
    num_steps = max(math.ceil((end - begin - SLACK_SECONDS) * FPS), 1)
    times = [begin + step / FPS + SLACK_SECONDS for step in range(num_steps)]
    yield from video.get_frames_played_at(times).data.numpy()


def decord(clip: Clip) -> Iterator[RGB]:
    from decord import VideoReader as DecordReader

    video = DecordReader(clip.path, width=clip.width, height=clip.height, num_threads=1)
    times = video.get_frame_timestamp(range(len(video)))  # (N, 2): begin and end in seconds
    times -= times[0, 0]
    yield from video.get_batch(frames_on_grid(times[:, 0].tolist(), FPS, float(times[-1, 1]))).asnumpy()


def ffmpeg(clip: Clip) -> Iterator[RGB]:
    if shutil.which("ffmpeg") is None:
        raise ModuleNotFoundError("no ffmpeg on PATH")
    # Rounding up gives the last frame at or before each grid time.
    filters = f"fps={FPS}:round=up,scale={clip.width}:{clip.height}:flags=area"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-i", clip.path, "-map", "0:v:0", "-an"]
    command += ["-filter_threads", "1", "-vf", filters, "-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1"]
    size = clip.width * clip.height * 3
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while len(data := process.stdout.read(size)) == size:
            yield np.frombuffer(data, np.uint8).reshape(clip.height, clip.width, 3)
    if process.returncode:
        raise RuntimeError(f"ffmpeg ended with exit code {process.returncode}")
