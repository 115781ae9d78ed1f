"""The newest pictures of a live source: what cannot be dealt with in time is dropped and counted, never queued."""

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Literal, NamedTuple

from pipeline.errors import RejectedVideo
from pipeline.video.isolation import DecoderPool
from pipeline.video.limits import Limits
from pipeline.video.live import LiveSource
from pipeline.video.reader import Frame, Shown
from pipeline.video.verdict import Verdict
from pipeline.video.worker import PICTURE

MAX_WAITING = 2  # pictures; network sources come in small bursts
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0  # before the source is tried again, each twice the one before
SIGNAL_SECONDS = 0.2  # a signal that another thread takes does not end a wait of the main thread
GRACE_SECONDS = 5.0  # for the decoding process to say itself that nothing came
SECONDS_TO_STOP = 1.0


class Event(NamedTuple):
    """What happened to the source.

    kind: `lost`, `back`, or `end`, after which nothing comes. time_seconds: since the first picture. reason: of `lost`
    and `end`. away_seconds: of `back`, how long it was lost. failed: of `end`, whether it is no regular one.
    """

    kind: Literal["lost", "back", "end"]
    time_seconds: float
    reason: str = ""
    away_seconds: float = 0.0
    failed: bool = False


class _Picture(NamedTuple):
    shown: Shown
    start_seconds: float


class FeedFrame(NamedTuple):
    """A frame on the grid of its connection. start_seconds: of that grid, since the first picture of all."""

    frame: Frame
    start_seconds: float
    arrived_seconds: float


def live_limits(memory_bytes: int, timeout_seconds: float) -> Limits:
    """Limits for a source that may go on for ever, but not silently."""
    return Limits(
        memory_bytes=memory_bytes,
        pixels_per_file=sys.maxsize,
        seconds_per_file=float("inf"),
        seconds_without_progress=timeout_seconds + GRACE_SECONDS,
    )


class LiveDecoders(DecoderPool):
    """The child processes that follow live sources."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits, "pipeline.video.liveworker")

    def live(self, source: LiveSource, fps: float, short_side: int) -> Iterator[Shown]:
        """Pictures of a source on the time grid, each as soon as it is known, until the source ends.

        Raises RejectedVideo when it breaks off, or nothing comes for the limits' seconds_without_progress.
        """
        with self.child() as child:
            child.ask({"task": "live", "source": asdict(source), "fps": fps, "short_side": short_side})
            while (answer := child.picture_or_answer())[0] == PICTURE:
                yield answer[1]
        verdict = Verdict.from_json(json.loads(answer[1]))
        if verdict.status == "rejected":
            raise RejectedVideo(verdict.reason, verdict.is_transient)


class Feed:
    """Iterating gives a source's frames and events. A thread takes all that comes and keeps the newest pictures.

    A source that is lost is tried again after 1, 2, 4 ... 30 s, for give_up_seconds (None: for ever). A file that is
    read fast waits instead: of it nothing is dropped. num_dropped: timesteps so far. Use it as a context manager.
    """

    def __init__(
        self,
        pool: LiveDecoders,
        source: LiveSource,
        fps: float,
        short_side: int,
        *,
        give_up_seconds: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool, self._source, self._fps, self._short_side = pool, source, fps, short_side
        self._give_up_seconds = give_up_seconds
        self._now = now
        self._changed = threading.Condition()
        self._waiting: deque[_Picture | Event | BaseException] = deque()
        self._stop = threading.Event()
        self._begin: float | None = None  # arrival of the first picture of all
        self._start_seconds = self._end_seconds = 0.0  # of the connection's grid; of the latest timestep
        self.num_dropped = 0
        self._thread = threading.Thread(target=self._work, name="live", daemon=True)

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._pool.close()  # a child that waits for its source is ended
        self._thread.join(SECONDS_TO_STOP)

    def __iter__(self) -> Iterator[FeedFrame | Event]:
        while True:
            item = self._take()
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Event):
                yield item
                if item.kind == "end":
                    return
                continue
            shown, start_seconds = item
            for step in shown.steps:
                frame = Frame(step / self._fps, shown.pts_seconds, shown.i420)
                yield FeedFrame(frame, start_seconds, shown.arrived_seconds)

    def _take(self) -> _Picture | Event | BaseException:
        with self._changed:
            while not self._waiting:
                self._changed.wait(SIGNAL_SECONDS)
            item = self._waiting.popleft()
            self._changed.notify_all()
            return item

    def _put(self, item: _Picture | Event | BaseException) -> None:
        """Events are all kept, in their place; of pictures the oldest goes when there are too many."""
        with self._changed:
            while self._source.fast and len(self._waiting) >= MAX_WAITING and not self._stop.is_set():
                self._changed.wait(SIGNAL_SECONDS)
            pictures = [place for place, other in enumerate(self._waiting) if isinstance(other, _Picture)]
            if isinstance(item, _Picture) and len(pictures) >= MAX_WAITING:
                dropped = self._waiting[pictures[0]]
                assert isinstance(dropped, _Picture)
                self.num_dropped += len(dropped.shown.steps)
                del self._waiting[pictures[0]]
            self._waiting.append(item)
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # noqa: BLE001 - raised again where the frames are taken
            if not self._stop.is_set():
                self._put(error)

    def _follow(self) -> None:
        pause, lost_since = FIRST_PAUSE_SECONDS, None
        while not self._stop.is_set():
            reason, failed = "the source ended", False
            try:
                for shown in self._pool.live(self._source, self._fps, self._short_side):
                    if self._begin is None or lost_since is not None:
                        self._connect(shown, lost_since)
                        pause, lost_since = FIRST_PAUSE_SECONDS, None
                    self._end_seconds = self._start_seconds + shown.steps.stop / self._fps
                    self._put(_Picture(shown, self._start_seconds))
            except RejectedVideo as error:
                reason, failed = str(error).removeprefix("decoding hangs: "), True
            if self._source.ends:
                self._put(Event("end", self._end_seconds, reason, failed=failed))
                return
            now = self._now()
            if lost_since is None:
                lost_since = now
                self._put(Event("lost", self._end_seconds, reason))
            if self._give_up_seconds is not None and now + pause - lost_since > self._give_up_seconds:
                self._put(Event("end", self._end_seconds, f"given up: {reason}", failed=True))
                return
            self._stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _connect(self, shown: Shown, lost_since: float | None) -> None:
        """The first picture of a connection; its grid begins where the clock on the wall stands, never earlier."""
        if self._begin is None:
            self._begin = shown.arrived_seconds
        else:
            self._start_seconds = round(max(shown.arrived_seconds - self._begin, self._end_seconds), 3)
        if lost_since is not None:
            away = round(self._now() - lost_since, 3)
            self._put(Event("back", self._start_seconds, away_seconds=away))
