"""Thumbnails of a folder of results: one small picture of each video, from about its middle."""

import contextlib
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.files import replacing
from pipeline.inference.answers import output_name
from pipeline.video.i420 import i420_to_rgb
from pipeline.video.reader import Frame

THUMBNAILS = "thumbnails"
LONGEST_SIDE = 160  # pixels
QUALITY = 80  # of JPEG
KEPT = 8  # frames that are held at most while the length of the video is unknown; an even number


class Thumbnail:
    """Watches the frames of one video go by and keeps a picture of them.

    >>> thumbnail = Thumbnail()  # doctest: +SKIP
    >>> for frame in thumbnail.watch(reader.frames(fps=8, short_side=224)): ...  # doctest: +SKIP
    >>> thumbnail.write(Path("results"), "clips/a.mp4")  # doctest: +SKIP

    jpeg: the picture as a JPEG file; equal frames give equal bytes. time_seconds: of the frame that was kept. None
    while there is none. is_written: whether the picture is on the disk.
    """

    def __init__(self, jpeg: bytes | None = None) -> None:
        self.jpeg = jpeg
        self.time_seconds: float | None = None
        self.is_written = False

    def watch(self, frames: Iterable[Frame]) -> Generator[Frame, None, None]:
        """The frames, unchanged. When they have come to their end, the one nearest the middle is made small and kept.

        It is off the middle by an eighth of the video at most. Closing this closes `frames`.
        """
        self.jpeg = self.time_seconds = None
        kept: list[Frame] = []  # frames 0, step, 2 step, ...
        step, count = 1, 0
        with contextlib.closing(cast(Any, frames)) if hasattr(frames, "close") else contextlib.nullcontext():
            for frame in frames:
                if count % step == 0:
                    if len(kept) == KEPT:
                        del kept[1::2]
                        step *= 2
                    kept.append(frame)
                count += 1
                yield frame
        if kept:
            middle = kept[round((count - 1) / 2 / step)]
            bgr = cv2.cvtColor(_small(middle), cv2.COLOR_RGB2BGR)
            self.jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
            self.time_seconds = middle.time_seconds

    def write(self, folder: Path, path: str) -> None:
        """Write `thumbnails/<output_name>.jpg` below the folder of results.

        path: of the video. Where no frame was seen to the end there is no picture, and an older one is removed.
        """
        target = folder / THUMBNAILS / f"{output_name(path)}.jpg"
        if self.jpeg is None:
            target.unlink(missing_ok=True)
            return
        with replacing(target, synced=False) as temporary:
            temporary.write_bytes(self.jpeg)
        self.is_written = True


def _small(frame: Frame) -> NDArray[np.uint8]:
    rgb = i420_to_rgb(frame.i420)
    scale = min(1.0, LONGEST_SIDE / max(rgb.shape[:2]))
    width, height = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    # Halved by averaging, the rest interpolated: as good to look at as averaging all the way, in a third of the time.
    while rgb.shape[1] >= 2 * width and rgb.shape[0] >= 2 * height:
        half = (rgb.shape[1] // 2, rgb.shape[0] // 2)
        even = rgb[: 2 * half[1], : 2 * half[0]]
        rgb = np.asarray(cv2.resize(even, half, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
