"""Bad files: each one answered for, with a reason; what can be read of a damaged one is read, and is right."""

import os
import re
import resource
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.errors import RejectedVideo
from pipeline.video.reader import Verdict, VideoReader, check_file, read_header
from pipeline.video.verdict import Findings, judge
from tests.videos import remux


def readable(path: Path) -> tuple[list[Any], Verdict]:
    reader = VideoReader(path)
    try:
        frames = list(reader.frames(25, 48))
    except RejectedVideo:
        frames = []
    assert reader.verdict == check_file(path)
    return frames, reader.verdict


def noisy(videos: Any, count: int) -> list[Any]:
    """Numbered pictures with noise below, so that every one takes up about as many bytes."""
    pictures = [videos.draw(number) for number in range(count)]
    for number, picture in enumerate(pictures):
        picture[16:] = np.random.default_rng(number).integers(0, 256, picture[16:].shape)
    return pictures


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dangling.mp4").symlink_to("nowhere.mp4")
    for name, reason in [
        ("pipe.mp4", "not a regular file"),
        ("folder.mp4", "not a regular file"),
        ("dangling.mp4", "cannot be read: No such file or directory"),
        ("missing.mp4", "cannot be read: No such file or directory"),
        ("nul\0.mp4", "cannot be read: ValueError"),
    ]:
        _, verdict = readable(tmp_path / name)
        assert verdict.status == "rejected"
        assert verdict.reason.startswith(reason)


def test_a_script_that_names_another_video_is_not_followed(tmp_path: Path, videos: Any) -> None:
    videos.write(tmp_path / "good.mp4", 5)
    (tmp_path / "lure.mp4").write_text("ffconcat version 1.0\nfile 'good.mp4'\n")
    _, verdict = readable(tmp_path / "lure.mp4")
    assert verdict == Verdict.rejected("a script that names other files (ffconcat), not a video")


def test_a_real_picture_named_like_a_video(tmp_path: Path, videos: Any) -> None:
    videos.write(tmp_path / "a.mjpeg", 1, codec="mjpeg", pixel_format="yuvj420p", format="image2pipe")
    path = (tmp_path / "a.mjpeg").rename(tmp_path / "a.mp4")
    with av.open(str(path)) as container:  # without the whitelist it opens, and decodes
        assert len(list(container.decode(video=0))) == 1
    _, verdict = readable(path)
    assert verdict == Verdict.rejected("a JPEG picture, not a video")


def test_names_that_look_like_addresses(tmp_path: Path, videos: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = videos.write(tmp_path / "plain.mp4", 3).read_bytes()
    for name in ("10:30:00.mp4", "-i.mp4", "a\nb.mp4", "100%03d.mp4", "caf\udce9.mp4"):
        Path(name).write_bytes(data)
        assert check_file(name).num_frames == 3, name
    assert check_file("http://127.0.0.1/a.mp4").reason == "cannot be read: No such file or directory"


def test_a_small_file_that_asks_for_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gif"
    screen = b"GIF89a" + struct.pack("<HHBBB", 16000, 16000, 0x80, 0, 0) + bytes(6)
    image = b"," + struct.pack("<HHHHB", 0, 0, 16000, 16000, 0) + b"\x02\x02\x4c\x01\x00"
    path.write_bytes(screen + image + b";")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, verdict = readable(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; one picture has 1 GB
    assert verdict.status == "rejected"
    assert verdict.reason.endswith("picture size unknown, or above the limit of 37748736 pixels")


def test_mp4_with_a_box_that_reaches_beyond_every_disk(tmp_path: Path, videos: Any) -> None:
    good = videos.write(tmp_path / "a.mp4").read_bytes()
    endless = struct.pack(">I4sQ", 1, b"mdat", 2**64 - 1)
    (tmp_path / "b.mp4").write_bytes(good + endless)
    frames, verdict = readable(tmp_path / "b.mp4")
    assert len(frames) == 30
    assert verdict.status == "damaged"
    assert verdict.reason == "30 frames: the file is cut off in the middle of a box (mdat)"
    (tmp_path / "c.mp4").write_bytes(good[: good.index(b"moov") - 4] + endless)
    assert readable(tmp_path / "c.mp4")[1].reason.startswith("no index (moov)")


def test_mp4_without_its_data(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mp4", container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])
    frames, verdict = readable(path)
    assert frames == []
    assert (verdict.status, verdict.codec) == ("rejected", "h264")
    assert verdict.reason.startswith("no video data follows the header, which states 30 frames")
    with pytest.raises(RejectedVideo, match="no video data follows the header"):
        read_header(path)


@pytest.mark.parametrize(
    ("name", "codec", "container_options", "reason"),
    [
        (
            "a.mp4",
            "libx264",
            {"movflags": "faststart"},
            r"^{n} of 60 frames: .*\d+ frames of the index not in the file",
        ),
        ("a.mkv", "libx264", {}, r"^{n} of about 6\d frames: the file ends at \d\.\d\d of 2\.\d\d s$"),
        ("a.webm", "libvpx-vp9", {}, r"^{n} of about 6\d frames: the file ends at"),
        ("a.avi", "mpeg4", {}, r"^{n} of 60 frames: .*the file ends at"),
        ("a.flv", "flv", {}, r"^{n} of about 6\d frames: .*the file ends at"),
        ("a.ts", "libx264", {}, r"^{n} frames: .*the file is cut off in the middle of a transport packet"),
        ("a.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}, r"^{n} (of about \d+ )?frames: .*cut off"),
    ],
)
@pytest.mark.parametrize("share", [0.45, pytest.param(0.8, marks=pytest.mark.slow)])
def test_cut_files_give_their_readable_part(
    tmp_path: Path,
    videos: Any,
    name: str,
    codec: str,
    container_options: dict[str, str],
    reason: str,
    share: float,
) -> None:
    path = videos.write(
        tmp_path / name,
        pictures=noisy(videos, 60),
        fps=30,
        codec=codec,
        container_options=container_options,
        options={"g": "1", "bf": "0", "qp": "8"},
    )
    whole, verdict = readable(path)
    assert verdict.status == "ok", verdict
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share) | 1])
    frames, verdict = readable(path)
    assert verdict.status == "damaged", verdict
    assert re.search(reason.replace("{n}", str(verdict.num_frames)), verdict.reason), verdict.reason
    assert 60 * share - 15 < verdict.num_frames < 60 * share + 5
    assert abs(len(frames) - len(whole) * share) < 13
    sound = frames[:-2]  # the last picture may be half a picture
    assert [videos.number_of(frame.i420) for frame in sound] == [6 * k // 5 for k in range(len(sound))]


def test_a_hole_costs_its_own_frames_and_not_those_behind_it(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mp4", pictures=noisy(videos, 60), options={"g": "10", "bf": "0", "qp": "8"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 12_000] = bytes(12_000)
    path.write_bytes(data)
    frames, verdict = readable(path)
    assert verdict.status == "damaged"
    assert re.match(r"\d+ of 60 frames: \d+ packets? cannot be decoded \(Invalid data", verdict.reason)
    assert 40 < verdict.num_frames < 60
    assert [videos.number_of(frame.i420) for frame in frames[-10:]] == list(range(50, 60))
    assert [videos.number_of(frame.i420) for frame in frames[:15]] == list(range(15))


def test_a_stream_that_starts_without_a_key_frame(tmp_path: Path, videos: Any) -> None:
    options = {"bf": "0", "g": "20", "x264-params": "scenecut=0", "qp": "4"}
    source = videos.write(tmp_path / "a.mkv", 60, options=options)
    frames, verdict = readable(remux(source, tmp_path / "b.mkv", lambda number, _: number >= 5))
    assert verdict.status == "damaged"
    assert verdict.num_frames < 60
    assert [videos.number_of(frame.i420) for frame in frames[-40:]] == list(range(20, 60))


def test_lost_packets_show_as_gaps(tmp_path: Path, videos: Any) -> None:
    source = videos.write(tmp_path / "a.mkv", 60, options={"g": "1", "qp": "4"})
    frames, verdict = readable(remux(source, tmp_path / "b.mkv", lambda number, _: number not in (20, 21, 40)))
    assert verdict.status == "ok"
    assert verdict.notes == ("2 gaps in the time stamps",)
    numbers = [videos.number_of(frame.i420) for frame in frames]
    assert numbers == [*range(20), 19, 19, *range(22, 40), 39, *range(41, 60)]


def test_a_wrong_count_in_the_header_is_a_note(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.avi", 60, codec="mpeg4", options={"g": "1"})
    data = bytearray(path.read_bytes())
    for name, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        struct.pack_into("<I", data, data.index(name) + offset, 6000)
    path.write_bytes(data)
    _, verdict = readable(path)
    assert (verdict.status, verdict.num_frames) == ("ok", 60)
    assert verdict.notes == ("header states 6000 frames, 60 decoded",)


def test_two_recordings_in_one_file(tmp_path: Path, videos: Any) -> None:
    part = videos.write(tmp_path / "a.ts", 60, options={"g": "1", "qp": "4"}).read_bytes()
    (tmp_path / "both.ts").write_bytes(part + part)
    _, verdict = readable(tmp_path / "both.ts")
    assert verdict.status == "damaged"
    assert re.search(r"time stamps go back by up to 2\.\d\d s", verdict.reason)
    assert verdict.num_frames == 120


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mkv", 60)
    reader = VideoReader(path)
    frames = reader.frames(25, 48)
    next(frames)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(RejectedVideo, match="changed while it was read"):
        list(frames)
    assert reader.verdict.status == "rejected"


@pytest.mark.parametrize("harm", ["cut", "remove"])
def test_a_file_that_is_cut_or_removed_while_it_is_read(tmp_path: Path, videos: Any, harm: str) -> None:
    path = videos.write(tmp_path / "a.mkv", 60)
    reader = VideoReader(path)
    frames = reader.frames(25, 48)
    next(frames)
    if harm == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    with pytest.raises(RejectedVideo, match="changed while it was read" if harm == "cut" else "No such file"):
        list(frames)
    assert reader.verdict.status == "rejected"


@pytest.mark.parametrize("error", [MemoryError("x"), IndexError("y"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "z")])
def test_whatever_opening_raises_becomes_a_verdict(
    tmp_path: Path, videos: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = videos.write(tmp_path / "a.mp4", 3)

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("pipeline.video.decode.open_source", fail)
    monkeypatch.setattr("pipeline.video.header.open_source", fail)
    verdict = check_file(path)
    assert verdict.status == "rejected"
    assert verdict.reason.startswith(f"cannot be decoded: {type(error).__name__}")
    with pytest.raises(RejectedVideo, match=type(error).__name__):
        read_header(path)


@pytest.mark.parametrize(
    ("found", "status", "reason"),
    [
        (Findings(num_frames=10, num_packets=10), "ok", ""),
        (Findings(num_frames=10, num_packets=12, codec="vp9"), "ok", ""),  # hidden frames
        (Findings(num_frames=10, num_packets=20, codec="h264", num_frames_interlaced=10), "ok", ""),  # fields
        (Findings(num_frames=9, num_packets=10, num_packets_discarded=1, codec="h264"), "ok", ""),  # edit list
        (
            Findings(
                num_frames=9, num_packets=9, num_frames_stated=12, every_frame_indexed=True, num_frames_edited_out=3
            ),
            "ok",
            "",
        ),
        (
            Findings(num_frames=9, num_packets=10, codec="h264"),
            "damaged",
            "9 frames: 1 packet without a picture: the frames they build on are missing",
        ),
        (
            Findings(num_frames=9, num_packets=9, num_frames_stated=12, every_frame_indexed=True),
            "damaged",
            "9 of 12 frames: 3 frames of the index not in the file",
        ),
        (Findings(num_frames=9, num_packets=9, num_frames_stated=12), "ok", ""),
        (Findings(num_frames=9, seconds_stated=1.0, seconds_read=0.88, median_step_seconds=0.04), "ok", ""),
        (
            Findings(num_frames=22, seconds_stated=1.0, seconds_read=0.87, median_step_seconds=0.04),
            "damaged",
            "22 of about 25 frames: the file ends at 0.87 of 1.00 s",
        ),
        (Findings(num_packets=3), "rejected", "no frame decodes from 3 packets"),
        (
            Findings(num_packets=2, num_packets_failed=2, last_error="bad"),
            "rejected",
            "no frame decodes: 2 of 2 packets fail (bad)",
        ),
        (
            Findings(num_frames=5, num_frames_unbelieved=2),
            "damaged",
            "5 frames: 2 frames left out: time stamps more than an hour ahead",
        ),
    ],
)
def test_judgement(found: Findings, status: str, reason: str) -> None:
    verdict = judge(found)
    assert verdict.status == status
    assert verdict.reason.startswith(reason)
    assert bool(verdict.reason) == bool(reason)
