"""Pictures to H.264 that browsers play: times, durations, colours; a file that plays though its writer was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.video.encode import H264Writer
from tests.videos import draw

TICK = 1 / 90000


def times_of(path: Path) -> tuple[list[float], float]:
    """Times of the frames of a file, and how long its pictures last, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        assert stream.duration is not None
        frames = list(container.decode(stream))
        return [float(frame.time or 0) for frame in frames], float(stream.duration * stream.time_base)


def write(path: Path, times: list[float], last_seconds: float | None = None, size: tuple[int, int] = (64, 48)) -> Path:
    with H264Writer(path, *size) as writer:
        for number, time in enumerate(times):
            writer.write(draw(number, *size), time)
        writer.close(last_seconds)
    return path


def test_what_browsers_ask_for(tmp_path: Path) -> None:
    path = write(tmp_path / "no-ending", [number / 25 for number in range(120)])
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index comes first
    with av.open(str(path)) as container:
        assert container.format.name.startswith("mov,mp4")
        context = container.streams.video[0].codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        frames = list(container.decode(video=0))
        keys = [number for number, frame in enumerate(frames) if frame.key_frame]
        assert keys == [0, 50, 100]  # every 2 s, to which players can go
    for number in (0, 51, 119):
        np.testing.assert_allclose(frames[number].to_ndarray(format="rgb24"), draw(number), atol=60)  # chroma is halved
        difference = frames[number].to_ndarray(format="rgb24").astype(int) - draw(number)
        assert abs(difference).mean() < 4


@settings(max_examples=5, deadline=None)
@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=12), st.floats(0.0, 5.0))
def test_times_are_kept_however_uneven(
    tmp_path_factory: pytest.TempPathFactory, steps: list[float], start: float
) -> None:
    times = [start, *(start + np.cumsum(steps)).tolist()]
    found, _ = times_of(write(tmp_path_factory.mktemp("times") / "a.mp4", times, 0.5))
    np.testing.assert_allclose(found, times, atol=TICK)


def test_the_last_picture_lasts_as_long_as_said(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.4]
    assert times_of(write(tmp_path / "a.mp4", times, 0.25))[1] == pytest.approx(0.65, abs=TICK)
    assert times_of(write(tmp_path / "b.mp4", times))[1] == pytest.approx(0.7, abs=TICK)
    assert times_of(write(tmp_path / "c.mp4", [0.0])) == ([0.0], pytest.approx(0.04, abs=TICK))


def test_times_that_do_not_increase_are_moved_by_a_tick(tmp_path: Path) -> None:
    found, _ = times_of(write(tmp_path / "a.mp4", [0.0, 0.5, 0.5, 0.2, 1.0]))
    np.testing.assert_allclose(found, [0.0, 0.5, 0.5 + TICK, 0.5 + 2 * TICK, 1.0], atol=TICK / 2)


def test_equal_pictures_give_equal_bytes(tmp_path: Path) -> None:
    times = [number / 30 for number in range(20)]
    assert write(tmp_path / "a.mp4", times).read_bytes() == write(tmp_path / "b.mp4", times).read_bytes()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pictures of 95x55 pixels; expected even sides"):
        H264Writer(tmp_path / "a.mp4", 95, 55)
    with H264Writer(tmp_path / "a.mp4", 64, 48) as writer:
        with pytest.raises(ValueError, match=r"picture 0 is uint8 \(48, 66, 3\); expected uint8 \(48, 64, 3\)"):
            writer.write(draw(0, 66, 48), 0.0)
        with pytest.raises(ValueError, match="picture 0 has time nan; expected seconds from 0"):
            writer.write(draw(0), float("nan"))
        with pytest.raises(ValueError, match="picture 0 has time -1"):
            writer.write(draw(0), -1.0)
    writer.close()
    assert not (tmp_path / "a.mp4").exists()  # no picture, no file


@pytest.mark.parametrize("fragmented", [False, True])
def test_a_full_disk_is_one_error_and_closing_is_none(fragmented: bool) -> None:
    """Written to after an error, FFmpeg ends the process with SIGSEGV."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)

    def fill(writer: H264Writer) -> None:
        for number in range(500):
            writer.write(noise[number % 20], number / 25)

    writer = H264Writer("/dev/full", 64, 48, fragmented=fragmented)
    with pytest.raises(OSError, match="No space left on device"):
        fill(writer)
    writer.close()
    with H264Writer("/dev/full", 64, 48) as writer, pytest.raises(OSError, match="No space left on device"):
        fill(writer)


@pytest.mark.slow
def test_a_killed_writer_of_fragments_leaves_a_file_that_plays(tmp_path: Path) -> None:
    """Without fragments the file has no index, and no player opens it."""
    script = (
        "import os, sys; from pipeline.video.encode import H264Writer; from tests.videos import draw\n"
        "writer = H264Writer(sys.argv[1], 64, 48, fragmented=sys.argv[2] == 'yes')\n"
        "for number in range(200): writer.write(draw(number), number / 25)\n"
        "os.kill(os.getpid(), 9)"
    )
    for fragmented in ("yes", "no"):
        path = tmp_path / f"{fragmented}.mp4"
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", script, str(path), fragmented],
            check=False,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert done.returncode == -signal.SIGKILL
    with av.open(str(tmp_path / "yes.mp4")) as container:
        times = [float(frame.time or 0) for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(len(times)) / 25, atol=TICK)
    assert times[-1] > 8 - 2 - 1
    with pytest.raises(av.FFmpegError, match="Invalid data"):
        av.open(str(tmp_path / "no.mp4"))
