"""Decoding in processes of its own: neither a hang nor a crash of a codec, nor its hunger for memory, reaches the run.

A child process reads one file at a time, in one thread, and is used for file after file. It is killed, and replaced
when the next file comes, when a file exceeds its limits or is given up half-way. Jobs and answers go through pipes,
frames through shared memory, of which each child has its own: a child that dies takes nothing along. A path may be an
address: the thread that reads it fetches the object first, and the child sees a local file.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import RejectedVideo, VideoError
from pipeline.remote import staged
from pipeline.remotenames import is_url
from pipeline.video.header import VideoHeader
from pipeline.video.limits import Limits
from pipeline.video.reader import Frame, Shown, check_grid
from pipeline.video.sharedframes import FrameReceiver
from pipeline.video.verdict import Verdict, known
from pipeline.video.worker import HEADER, MESSAGE, PICTURE, PROGRESS, READY, SHOWN, VERDICT, memory_in_use

WORKER = "pipeline.video.worker"
CLOSED = "the pool of decoding processes is closed"
SECONDS_TO_START = 60.0
READ_BYTES = 2**16
MAX_STARTS = 3
WATCH_SECONDS = 0.05  # between two looks at the memory of a child


class DecoderPool:
    """Child processes that decode; there are as many as files are being read at the same time.

    Threads may share it. Use it as a context manager: leaving it ends the children. worker: the module that they run,
    which hands its jobs to `pipeline.video.worker.main`.
    """

    def __init__(self, limits: Limits = Limits(), worker: str = WORKER) -> None:  # noqa: B008 - frozen
        self._limits = limits
        self._worker = worker
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._closed = threading.Event()

    def reader(self, path: str | os.PathLike[str]) -> "IsolatedReader":
        """The same as VideoReader(path), decoding in a child."""
        return IsolatedReader(self, path)

    def check(self, path: str | os.PathLike[str]) -> Verdict:
        """The same as check_file(path). Raises nothing for bad files."""
        try:
            with staged(absolute(path)) as local, self.child() as child:
                child.ask({"task": "check", "path": local})
                kind, payload = child.answer()
        except RejectedVideo as error:
            return Verdict.rejected(str(error), error.is_transient)
        assert kind == VERDICT
        return Verdict.from_json(json.loads(payload))

    def header(self, path: str | os.PathLike[str]) -> VideoHeader:
        """The same as read_header(path). Raises RejectedVideo."""
        with staged(absolute(path)) as local, self.child() as child:
            child.ask({"task": "header", "path": local})
            kind, payload = child.answer()
        if kind == HEADER:
            return VideoHeader(**json.loads(payload))
        verdict = Verdict.from_json(json.loads(payload))
        raise RejectedVideo(verdict.reason, verdict.is_transient)

    def close(self) -> None:
        """End the children, also those that are reading a file: whoever waits for them gets a RuntimeError."""
        with self._lock:
            self._closed.set()
            children, self._idle = self._idle, []
            for child in self._busy:
                child.stop()
        for child in children:
            child.kill()

    def __enter__(self) -> "DecoderPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def child(self) -> Iterator["_Child"]:
        """A child for one file. After anything but a regular end it is killed: nobody knows what it is at."""
        with self._lock:
            if self._closed.is_set():
                raise RuntimeError(CLOSED)
            child = self._idle.pop() if self._idle else None
        if child is not None and not child.is_alive:  # something killed it between two files
            child.kill()
            child = None
        child = child or self._start()
        with self._watched(child):
            child.begin()
            yield child
        self._give_back(child)

    def _start(self) -> "_Child":
        """A child that is ready. One that something kills while it starts is no fault of a file; it is tried again."""
        num_failed = 0
        while True:
            child = _Child(self._limits, self._worker)
            try:
                with self._watched(child):
                    child.wait_until_ready()
            except RejectedVideo as error:
                num_failed += 1
                if num_failed == MAX_STARTS:
                    raise VideoError(
                        f"no decoding process can be started ({error}); see above, or `lrcn doctor`"
                    ) from None
            else:
                return child

    @contextmanager
    def _watched(self, child: "_Child") -> Iterator[None]:
        """Let `close` end a child meanwhile. After anything but a regular end it is killed."""
        try:
            with self._lock:
                self._busy.add(child)
                if self._closed.is_set():
                    child.stop()
            yield
        except BaseException as error:
            child.kill()
            if self._closed.is_set() and isinstance(error, VideoError):  # its end is no fault of the file
                raise RuntimeError(CLOSED) from None
            raise
        finally:
            with self._lock:
                self._busy.discard(child)

    def _give_back(self, child: "_Child") -> None:
        with self._lock:
            if not self._closed.is_set():
                self._idle.append(child)
                return
        child.kill()


class IsolatedReader:
    """VideoReader, with the decoding done by a child of a pool. Each iteration under way holds one child."""

    def __init__(self, pool: DecoderPool, path: str | os.PathLike[str]) -> None:
        self._pool = pool
        self._path = absolute(path)
        self._verdict: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict on the file. Raises RuntimeError before `frames` has come to its end, or to RejectedVideo."""
        return known(self._verdict)

    def frames(self, fps: float, short_side: int) -> Iterator[Frame]:
        """As VideoReader.frames. A child that dies, hangs or asks for too much ends the file with RejectedVideo."""
        check_grid(fps, short_side)
        return self._frames(fps, short_side)

    def _frames(self, fps: float, short_side: int) -> Iterator[Frame]:
        self._verdict = None
        try:
            with staged(self._path) as local, self._pool.child() as child:
                child.ask({"task": "frames", "path": local, "fps": fps, "short_side": short_side})
                while (answer := child.picture_or_answer())[0] == PICTURE:
                    shown: Shown = answer[1]
                    for step in shown.steps:
                        yield Frame(step / fps, shown.pts_seconds, shown.i420)
        except RejectedVideo as error:
            self._verdict = Verdict.rejected(str(error), error.is_transient)
            raise
        self._verdict = Verdict.from_json(json.loads(answer[1]))
        if self._verdict.status == "rejected":
            raise RejectedVideo(self._verdict.reason, self._verdict.is_transient)


class _Child:
    """One decoding process. What goes wrong with it is raised as the RejectedVideo of the file it was reading."""

    def __init__(self, limits: Limits, worker: str) -> None:
        self._limits = limits
        self._waited_seconds = 0.0
        self._base_bytes: int | None = None  # the most in use before the first file; None while it starts
        self._looked_seconds = 0.0  # when its memory was looked at, by time.monotonic
        self._frames = FrameReceiver()
        descriptors = self._frames.descriptors
        arguments = [json.dumps(asdict(limits)), *map(str, descriptors)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", worker, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=descriptors,
                env=_environment(),
            )
        except OSError as error:
            self._frames.close()
            raise VideoError(f"no decoding process can be started ({error.strerror}); too many run already?") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs, self._answers = self._process.stdin, self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._received = b""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Wait for the child's first message; raises RejectedVideo when none comes."""
        kind, _ = self.answer()
        assert kind == READY
        self._base_bytes = memory_in_use(self.pid)[1]

    def begin(self) -> None:
        """Start the clock of a new file."""
        self._waited_seconds = 0.0

    def ask(self, job: dict[str, Any]) -> None:
        """Send a job."""
        try:
            self._jobs.write(json.dumps(job).encode("ascii") + b"\n")
        except BrokenPipeError:
            raise self._death() from None

    def answer(self) -> tuple[bytes, bytes]:
        """Kind and contents of the next message that says something."""
        kind = PROGRESS
        while kind == PROGRESS:
            kind, size = MESSAGE.unpack(self._read(MESSAGE.size))
        contents = self._read(size)
        if kind != PICTURE:  # the last of a file: whether it is refused must not depend on when we looked
            self._check_memory()
        return kind, contents

    def picture_or_answer(self) -> tuple[bytes, Any]:
        """The next message; a picture as Shown."""
        kind, contents = self.answer()
        if kind != PICTURE:
            return kind, contents
        start, count, pts_seconds, arrived_seconds, slot, offset, *shape = SHOWN.unpack(contents)
        i420 = self._frames.take(slot, offset, (shape[0], shape[1]))
        return kind, Shown(range(start, start + count), pts_seconds, i420, arrived_seconds)

    def stop(self) -> None:
        """End the child while another thread waits for it; that thread does the rest."""
        self._process.kill()

    def kill(self) -> None:
        """End the child, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._jobs.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._frames.close()

    def _read(self, size: int) -> bytes:
        """So many bytes. Time counts only while the child keeps us waiting, not while it waits for us."""
        while len(self._received) < size:
            if not self._poll.poll(0):
                self._wait()
            received = os.read(self._answers, READ_BYTES)
            if not received:
                raise self._death()
            self._received += received
            if time.monotonic() - self._looked_seconds > WATCH_SECONDS:  # one that never keeps us waiting too
                self._check_memory()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _wait(self) -> None:
        """Wait for the child to say something, and see that it keeps to its limits meanwhile."""
        limits, begin = self._limits, time.monotonic()
        is_starting = self._base_bytes is None
        patience = SECONDS_TO_START if is_starting else limits.seconds_without_progress
        of_file = SECONDS_TO_START if is_starting else limits.seconds_per_file - self._waited_seconds
        deadline = begin + min(patience, of_file)
        while not self._poll.poll(min(max(deadline - time.monotonic(), 0), WATCH_SECONDS) * 1000):
            self._check_memory()
            if time.monotonic() >= deadline:
                reason = f"decoding hangs: no picture came for {patience:g} s"
                if of_file < patience:
                    reason = f"decoding takes more than {limits.seconds_per_file:g} s, the limit for one file"
                raise RejectedVideo(reason, is_transient=True)
        self._waited_seconds += time.monotonic() - begin

    def _check_memory(self) -> None:
        """Raise RejectedVideo when the most that was ever in use is above the limit: files before it kept to it."""
        if self._base_bytes is None:
            return
        self._looked_seconds = time.monotonic()
        with suppress(OSError):  # it has just ended, which the pipe will tell
            if memory_in_use(self.pid)[1] - self._base_bytes > self._limits.memory_bytes:
                limit = f"{self._limits.memory_bytes / 2**20:.0f} MB"
                raise RejectedVideo(f"decoding needs more than {limit}, the limit for one file", is_transient=True)

    def _death(self) -> RejectedVideo:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return RejectedVideo("the decoding process closed its pipe", is_transient=True)
        cause = f"exit code {code}" if code >= 0 else f"signal {-code}"
        with suppress(ValueError):  # real-time signals have no name
            cause = signal.Signals(-code).name if code < 0 else cause
        hint = ": out of memory?" if code == -signal.SIGKILL else ""
        return RejectedVideo(f"the decoding process died ({cause}{hint})", is_transient=True)


@cache
def decoders_of(limits: Limits) -> DecoderPool:
    """The pool of a process that lives for many files, such as a worker of an engine; it ends with the process."""
    return DecoderPool(limits)


def absolute(path: str | os.PathLike[str]) -> str:
    """The path from the root, links left as they are; an address as it is."""
    if is_url(path):
        return str(path)
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links, and so change the name


def _environment() -> dict[str, str]:
    """The child imports this very package, and its libraries start no threads, which would only take address space."""
    places = [str(Path(__file__).resolve().parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, places))}
