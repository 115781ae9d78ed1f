"""Drawn videos for the benchmarks: textured scenes that move, with mild noise, at usual sizes and bit rates.

Files are kept in the folder given and used again; a file appears whole, so several programs may draw into one folder.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

FPS = 30
BANDS = 4  # of texture, from coarse to fine
NOISE_SIGMA = 2.0  # grey levels, of a camera in good light


@dataclass(frozen=True)
class Kind:
    """How clips are encoded. bit_rate: bits per second aimed at."""

    codec: str
    width: int
    height: int
    bit_rate: int
    suffix: str
    options: dict[str, str]


KINDS = {
    "h264_720p": Kind("libx264", 1280, 720, 2_000_000, ".mp4", {"preset": "veryfast"}),
    "mpeg4_320x240": Kind("mpeg4", 320, 240, 500_000, ".avi", {}),
    "hevc_1080p": Kind("libx265", 1920, 1080, 3_000_000, ".mp4", {"preset": "ultrafast", "x265-params": "log-level=0"}),
    "h264_1080p_low": Kind("libx264", 1920, 1080, 500_000, ".mp4", {"preset": "veryfast"}),
    "h264_short": Kind("libx264", 320, 240, 300_000, ".mp4", {"preset": "veryfast"}),
}


@contextmanager
def material_folder(folder: Path | None) -> Iterator[Path]:
    """The folder named, created when missing, or a temporary one that goes when the benchmark ends."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="material-") as temporary:
            yield Path(temporary)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def clips(kind: str, count: int, folder: Path, seconds: float = 10.0) -> list[Path]:
    """`count` different clips of one of KINDS, at FPS frames a second."""
    paths = [folder / f"{kind}-{seconds:g}s-{number:04d}{KINDS[kind].suffix}" for number in range(count)]
    for seed, path in enumerate(paths):
        if not path.exists():
            with _whole(path) as temporary:
                _encode(temporary, KINDS[kind], round(seconds * FPS), seed)
    return paths


def repeated(source: Path, seconds: float, folder: Path) -> Path:
    """One clip again and again, until the file is `seconds` long: its packets are copied with later time stamps."""
    path = folder / f"{source.stem}-repeated-{seconds:g}s{source.suffix}"
    if path.exists():
        return path
    with _whole(path) as temporary, av.open(str(source)) as reader, av.open(str(temporary), "w") as writer:
        stream = reader.streams.video[0]
        output = writer.add_stream_from_template(stream)
        packets = [packet for packet in reader.demux(stream) if packet.pts is not None and packet.dts is not None]
        stamps = [(packet.pts, packet.dts) for packet in packets]
        length = packets[0].duration * len(packets)
        for turn in range(round(seconds * stream.average_rate / len(packets))):
            for packet, (pts, dts) in zip(packets, stamps, strict=True):
                packet.stream, packet.time_base = output, stream.time_base
                packet.pts, packet.dts = pts + turn * length, dts + turn * length
                writer.mux(packet)
    return path


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` at the end; nothing is left when the writing fails."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _encode(path: Path, kind: Kind, num_frames: int, seed: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=FPS, options=kind.options)
        stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, "yuv420p"
        stream.bit_rate = kind.bit_rate
        for index, rgb in enumerate(_scene(kind.width, kind.height, num_frames, seed)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _scene(width: int, height: int, num_frames: int, seed: int) -> Iterator[np.ndarray]:
    """Frames `(height, width, 3) uint8`: a textured ground seen by a moving camera, and three things moving over it."""
    rng = np.random.default_rng(seed)
    margin = height // 4
    ground = _texture(rng, width + 2 * margin, height + 2 * margin)
    things = [_texture(rng, height // 3, height // 3) for _ in range(3)]
    places = rng.uniform(0, 2 * np.pi, (3, 2))
    noise = np.clip(rng.normal(0, NOISE_SIGMA, (height + 64, width + 64, 1)), -8, 8).astype(np.int8)
    for index in range(num_frames):
        turn = 2 * np.pi * index / (8 * FPS)
        left, top = (round(margin * (1 + 0.9 * wave)) for wave in (np.sin(turn), np.sin(1.7 * turn)))
        frame = ground[top : top + height, left : left + width].copy()
        for thing, (x, y) in zip(things, places, strict=True):
            side = len(thing)
            column = round((width - side) * (0.5 + 0.5 * np.sin(x + 2 * turn)))
            row = round((height - side) * (0.5 + 0.5 * np.sin(y + 3 * turn)))
            frame[row : row + side, column : column + side] = thing
        down, right = rng.integers(0, 64, 2)
        shaken = np.repeat(noise[down : down + height, right : right + width], 3, axis=2)
        yield cv2.add(frame, shaken, dtype=cv2.CV_8U)


def _texture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """`(height, width, 3) uint8`: coarse and fine structure, the finer the weaker, as in pictures of nature."""
    picture = np.full((height, width, 3), 128.0, np.float32)
    for band in range(BANDS):
        cells = (4 * 4**band * height // width + 2, 4 * 4**band + 2, 3)
        coarse = rng.uniform(-60, 60, cells).astype(np.float32) / 1.7**band
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)
