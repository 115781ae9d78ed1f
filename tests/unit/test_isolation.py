"""Decoding in child processes: the same frames as in this process, and nothing a file does reaches the run."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.errors import RejectedVideo, VideoError
from pipeline.video import isolation
from pipeline.video.isolation import DecoderPool
from pipeline.video.limits import Limits
from pipeline.video.reader import Frame, Verdict, VideoReader, check_file, read_header
from tests.conftest import decoding_children

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

IMPATIENT = Limits(seconds_without_progress=0.4)


@pytest.fixture(scope="module")
def pool():
    with DecoderPool() as decoders:
        yield decoders


def plain(frames: Any) -> list[tuple[float, float, bytes]]:
    return [(frame.time_seconds, frame.pts_seconds, frame.i420.tobytes()) for frame in frames]


def long_video(videos: Any, folder: Path) -> Path:
    """More frames than a pipe holds, so that its child is still at work when the first one has come."""
    return videos.write(folder / "long.mp4", 120, size=(320, 240))


def started(decoders: DecoderPool, path: Path, before: list[psutil.Process]) -> tuple[Any, psutil.Process, Frame]:
    """A reader's iterator after its first frame, and the child that it holds."""
    frames = decoders.reader(path).frames(25, 240)
    first = next(frames)
    (child,) = [child for child in decoding_children() if child not in before]
    return frames, child, first


def test_frames_and_verdict_are_those_of_the_reader(pool: DecoderPool, tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mp4", 30, size=(80, 60), pts_seconds=[k / 25 + (k > 20) * 0.7 for k in range(30)])
    ours, theirs = pool.reader(path), VideoReader(path)
    assert plain(ours.frames(25, 48)) == plain(theirs.frames(25, 48))
    assert ours.verdict == theirs.verdict == pool.check(path) == check_file(path)
    assert pool.header(path) == read_header(path)


def test_a_damaged_and_a_rejected_file(pool: DecoderPool, tmp_path: Path, videos: Any) -> None:
    whole = videos.write(tmp_path / "a.mkv", 60).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("hello\n")
    reader = pool.reader(tmp_path / "cut.mkv")
    assert plain(reader.frames(25, 48)) == plain(VideoReader(tmp_path / "cut.mkv").frames(25, 48))
    assert reader.verdict.status == "damaged"
    for path, reason in ((tmp_path / "text.mp4", "a text file, not a video"), (tmp_path / "no.mp4", "No such file")):
        reader = pool.reader(path)
        with pytest.raises(RejectedVideo, match=reason):
            list(reader.frames(25, 48))
        with pytest.raises(RejectedVideo, match=reason):
            pool.header(path)
        assert reader.verdict == pool.check(path) == check_file(path)
    assert not check_file(tmp_path / "text.mp4").is_transient
    assert check_file(tmp_path / "no.mp4").is_transient


def test_bad_arguments_and_early_questions(pool: DecoderPool, tmp_path: Path, videos: Any) -> None:
    reader = pool.reader(videos.write(tmp_path / "a.mp4", 3))
    with pytest.raises(ValueError, match="short_side is 31"):
        reader.frames(25, 31)
    with pytest.raises(RuntimeError, match="known when all its frames have been read"):
        _ = reader.verdict


def test_children_are_used_again(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mp4", 5)
    before = decoding_children()
    with DecoderPool() as decoders:
        for _ in range(3):
            list(decoders.reader(path).frames(25, 48))
        (child,) = [child for child in decoding_children() if child not in before]
    assert not child.is_running()
    with pytest.raises(RuntimeError, match="closed"):
        decoders.check(path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_child_that_dies_costs_its_file_only(tmp_path: Path, videos: Any, number: signal.Signals) -> None:
    """With the reader called in this process instead, the signal ends the test run itself."""
    path, before = long_video(videos, tmp_path), decoding_children()
    with DecoderPool() as decoders:
        frames, child, _ = started(decoders, path, before)
        os.kill(child.pid, number)
        with pytest.raises(RejectedVideo, match=rf"the decoding process died \({number.name}") as error:
            list(frames)
        assert error.value.is_transient
        assert decoders.check(path).status == "ok"


def test_a_child_that_hangs_is_killed(tmp_path: Path, videos: Any) -> None:
    """Without the poll before each read, this test waits for ever."""
    path, before = long_video(videos, tmp_path), decoding_children()
    with DecoderPool(IMPATIENT) as decoders:
        frames, child, _ = started(decoders, path, before)
        child.suspend()
        begin = time.monotonic()
        with pytest.raises(RejectedVideo, match=r"decoding hangs: no picture came for 0\.4 s"):
            list(frames)
        assert time.monotonic() - begin < 5
        assert not child.is_running()


def test_time_for_one_file_is_limited(tmp_path: Path, videos: Any) -> None:
    path, before = long_video(videos, tmp_path), decoding_children()
    with DecoderPool(Limits(seconds_per_file=0.5)) as decoders:
        frames, child, _ = started(decoders, path, before)
        child.suspend()
        with pytest.raises(RejectedVideo, match=r"more than 0\.5 s, the limit for one file"):
            list(frames)


def test_a_slow_consumer_is_no_hang(tmp_path: Path, videos: Any) -> None:
    with DecoderPool(Limits(seconds_without_progress=0.3)) as decoders:
        count = 0
        for _ in decoders.reader(long_video(videos, tmp_path)).frames(25, 240):
            count += 1
            time.sleep(0.4 if count in (1, 60) else 0)
    assert count == 120


@pytest.mark.parametrize("watch_seconds", [0.05, 30.0])
def test_memory_is_limited(tmp_path: Path, videos: Any, monkeypatch: pytest.MonkeyPatch, watch_seconds: float) -> None:
    """A limit on the address space alone made this file "damaged": the codec hides that an allocation was refused.

    Looking at the memory of the moment let it pass where the machine was too busy to look in time.
    """
    monkeypatch.setattr(isolation, "WATCH_SECONDS", watch_seconds)
    path = videos.write(tmp_path / "a.mp4", 8, size=(3840, 2160), options={"preset": "ultrafast"})
    with DecoderPool(Limits(memory_bytes=30 * 2**20)) as decoders:
        reason = "decoding needs more than 30 MB, the limit for one file"
        assert decoders.check(path) == Verdict.rejected(reason, is_transient=True)
        assert decoders.check(videos.write(tmp_path / "b.mp4", 3)).status == "ok"


def test_pixels_are_limited(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mp4", 30, size=(64, 48))
    with DecoderPool(Limits(pixels_per_frame=64 * 47)) as decoders:
        assert decoders.check(path).reason == "picture of 64x48 is above the limit of 3008 pixels"
    with DecoderPool(Limits(pixels_per_file=64 * 48 * 29)) as decoders:
        assert decoders.check(path).reason == "more than 89088 pixels in all: above the limit for one file"
    with DecoderPool(Limits(pixels_per_file=64 * 48 * 30)) as decoders:
        assert decoders.check(path).status == "ok"
    with pytest.raises(ValueError, match=r"limits\.memory_bytes is 0"):
        Limits(memory_bytes=0)


def test_a_child_that_dies_between_two_files_costs_none(tmp_path: Path, videos: Any) -> None:
    path, before = videos.write(tmp_path / "a.mp4", 3), decoding_children()
    with DecoderPool() as decoders:
        assert decoders.check(path).status == "ok"
        (child,) = [child for child in decoding_children() if child not in before]
        child.kill()
        child.wait()
        assert decoders.check(path).status == "ok"


def test_a_child_that_dies_while_it_starts_costs_nothing(tmp_path: Path, videos: Any) -> None:
    """Without another attempt, whatever kills a child at that moment ends the run: three in a row do."""
    path, before, victims = videos.write(tmp_path / "a.mp4", 3), decoding_children(), []

    def kill_two() -> None:
        deadline = time.monotonic() + 20
        while len(victims) < 2 and time.monotonic() < deadline:
            for child in psutil.Process().children():
                if child not in before and child not in victims:
                    victims.append(child)
                    child.kill()
            time.sleep(0.002)

    killer = threading.Thread(target=kill_two)
    killer.start()
    with DecoderPool(Limits(seconds_per_file=0.2)) as decoders:  # a start does not count as time spent on a file
        verdict = decoders.check(path)
        killer.join()
    assert len(victims) == 2
    assert verdict.status == "ok"


def test_an_abandoned_file_leaves_no_child(tmp_path: Path, videos: Any) -> None:
    path, before = long_video(videos, tmp_path), decoding_children()
    with DecoderPool() as decoders:
        frames, child, _ = started(decoders, path, before)
        frames.close()
        assert not child.is_running()


def test_children_end_with_their_parent(tmp_path: Path, videos: Any) -> None:
    """Without the thread that waits for the end of its standard input, the child outlives a killed parent."""
    script = (
        "import os, psutil, sys; from pipeline.video.isolation import DecoderPool; pool = DecoderPool()\n"
        "frames = pool.reader(sys.argv[1]).frames(25, 240); next(frames)\n"
        "print(psutil.Process().children()[0].pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(long_video(videos, tmp_path))], stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_that_cannot_start_is_no_bad_file(
    tmp_path: Path, videos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = videos.write(tmp_path / "a.mp4", 3)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecoderPool() as decoders, pytest.raises(VideoError, match="no decoding process can be started") as error:
        decoders.check(path)
    assert not isinstance(error.value, RejectedVideo)
