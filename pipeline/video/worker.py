"""The decoding process: reads one file after the other and hands over what it finds. See `pipeline.video.isolation`.

Jobs come as lines of JSON on standard input; messages go to standard output: a kind, a length, and so many bytes.
Frames go through shared memory.
"""

import json
import os
import queue
import re
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from pipeline.errors import RejectedVideo
from pipeline.video.header import read_header
from pipeline.video.limits import Limits
from pipeline.video.reader import Shown, VideoReader, check_file
from pipeline.video.sharedframes import FrameSender
from pipeline.video.verdict import Verdict

READY, PROGRESS, PICTURE, HEADER, VERDICT = b"r", b"p", b"f", b"h", b"v"
MESSAGE = struct.Struct("<cQ")  # kind; bytes that follow
# First step on the grid; number of steps; pts_seconds; arrived_seconds; slot and offset in shared memory; rows and
# columns of the I420.
SHOWN = struct.Struct("<QQddBQII")
PROGRESS_SECONDS = 0.5
HOLD_SECONDS = 0.1  # with 0.02 the parent woke so often that 720p took 2 % more processor time


class Channel:
    """Writes messages to the process that asked, several pictures at a time: waking it costs more than converting one.

    sender: where the pictures' pixels lie.
    """

    def __init__(self, descriptor: int, sender: FrameSender) -> None:
        self._descriptor, self._sender = descriptor, sender
        self._held = b""
        self._num_held = 0
        self._latest = time.monotonic()

    def send(self, kind: bytes, contents: bytes = b"") -> None:
        """Send one message, and those held back."""
        self._hold(kind, contents)
        self._flush()

    def send_picture(self, shown: Shown, at_once: bool = False) -> None:
        """Send a picture, at the latest with the next one after HOLD_SECONDS."""
        place = self._sender.put(shown.i420)
        times = shown.steps.start, len(shown.steps), shown.pts_seconds, shown.arrived_seconds
        self._hold(PICTURE, SHOWN.pack(*times, *place, *shown.i420.shape))
        # Half the slots, or the sender would wait for one to be returned of which nobody has heard.
        is_full = self._num_held >= self._sender.num_slots // 2
        if at_once or is_full or time.monotonic() - self._latest > HOLD_SECONDS:
            self._flush()

    def send_json(self, kind: bytes, values: Mapping[str, Any]) -> None:
        """Send values as JSON."""
        self.send(kind, json.dumps(values).encode("ascii"))

    def progress(self) -> None:
        """Say that decoding goes on, unless something was said just before."""
        if time.monotonic() - self._latest > PROGRESS_SECONDS:
            self.send(PROGRESS)

    def _hold(self, kind: bytes, contents: bytes) -> None:
        self._held += MESSAGE.pack(kind, len(contents)) + contents
        self._num_held += 1

    def _flush(self) -> None:
        message, self._held, self._num_held = self._held, b"", 0
        while message:
            message = message[os.write(self._descriptor, message) :]
        self._latest = time.monotonic()


Serve = Callable[[dict[str, Any], Limits, Channel], None]


def main(serve: Serve) -> None:
    """Do jobs with a function until standard input is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what ends
    limits = Limits(**json.loads(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = Channel(os.dup(sys.stdout.fileno()), FrameSender(*map(int, sys.argv[2:])))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())  # codecs print what they like
    os.dup2(silence, sys.stderr.fileno())
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=take_jobs, args=(jobs,), daemon=True).start()
    limit_address_space(2 * limits.memory_bytes + 2**30)
    channel.send(READY)
    while True:
        serve(json.loads(jobs.get()), limits, channel)


def take_jobs(jobs: "queue.SimpleQueue[bytes]") -> None:
    """Pass jobs on; when the parent is gone, end at once, though a codec may be busy."""
    for line in sys.stdin.buffer:
        jobs.put(line)
    os._exit(0)


def limit_address_space(num_bytes: int) -> None:
    """Refuse what a broken header asks for at one go, which no watching can stop in time.

    Wide of the limit on memory, because codecs take a refused allocation for damage of the file.
    """
    limit = min(memory_in_use(os.getpid())[0] + num_bytes, sys.maxsize)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def memory_in_use(pid: int) -> tuple[int, int]:
    """Bytes of a process: its address space, and the most that was ever resident.

    0 for one that has ended; raises OSError when there is none of that number.
    """
    with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123
        sizes = dict(re.findall(rb"^Vm(Size|HWM):\s*(\d+) kB$", file.read(), re.MULTILINE))
    return int(sizes.get(b"Size", 0)) * 1024, int(sizes.get(b"HWM", 0)) * 1024


def serve_decoding(job: dict[str, Any], limits: Limits, channel: Channel) -> None:
    """Do one job; its last message is a verdict, or a header."""
    path = job["path"]
    if job["task"] == "header":
        try:
            channel.send_json(HEADER, asdict(read_header(path, limits)))
        except RejectedVideo as error:
            channel.send_json(VERDICT, asdict(Verdict.rejected(str(error), error.is_transient)))
        return
    if job["task"] == "check":
        channel.send_json(VERDICT, asdict(check_file(path, limits, channel.progress)))
        return
    serve_pictures(VideoReader(path, limits), job, channel)


def serve_pictures(reader: VideoReader, job: dict[str, Any], channel: Channel) -> None:
    """Send what stands on the grid; of a live source nothing is held back."""
    try:
        for shown in reader.pictures(job["fps"], job["short_side"]):
            if shown is None:
                channel.progress()
            else:
                channel.send_picture(shown, at_once=job["task"] == "live")
    except RejectedVideo:
        pass
    channel.send_json(VERDICT, asdict(reader.verdict))


if __name__ == "__main__":
    main(serve_decoding)
