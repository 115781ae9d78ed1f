"""Live sources: which are opened, when their pictures are there, what is dropped, and how a lost one comes back."""

import os
import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pipeline.errors import RejectedVideo, VideoError
from pipeline.video import feed as feeds
from pipeline.video.feed import Event, Feed, FeedFrame
from pipeline.video.limits import Limits
from pipeline.video.live import LiveSource, PacedDecoder, StampedTimes, find_source, live_reader
from pipeline.video.ongrid import frames_on_grid
from pipeline.video.reader import Shown, VideoReader

CAMERA = LiveSource("camera", "/dev/video0", "camera")
FILE = LiveSource("file", "/a.mp4", "a.mp4", ends=True)


def test_what_is_named_is_what_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").touch()
    os.mkfifo(tmp_path / "a:b")
    found = {text: find_source(text) for text in ("7", "a:b", "-", "/dev/null", "RTSP://me:word@h:1/x?key=2")}
    assert [(s.kind, s.ends) for s in found.values()] == [
        ("file", True), ("pipe", False), ("pipe", True), ("camera", False), ("address", False),
    ]  # fmt: skip
    assert found["a:b"].url == str(tmp_path / "a:b")  # FFmpeg would take the bare name for a protocol
    address = found["RTSP://me:word@h:1/x?key=2"]
    assert (address.url, address.name) == ("rtsp://me:word@h:1/x?key=2", "RTSP://h:1/x".lower())


def test_a_file_on_standard_input_is_played_as_a_file(videos, tmp_path):
    """Read as a pipe is, as fast as it comes, nine in ten of its pictures were dropped."""
    path, before = videos.write(tmp_path / "a.mp4", 5), os.dup(0)
    with path.open() as file:
        os.dup2(file.fileno(), 0)
        try:
            source = find_source("-", fast=True)
            frames = list(live_reader(source, Limits()).frames(10, 48))
        finally:
            os.dup2(before, 0)
            os.close(before)
    assert (source.kind, source.name) == ("file", "standard input")
    assert len(frames) == len(list(VideoReader(path).frames(10, 48)))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("RTSP://me:word@h:1/x@y?key=2", "rtsp://h:1/x@y"),
        ("http://h/@x?word", "http://h/@x"),
        ("http://me:a#word@h/x", "http://h/x"),  # FFmpeg takes `a#word` for no password either
        ("http://me:a/word?@h:1/x", "http://h:1/x"),
        ("rtsp://me:word@[::1/x", "rtsp://[::1/x"),
    ],
)
def test_no_message_has_a_password(address, shown):
    assert find_source(address).name == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gopher://me:word@h/x", "^gopher://h/x: gopher:// is not read; expected one of http, https, rtsp"),
        ("file:///etc/passwd", "file:// is not read"),
        ("concat:a|b", "concat:a|b: No such file or directory; expected a file, a camera such as /dev/video0"),
        ("93", "/dev/video93: no such camera; there is"),
        (".", r"\.: no file, pipe or camera; `lrcn predict` takes folders"),
    ],
)
def test_what_cannot_be_followed_says_why_in_one_line(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match=message) as error:
        find_source(text)
    assert "word" not in str(error.value)
    assert "\n" not in str(error.value)


def test_times_are_the_stamps_or_those_of_arrival():
    stamped = StampedTimes(Fraction(1, 10))
    assert [stamped.tick(pts, at) for pts, at in ((50, 7.0), (51, 9.0), (51, 9.1), (60, 9.2))] == [0, 0.1, 0.1, 1]
    bare = StampedTimes(Fraction(1, 10), has_stamps=False)
    assert [bare.tick(pts, at) for pts, at in ((50, 7.0), (51, 9.0), (49, 9.5))] == [0, 2, 2.5]


@pytest.mark.parametrize(("pts", "arrived", "step"), [(38, 8.0, "-1.2"), (111, 8.0, "6.1")])
def test_stamps_that_jump_are_another_stream(pts, arrived, step):
    times = StampedTimes(Fraction(1, 10))
    times.tick(50, 7.0)
    with pytest.raises(RejectedVideo, match=f"its time stamps jump by {step} s"):
        times.tick(pts, arrived)
    times = StampedTimes(Fraction(1, 10))
    times.tick(50, 7.0)
    assert times.tick(111, 12.0) == pytest.approx(6.1)  # a stall of the network: the clock on the wall went on too


class Virtual:
    """A clock that goes on by sleeping alone."""

    def __init__(self) -> None:
        self.seconds, self.longest = 100.0, 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.longest = max(self.longest, seconds)


@pytest.mark.parametrize("fast", [False, True])
def test_a_file_plays_by_its_own_times(videos, tmp_path, fast):
    times = [0.0, 0.04, 0.4, 2.0]
    path = videos.write(tmp_path / "a.mkv", 4, pts_seconds=times)
    clock, waits = Virtual(), []
    source = find_source(str(path), fast=fast)
    decoder = PacedDecoder(source, Limits(), lambda: waits.append(clock.now()), (clock.now, clock.sleep))
    shown = [frame.arrived_seconds - 100 for frame in decoder]
    assert shown == pytest.approx([0.0] * 4 if fast else times)
    assert clock.longest <= 0.25  # in between it says that it goes on
    assert len(waits) == (0 if fast else 10)


def test_a_file_that_is_played_has_the_frames_of_a_file_that_is_read(videos, tmp_path):
    path = videos.write(tmp_path / "a.mp4", 12)
    played = live_reader(find_source(str(path), fast=True), Limits()).frames(10, 48)
    read = VideoReader(path).frames(10, 48)
    assert [(f.time_seconds, f.pts_seconds, f.i420.tobytes()) for f in played] == [
        (f.time_seconds, f.pts_seconds, f.i420.tobytes()) for f in read
    ]


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n{}\n", "ffconcat version 1.0\nfile {}\n"])
def test_a_file_that_names_addresses_opens_none(tmp_path, text):
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    with listener:
        path = tmp_path / "a.m3u8"
        path.write_text(text.format(f"http://127.0.0.1:{listener.getsockname()[1]}/a.ts"))
        with pytest.raises(RejectedVideo, match="names other files"):
            list(live_reader(find_source(str(path)), Limits()).frames(10, 48))
        with pytest.raises(BlockingIOError, match="unavailable"):
            listener.accept()


def test_pictures_in_memory_stand_on_the_grid(videos):
    pictures = ((5 + number / 25, videos.draw(number)) for number in range(12))
    frames = list(frames_on_grid(pictures, fps=10, short_side=48))
    assert [frame.time_seconds for frame in frames] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert [videos.number_of(frame.i420) for frame in frames] == [0, 2, 5, 7, 10]
    assert frames[1].pts_seconds == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([(0.0, np.zeros((4, 4, 3)))], r"frame 0 is float64 of shape \(4, 4, 3\); expected an array"),
        ([(0.0, None)], "frame 0 is NoneType"),
        ([(1.0, np.zeros((4, 4, 3), np.uint8)), (0.9, np.zeros((4, 4, 3), np.uint8))], "frame 1 comes at 0.9 s, after"),
        ([(float("nan"), np.zeros((4, 4, 3), np.uint8))], "frame 0 comes at nan s"),
    ],
)
def test_what_is_no_frame_says_so(pictures, message):
    with pytest.raises(ValueError, match=message):
        list(frames_on_grid(pictures, fps=10, short_side=16))


class Pool:
    """Stands for DecoderPool: each connection plays a script of steps, waits (Event objects) and errors."""

    def __init__(self, *scripts: list[Any]) -> None:
        self._scripts = list(scripts)
        self.open = 0
        self.closed = threading.Event()

    def live(self, source, fps, short_side):
        script = self._scripts.pop(0) if self._scripts else [self.closed]
        self.open += 1
        for item in script:
            if isinstance(item, threading.Event):
                item.wait(10)
            elif isinstance(item, Exception):
                raise item
            else:
                first, arrived = item if isinstance(item, tuple) else (item, item / fps)
                yield Shown(range(first, first + 1), first / fps, np.full((24, 16), first % 256, np.uint8), arrived)

    def close(self):
        self.closed.set()


@pytest.fixture
def _no_pauses(monkeypatch):
    monkeypatch.setattr(feeds, "FIRST_PAUSE_SECONDS", 0.01)


def told(item):
    return (item.kind, item.reason) if isinstance(item, Event) else (item.start_seconds, item.frame.time_seconds)


def test_what_comes_while_the_machine_is_busy_is_dropped_and_counted():
    """With a queue, the frames after the first would be those of ten minutes ago."""
    came = threading.Event()
    pool = Pool([0, came, *range(1, 6001)])
    with Feed(pool, FILE, 10, 16) as feed:
        items = iter(feed)
        first = next(items)
        came.set()
        feed._thread.join(10)  # all 6,000 came meanwhile
        assert len(feed._waiting) == 3
        rest = list(items)
    assert isinstance(first, FeedFrame)
    assert [round(item.frame.time_seconds * 10) for item in rest[:-1]] == [5999, 6000]
    assert told(rest[-1]) == ("end", "the source ended")
    assert feed.num_dropped == 5998


def test_a_file_that_is_read_fast_waits_instead():
    with Feed(Pool([*range(50)]), LiveSource("file", "/a", "a", ends=True, fast=True), 10, 16) as feed:
        items = list(feed)
    assert [round(item.frame.time_seconds * 10) for item in items[:-1]] == list(range(50))
    assert feed.num_dropped == 0


@pytest.mark.usefixtures("_no_pauses")
def test_a_lost_source_comes_back_on_a_grid_of_its_own():
    pool = Pool([(0, 100.0), (1, 100.1), RejectedVideo("cut")], [RejectedVideo("refused")], [(0, 107.25), (1, 107.35)])
    with Feed(pool, CAMERA, 10, 16) as feed:
        items = iter(feed)
        found = [next(items) for _ in range(6)]
    assert [told(item) for item in found[:4]] == [(0, 0), (0, 0.1), ("lost", "cut"), ("back", "")]
    assert found[2].time_seconds == pytest.approx(0.2)
    assert [told(item) for item in found[4:]] == [(7.25, 0), (7.25, 0.1)]
    assert found[3].time_seconds == 7.25


@pytest.mark.usefixtures("_no_pauses")
def test_time_never_goes_back_over_a_gap():
    """Stamps may have run ahead of the clock on the wall."""
    with Feed(Pool([(0, 1.0), (90, 1.1)], [(0, 1.5)]), CAMERA, 10, 16) as feed:
        items = iter(feed)
        found = [next(items) for _ in range(5)]
    assert told(found[4]) == (9.1, 0)


@pytest.mark.usefixtures("_no_pauses")
def test_a_source_that_stays_away_is_given_up():
    pool = Pool([0, RejectedVideo("cut")], *[[RejectedVideo("refused")]] * 100)
    with Feed(pool, CAMERA, 10, 16, give_up_seconds=0.05) as feed:
        assert [told(item) for item in feed][1:] == [("lost", "cut"), ("end", "given up: refused")]
    assert 1 < pool.open < 9


def test_an_error_of_our_own_is_raised_where_frames_are_taken():
    with (
        Feed(Pool([0, VideoError("no decoding process can be started")]), CAMERA, 10, 16) as feed,
        pytest.raises(VideoError, match="no decoding process"),
    ):
        list(feed)


def test_leaving_ends_the_thread_that_waits():
    pool = Pool([0])
    pool._scripts[0].append(pool.closed)
    with Feed(pool, CAMERA, 10, 16) as feed:
        next(iter(feed))
    assert not feed._thread.is_alive()
