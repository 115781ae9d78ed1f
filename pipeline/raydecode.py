"""The task that decodes one video in a process of Ray's, and hands it on in pieces.

Few pieces of a video are on their way at a time: a video of hours takes no more memory than a short one.
"""

import hashlib
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import av
import cv2
import numpy as np
import ray

from pipeline import __version__, remote
from pipeline.errors import ConfigError, RejectedVideo
from pipeline.features.crop import center_crop, i420_square
from pipeline.files import content_hash
from pipeline.video.flow import NO_FLOW, FlowFrame, flow_frames
from pipeline.video.framestore import FrameStore
from pipeline.video.isolation import absolute, decoders_of
from pipeline.video.limits import Limits
from pipeline.video.reader import Frame
from pipeline.video.verdict import Verdict
from pipeline.view import View

PIECE_BYTES = 4 * 2**20


class FileSource(NamedTuple):
    """A video file, decoded in a child process within limits.

    address: of an object whose user, password or signature `path` does not show; nothing may print it. state: of an
    object, as the command knows it; "" asks the server.
    """

    path: str
    limits: Limits
    address: str = ""
    state: str = ""

    @classmethod
    def of(cls, path: str, limits: Limits) -> "FileSource":
        """Of a path as the command has it, with all that another process has to be told of it."""
        return cls(absolute(path), limits, *remote.told(path))


class StoredSource(NamedTuple):
    """A video's frames in a frame store, on a folder that every node sees."""

    folder: str
    sha256: str


Source = FileSource | StoredSource


class Piece(NamedTuple):
    """Some timesteps of a video, and the number of the picture that each shows.

    pixels: pictures, as I420 (n, H * 3 // 2, W) uint8, or flow images (n, H, W, 3) uint8.
    """

    time_seconds: list[float]
    pts_seconds: list[float]
    pictures: list[int]
    pixels: np.ndarray


class End(NamedTuple):
    """What became of decoding a video. error: that it ended in. jpeg: what the watcher made of it, see Look."""

    error: Exception | None = None
    verdict: Verdict | None = None
    jpeg: bytes | None = None
    busy_seconds: float = 0.0


class LostWorkerError(Exception):
    """A process of Ray's died over a video, which may be no fault of the video's."""


class Watcher(Protocol):
    """Passes a video's frames on; behind the last one `jpeg` is a picture that it made of them, or None."""

    jpeg: bytes | None

    def watch(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """The frames."""


@dataclass(frozen=True)
class Look:
    """How a task looks at its video. versions: of the packages where the command runs."""

    view: View
    watcher: Callable[[], Watcher] | None
    versions: Mapping[str, str]


@cache
def versions() -> dict[str, str]:
    """Versions of what shapes a result, as this process has it."""
    root = Path(__file__).parent
    files = "".join(f"{path.relative_to(root)} {content_hash(path)}\n" for path in sorted(root.rglob("*.py")))
    return {
        "lrcn-pipeline": f"{__version__} (code {hashlib.sha256(files.encode()).hexdigest()[:12]})",
        "torch": metadata.version("torch").split("+")[0],  # behind it stands what it was built for
        "av": av.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def require_versions(wanted: Mapping[str, str]) -> None:
    """Raise ConfigError unless this process has these versions."""
    if other := [f"{name} {have}, not {wanted[name]}" for name, have in versions().items() if have != wanted[name]]:
        node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        raise ConfigError(
            f"Ray node {node} has {'; '.join(other)}; expected what the command runs with: install the same there"
        )


def timed(function: Callable[[Any], Any], item: Any, wanted: Mapping[str, str]) -> tuple[float, Any]:
    """A task: the seconds that a function took for an item, and its result. Raises ConfigError for other versions."""
    require_versions(wanted)
    begin = time.monotonic()
    result = function(item)
    return time.monotonic() - begin, result


def decode(source: Source, look: Look) -> Iterator[tuple[Piece | None, End | None]]:
    """The task: pieces of a video, and in the last item its end."""
    view = look.view
    watcher = None if look.watcher is None else look.watcher()
    error: Exception | None = None
    verdict: Verdict | None = None
    piece: Piece | None = None
    begin, waited = time.monotonic(), 0.0
    try:
        require_versions(look.versions)
        reader = None
        if isinstance(source, FileSource):
            if source.address:
                remote.named(source.address)
            if source.state:
                remote.heard(source.path, source.state)
            reader = decoders_of(source.limits).reader(source.path)
            frames = reader.frames(view.fps, view.short_side)
        else:
            frames = FrameStore(source.folder, view.frames_key).read(source.sha256)
        with closing(cast(Any, frames)):
            for piece, following in _with_next(_pieces(watcher.watch(frames) if watcher else frames, view)):
                if following:  # the last one goes with the end
                    left = time.monotonic()
                    yield piece, None
                    waited += time.monotonic() - left
        verdict = reader.verdict if reader else None
    except Exception as failure:  # noqa: BLE001 - whatever ends one video is that video's result
        error, piece = _portable(failure), None
    jpeg = watcher.jpeg if watcher else None
    yield piece, End(error, verdict, jpeg, time.monotonic() - begin - waited)


def _pieces(frames: Iterator[Frame], view: View) -> Iterator[Piece]:
    """A video's frames, or the flow between them, cut to what the backbone sees, some megabytes at a time."""
    num_read = 0

    def counted() -> Iterator[Frame]:
        nonlocal num_read
        for frame in frames:
            num_read += 1
            yield frame

    shown: Iterator[Frame | FlowFrame] = flow_frames(counted(), view.flow) if view.flow else counted()
    latest: np.ndarray | None = None
    piece: Piece | None = None
    num_pictures = 0
    for step in shown:
        whole = step.image if isinstance(step, FlowFrame) else step.i420
        if whole is not latest or piece is None:
            latest = whole
            cut = _cut(step, view)
            if piece is not None and num_pictures == len(piece.pixels):
                yield piece
                piece = None
            if piece is None:
                room = max(1, PIECE_BYTES // cut.nbytes)
                piece, num_pictures = Piece([], [], [], np.empty((room, *cut.shape), np.uint8)), 0
            piece.pixels[num_pictures] = cut
            num_pictures += 1
        piece.time_seconds.append(step.time_seconds)
        piece.pts_seconds.append(step.pts_seconds)
        piece.pictures.append(num_pictures - 1)
    if piece is not None:
        yield piece._replace(pixels=piece.pixels[:num_pictures])
    elif num_read:
        raise RejectedVideo(NO_FLOW)


def _cut(step: Frame | FlowFrame, view: View) -> np.ndarray:
    """What is sent of a picture: the square in the middle where the backbone sees no other."""
    if isinstance(step, FlowFrame):
        return step.image if view.crops > 1 else center_crop(step.image, view.crop)
    return step.i420 if view.crops > 1 else i420_square(step.i420, view.crop)


def _with_next(pieces: Iterator[Piece]) -> Iterator[tuple[Piece, bool]]:
    """Each piece, and whether another one follows. When `pieces` fails, the piece before is lost with the video."""
    before = next(pieces, None)
    for piece in pieces:
        assert before is not None
        yield before, True
        before = piece
    if before is not None:
        yield before, False


def _portable(error: Exception) -> Exception:
    """The error as another process can have it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - errors of other libraries fail in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
