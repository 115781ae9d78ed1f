"""`lrcn stream SOURCE --model M`: label a camera, an address or a file as it plays, one line of JSON per timestep.

SOURCE: a camera (/dev/video0, or 0), an address (rtsp, rtmp, http, udp, rtp, tcp), a file, a named pipe, or - for a
stream on standard input. Nothing is queued: what comes while the machine is busy is dropped and counted.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.discovery import printable
from pipeline.errors import LrcnError, VideoError
from pipeline.inference.ending import ending_soon
from pipeline.inference.live import LiveAnswer
from pipeline.inference.liveoverlay import LiveOverlay
from pipeline.inference.precision import add_precision_argument, tell_if_never_sure, threshold_of
from pipeline.inference.recognizer import Recognizer
from pipeline.inference.results import DIGITS, is_sure
from pipeline.video.feed import Event, Feed, FeedFrame, LiveDecoders, live_limits
from pipeline.video.limits import Limits
from pipeline.video.live import WALL, LiveSource, find_source
from pipeline.video.reader import Frame

MAX_DELAY_MS = 100_000
MAX_THREADS = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Follow one source; 0 when it ended, 1 when it was given up, 128 + signal when it was stopped."""
    parser = argparse.ArgumentParser(prog="lrcn stream", description=__doc__, allow_abbrev=False)
    parser.add_argument("source", metavar="SOURCE", help="a camera, an address, a file, a pipe, or -")
    parser.add_argument("--model", required=True, help="a model folder, models:/NAME@ALIAS, runs:/RUN_ID/model")
    parser.add_argument("--changes", action="store_true", help="print a line only when the label changes")
    parser.add_argument("--fast", action="store_true", help="read a file as fast as it can be; nothing is dropped")
    add_precision_argument(parser)
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS",
        help="a source from which nothing comes for so long is lost (default 10)",
    )  # fmt: skip
    parser.add_argument(
        "--give-up", type=float, metavar="SECONDS", help="try a lost source again for so long (default: for ever)"
    )
    parser.add_argument("--rtsp-transport", choices=["tcp", "udp"], default="tcp", help="default tcp")
    parser.add_argument(
        "--max-memory", type=int, default=Limits().memory_bytes // 2**20, metavar="MB",
        help=f"lose the source when decoding needs more memory (default {Limits().memory_bytes // 2**20})",
    )  # fmt: skip
    parser.add_argument(
        "--overlay",
        type=Path,
        metavar="FILE.mp4",
        help="also write what the model sees, with its answers drawn over it",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args(argv)
    for name in ("timeout", "max_memory", "give_up"):
        value = getattr(options, name)
        if value is not None and not (value > 0 or (name == "give_up" and value == 0)):
            raise LrcnError(f"--{name.replace('_', '-')} is {value}; expected a number above 0")
    source = find_source(
        options.source, fast=options.fast, timeout_seconds=options.timeout, rtsp_transport=options.rtsp_transport
    )
    if options.fast and source.kind != "file":
        raise LrcnError(f"--fast reads a file; {source.name} comes as fast as it does: leave it away")
    try:
        with ending_soon("stream"):
            return stream_source(source, options)
    except KeyboardInterrupt as stop:
        return 128 + int(stop.args[0] if stop.args else signal.SIGINT)


def stream_source(source: LiveSource, options: argparse.Namespace) -> int:
    """Follow the source to its end; returns the exit code."""
    overlay = None if options.overlay is None else LiveOverlay(options.overlay, source)
    with computing_threads(), Recognizer.load(options.model, device=options.device, workers=1) as recognizer:
        spec = recognizer.model.spec
        list(recognizer.stream(()))  # a model that cannot stream says so before anything is opened
        threshold = threshold_of(spec, options.precision)
        tell_if_never_sure(spec, options.precision, "stream")
        log = _Log(threshold, options.changes, waits_for_windows=spec.longest_steps > 0)
        limits = live_limits(options.max_memory * 2**20, source.timeout_seconds)
        view, give_up = spec.view, options.give_up
        feed = Feed(LiveDecoders(limits), source, view.fps, view.short_side, give_up_seconds=give_up)
        try:
            with feed, overlay.drawing(spec, threshold) if overlay else contextlib.nullcontext():
                end = follow_feed(recognizer, feed, log, overlay)
        finally:
            print(f"stream: {log.summary(feed.num_dropped)}", file=sys.stderr)
    if end.failed:
        message = printable(f"{source.name}: {end.reason}")
        if not log.num_answers:
            raise VideoError(message)
        print(f"stream: {message}", file=sys.stderr)
    return 1 if end.failed or (overlay and overlay.failed) else 0


@contextlib.contextmanager
def computing_threads() -> Iterator[None]:
    """All cores but one compute a frame, MAX_THREADS at most: the decoder needs one, and a thread that waits for
    another, which has to wait for its core, makes a frame take many times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(max(len(os.sched_getaffinity(0)) - 1, 1), MAX_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def follow_feed(recognizer: Recognizer, feed: Feed, log: "_Log", overlay: LiveOverlay | None = None) -> Event:
    """Print answers and events until the source ends; after a gap the carried state begins afresh."""
    items = iter(feed)
    while True:
        connection = _Connection(items)
        for answer in recognizer.stream(connection):
            log.answer(answer, connection.latest, feed.num_dropped)
            if overlay and answer.time_seconds == connection.latest.frame.time_seconds:  # no window that ended unseen
                overlay.write(answer, connection.latest)
        event = connection.event
        assert event is not None  # only an event ends a connection
        log.event(event)
        if event.kind == "end":
            return event


class _Connection:
    """Iterating gives the frames up to the next event."""

    latest: FeedFrame
    event: Event | None = None

    def __init__(self, items: Iterator[FeedFrame | Event]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Frame]:
        for item in self._items:
            if isinstance(item, Event):
                self.event = item
                return
            self.latest = item
            yield item.frame


class _Log:
    """Prints lines of JSON and counts delays, in whole milliseconds so that memory does not grow.

    waits_for_windows: of a clip model that reads windows, the label changes at the end of one.
    """

    def __init__(self, threshold: float | None, changes_only: bool, waits_for_windows: bool) -> None:
        self._threshold = threshold
        self._changes_only = changes_only
        self._waits_for_windows = waits_for_windows
        self._label: str | None = None
        self._delays = np.zeros(MAX_DELAY_MS + 1, np.int64)
        self._num_lost = 0

    @property
    def num_answers(self) -> int:
        """Timesteps answered."""
        return int(self._delays.sum())

    def answer(self, answer: LiveAnswer, frame: FeedFrame, num_dropped: int) -> None:
        """One timestep; its delay counts from the moment its picture was there."""
        delay_ms = max(0.0, (WALL[0]() - frame.arrived_seconds) * 1000)
        self._delays[min(round(delay_ms), MAX_DELAY_MS)] += 1
        is_change = answer.label != self._label and (answer.is_final or not self._waits_for_windows)
        if self._changes_only and not is_change:
            return
        self._label = answer.label
        line: dict[str, Any] = {
            "time_seconds": round(frame.start_seconds + answer.time_seconds, 3),
            "label": answer.label,
            "score": round(answer.score, DIGITS),
            "sure": is_sure(answer.score, self._threshold) if answer.is_final else None,
            "delay_ms": round(delay_ms, 1),
            "dropped": num_dropped,
        }
        if answer.window_seconds is not None:
            line["window"] = [round(frame.start_seconds + seconds, 3) for seconds in answer.window_seconds]
        print(json.dumps(line), flush=True)

    def event(self, event: Event) -> None:
        """What happened to the source; the label after it is a change."""
        self._label = None
        self._num_lost += event.kind == "lost"
        line: dict[str, Any] = {"event": event.kind, "time_seconds": round(event.time_seconds, 3)}
        if event.kind == "back":
            line |= {"away_seconds": event.away_seconds, "state": "afresh"}
        else:
            line["reason"] = event.reason
        print(json.dumps(line), flush=True)

    def summary(self, num_dropped: int) -> str:
        """Figures of the whole stream."""
        text = f"{self.num_answers} timesteps answered, {num_dropped} dropped, lost {self._num_lost} time(s)"
        if self.num_answers:
            passed = self._delays.cumsum()
            median, most = (int(np.searchsorted(passed, share * passed[-1])) for share in (0.5, 0.95))
            text += f"; delay median {median} ms, 95 % within {most} ms"
        return text
