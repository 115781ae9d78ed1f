"""Good files: the right frame at every grid time, upright, in the right colours."""

import dataclasses
import gc
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.errors import RejectedVideo
from pipeline.video.convert import Converter
from pipeline.video.reader import Frame, Verdict, VideoReader, check_file, i420_to_rgb, missing_codecs, read_header


def read(path: Path, fps: float = 25, short_side: int = 48) -> tuple[list[Frame], Verdict]:
    reader = VideoReader(path)
    return list(reader.frames(fps, short_side)), reader.verdict


def shown_at(pts: Sequence[float], time: float) -> int:
    """Number of the last frame at or before a time, counted from the first frame shown."""
    return max(number for number, stamp in enumerate(pts) if stamp - pts[0] <= time + 1e-6)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("fps", [4, 12.5, 25, 60])
def test_every_grid_time_shows_the_right_frame_at_a_variable_rate(
    tmp_path: Path, videos: Any, suffix: str, fps: float
) -> None:
    steps = [0.04, 0.04, 0.2, 0.1, 0.033, 0.5, 0.02, 0.04] * 5
    pts = [round(time, 3) for time in itertools.accumulate(steps, initial=0.0)]
    frames, verdict = read(videos.write(tmp_path / f"a{suffix}", len(pts), pts_seconds=pts), fps)
    assert [frame.time_seconds for frame in frames] == [k / fps for k in range(len(frames))]
    expected = [shown_at(pts, frame.time_seconds) for frame in frames]
    assert [videos.number_of(frame.i420) for frame in frames] == expected
    assert [frame.pts_seconds for frame in frames] == pytest.approx([pts[number] for number in expected], abs=1e-9)
    assert pts[-1] < frames[-1].time_seconds + 1 / fps <= pts[-1] + 0.6
    assert (verdict.status, verdict.num_frames) == ("ok", len(pts))
    assert verdict.duration_seconds == pytest.approx(pts[-1])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_b_frames_come_in_the_order_they_are_shown(tmp_path: Path, videos: Any, suffix: str) -> None:
    path = videos.write(
        tmp_path / f"a{suffix}", 60, options={"bf": "4", "g": "24", "qp": "4", "x264-params": "open-gop=1"}
    )
    frames, verdict = read(path, fps=10)
    assert [videos.number_of(frame.i420) for frame in frames] == [5 * k // 2 for k in range(24)]
    assert verdict.status == "ok"
    assert verdict.notes == ()


def test_time_zero_is_the_first_frame_shown(tmp_path: Path, videos: Any) -> None:
    pts = [1000 + number / 25 for number in range(30)]
    frames, verdict = read(videos.write(tmp_path / "a.mkv", pts_seconds=pts), fps=25)
    assert [videos.number_of(frame.i420) for frame in frames] == list(range(30))
    assert frames[0].time_seconds == frames[0].pts_seconds == 0.0
    assert verdict.first_pts_seconds == 1000.0
    assert verdict.duration_seconds == pytest.approx(29 / 25)
    assert verdict.status == "ok"


def test_the_last_frame_lasts_its_own_duration(tmp_path: Path, videos: Any) -> None:
    frames, _ = read(videos.write(tmp_path / "a.mp4", 5, fps=10), fps=100)
    assert len(frames) == 50
    assert [videos.number_of(frame.i420) for frame in frames[-11:]] == [3] + [4] * 10


def test_one_frame_is_a_video(tmp_path: Path, videos: Any) -> None:
    frames, verdict = read(videos.write(tmp_path / "a.mp4", 1, fps=25), fps=8)
    assert [frame.time_seconds for frame in frames] == [0.0]
    assert (verdict.status, verdict.num_frames, verdict.duration_seconds) == ("ok", 1, 0.0)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("size", [(96, 48), (48, 80)])
def test_turned_videos_come_upright(tmp_path: Path, videos: Any, degrees: int, size: tuple[int, int]) -> None:
    path = videos.write(tmp_path / "a.mp4", 8, size=size, rotation_degrees=degrees)
    frames, verdict = read(path)
    assert [videos.number_of(frame.i420) for frame in frames] == list(range(8))
    rgb = i420_to_rgb(frames[0].i420).astype(int)
    assert rgb.shape == (size[1], size[0], 3)
    left, right = rgb[-8:, :8].mean(axis=(0, 1)), rgb[-8:, -8:].mean(axis=(0, 1))
    assert left == pytest.approx((200, 40, 40), abs=4)
    assert right == pytest.approx((40, 40, 200), abs=4)
    assert (verdict.rotation_degrees, verdict.width, verdict.height) == (degrees, *size)
    header = read_header(path)
    assert (header.rotation_degrees, header.width, header.height) == (degrees, *size)


@pytest.mark.parametrize(
    ("matrix", "undo", "degrees"),
    [
        ((-1, 0, 0, 1), np.fliplr, 180),
        ((1, 0, 0, -1), np.flipud, 0),
        ((0, 1, 1, 0), lambda picture: np.swapaxes(picture, 0, 1), 90),
        ((0, -1, -1, 0), lambda picture: np.rot90(np.swapaxes(picture, 0, 1), 2), 270),
    ],
)
def test_mirrored_videos_come_unmirrored(
    tmp_path: Path, videos: Any, matrix: tuple[int, int, int, int], undo: Any, degrees: int
) -> None:
    a, b, c, d = (65536 * entry for entry in matrix)
    upright = videos.draw(0x1234, 64, 48)  # each of these four turns is its own inverse
    path = videos.write(
        tmp_path / "a.mp4",
        pictures=[np.ascontiguousarray(undo(upright))] * 2,
        display_matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30],
    )
    frames, verdict = read(path)
    assert videos.number_of(frames[0].i420) == 0x1234
    assert i420_to_rgb(frames[0].i420)[-8:, :8].mean(axis=(0, 1)) == pytest.approx((200, 40, 40), abs=4)
    assert verdict.rotation_degrees == degrees
    assert verdict.notes == ("display matrix mirrors the picture",)


def test_a_slanted_matrix_is_noted_and_left_alone(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mp4", 2, display_matrix=[46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30])
    frames, verdict = read(path)
    assert videos.number_of(frames[1].i420) == 1
    assert (verdict.status, verdict.rotation_degrees) == ("ok", 0)
    assert verdict.notes == ("display matrix is no quarter turn: not applied",)


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [
        ("libx264", "yuv420p10le"),
        ("libx264", "yuv422p"),
        ("libx264", "yuv444p"),
        ("libx264rgb", "rgb24"),
        ("ffv1", "yuv444p16le"),
        ("ffv1", "yuva420p"),
        ("ffv1", "bgra"),
        ("ffv1", "gbrp16le"),
        ("mjpeg", "yuvj420p"),
        ("libvpx-vp9", "yuv420p"),
    ],
)
def test_every_pixel_format_gives_the_same_colours(tmp_path: Path, videos: Any, codec: str, pixel_format: str) -> None:
    options = {"libx264": {"qp": "4"}, "libx264rgb": {"qp": "0"}, "libvpx-vp9": {"lossless": "1"}, "mjpeg": {"q": "2"}}
    path = videos.write(tmp_path / "a.mkv", 6, codec=codec, pixel_format=pixel_format, options=options.get(codec))
    frames, verdict = read(path)
    assert [videos.number_of(frame.i420) for frame in frames] == list(range(6))
    rgb = i420_to_rgb(frames[0].i420)
    assert rgb[-8:, :24].mean(axis=(0, 1)) == pytest.approx((200, 40, 40), abs=6)
    assert rgb[-8:, -24:].mean(axis=(0, 1)) == pytest.approx((40, 40, 200), abs=6)
    assert verdict.status == "ok"


def test_grey_stays_grey(tmp_path: Path, videos: Any) -> None:
    pictures = [np.full((48, 64, 3), level, np.uint8) for level in (0, 128, 255)]
    for codec, pixel_format in (("ffv1", "gray"), ("ffv1", "gray16le"), ("libx264", "gray")):
        frames, _ = read(
            videos.write(
                tmp_path / "a.mkv", pictures=pictures, codec=codec, pixel_format=pixel_format, options={"qp": "1"}
            )
        )
        for frame, level in zip(frames, (0, 128, 255), strict=True):
            assert i420_to_rgb(frame.i420).mean(axis=(0, 1)) == pytest.approx((level,) * 3, abs=3), pixel_format


@pytest.mark.parametrize(("colorspace", "full_range"), [(1, False), (9, False), (None, True), (1, True)])
def test_the_stated_colour_matrix_and_range_are_undone(
    tmp_path: Path, videos: Any, colorspace: int | None, full_range: bool
) -> None:
    path = videos.write(tmp_path / "a.mkv", 2, colorspace=colorspace, full_range=full_range, options={"qp": "1"})
    frames, _ = read(path)
    rgb = i420_to_rgb(frames[0].i420)
    assert rgb[-8:, :24].mean(axis=(0, 1)) == pytest.approx((200, 40, 40), abs=6)
    assert rgb[-8:, -24:].mean(axis=(0, 1)) == pytest.approx((40, 40, 200), abs=6)
    assert rgb[2:10, 2:-2].mean(axis=(0, 1)) == pytest.approx((0, 0, 0), abs=4)


@pytest.mark.parametrize("colorspace", [8, 10, 14])
def test_a_colour_matrix_that_cannot_be_read_does_not_lose_the_video(
    tmp_path: Path, videos: Any, colorspace: int
) -> None:
    path = videos.write(tmp_path / "a.mkv", 4, pixel_format="yuv444p", colorspace=colorspace)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).colorspace == colorspace
    frames, verdict = read(path)
    assert [videos.number_of(frame.i420) for frame in frames] == list(range(4))
    assert verdict.status == "ok"


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (32, 32)), ((16, 4096), (32, 512)), ((4096, 16), (512, 32)), ((161, 121), (42, 32)), ((2, 3), (32, 48))],
)
def test_odd_and_extreme_sizes(tmp_path: Path, videos: Any, size: tuple[int, int], expected: tuple[int, int]) -> None:
    pictures = [np.full((size[1], size[0], 3), 128, np.uint8)] * 2
    path = videos.write(tmp_path / "a.mkv", pictures=pictures, codec="ffv1", pixel_format="yuv444p")
    frames, verdict = read(path, short_side=32)
    assert [frame.i420.shape for frame in frames] == [(expected[1] * 3 // 2, expected[0])] * 2
    assert i420_to_rgb(frames[0].i420).mean() == pytest.approx(128, abs=2)
    assert (verdict.width, verdict.height) == size


def test_resizing_averages_areas(tmp_path: Path, videos: Any) -> None:
    board = np.where(np.indices((96, 128)).sum(axis=0) % 2, 255, 0).astype(np.uint8)
    path = videos.write(tmp_path / "a.mkv", pictures=[np.dstack([board] * 3)], codec="ffv1", pixel_format="gray")
    frames, _ = read(path, short_side=48)
    luma = frames[0].i420[:48]
    assert luma.min() >= 125  # 126 is the middle of 16 to 235
    assert luma.max() <= 127


def test_a_size_change_on_the_way_is_scaled_to_the_first_size(tmp_path: Path, videos: Any) -> None:
    parts = [
        videos.write(tmp_path / f"{width}.h264", 10, size=(width, height), options={"bf": "0", "qp": "4"}).read_bytes()
        for width, height in ((64, 48), (128, 64))
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(parts))
    frames, verdict = read(path, fps=25)
    assert {frame.i420.shape for frame in frames} == {(72, 64)}
    assert [videos.number_of(frame.i420) for frame in frames] == [*range(10), *range(10)]
    assert verdict.status == "ok"
    assert "picture size changes on the way (64x48, 128x64): all are scaled to the first" in verdict.notes


def test_the_largest_of_two_streams_is_read(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mkv", 10, second_stream=(32, 32))
    frames, verdict = read(path)
    assert [videos.number_of(frame.i420) for frame in frames] == list(range(10))
    assert verdict.notes == ("2 video streams (32x32, 64x48): the largest is read",)


def test_without_time_stamps_the_rate_counts(tmp_path: Path, videos: Any) -> None:
    frames, verdict = read(videos.write(tmp_path / "a.h264", 30, fps=30), fps=15)
    assert [videos.number_of(frame.i420) for frame in frames] == list(range(0, 30, 2))
    assert [frame.pts_seconds for frame in frames] == pytest.approx([number / 30 for number in range(0, 30, 2)])
    assert verdict.status == "ok"
    assert verdict.first_pts_seconds is None
    assert verdict.notes == ("30 frames without a time stamp: timed by the frame rate",)


def test_a_sound_track_and_foreign_metadata_do_no_harm(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mp4", 25, audio=True)
    assert read_header(path).has_audio
    data = path.read_bytes()
    assert data.count(b"Lavf") == 1
    path.write_bytes(data.replace(b"Lavf", b"L\xe4v\xff"))  # Latin-1 in the name of the muxer
    frames, verdict = read(path)
    assert len(frames) == 25
    assert (verdict.status, verdict.notes) == ("ok", ())


def test_header(tmp_path: Path, videos: Any) -> None:
    header = read_header(videos.write(tmp_path / "a.mp4", 50, size=(64, 48)))
    assert dataclasses.asdict(header) == {
        "codec": "h264",
        "pixel_format": "yuv420p",
        "width": 64,
        "height": 48,
        "rotation_degrees": 0,
        "fps_header": 25.0,
        "duration_seconds_header": 2.0,
        "num_frames_header": 50,
        "has_audio": False,
        "bit_rate": header.bit_rate,
    }
    assert header.bit_rate > 0


def test_checking_and_reading_give_one_verdict(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mp4", 20, rotation_degrees=90)
    _, verdict = read(path, fps=3)
    assert verdict == check_file(path)
    assert json.loads(json.dumps(dataclasses.asdict(verdict))) == {
        "status": "ok",
        "reason": "",
        "notes": [],
        "num_frames": 20,
        "width": 64,
        "height": 48,
        "rotation_degrees": 90,
        "first_pts_seconds": 0.0,
        "duration_seconds": 0.76,
        "codec": "h264",
        "pixel_format": "yuv420p",
        "is_transient": False,
    }


def test_reading_twice_gives_the_same_bytes(tmp_path: Path, videos: Any) -> None:
    reader = VideoReader(videos.write(tmp_path / "a.mp4", 20, size=(80, 60)))
    first, again = list(reader.frames(10, 32)), list(reader.frames(10, 32))
    assert [frame[:2] for frame in first] == [frame[:2] for frame in again]
    assert all(np.array_equal(one.i420, other.i420) for one, other in zip(first, again, strict=True))


def test_only_frames_on_the_grid_are_converted(tmp_path: Path, videos: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    convert = Converter.convert
    monkeypatch.setattr(Converter, "convert", lambda self, frame: converted.append(frame.pts) or convert(self, frame))
    path = videos.write(tmp_path / "a.mp4", 50)
    assert len(read(path, fps=5)[0]) == 10
    assert len(converted) == 10
    converted.clear()
    check_file(path)
    assert converted == []


@pytest.mark.slow
def test_at_most_two_decoded_pictures_are_alive(tmp_path: Path, videos: Any) -> None:
    path = videos.write(tmp_path / "a.mp4", 40, size=(96, 72), options={"bf": "8", "qp": "4"})
    gc.collect()
    kept = [frame.i420 for frame in VideoReader(path).frames(25, 48)]
    assert len(kept) == 40
    counts = []
    gc.freeze()  # what was there before is not searched
    try:
        for _ in VideoReader(path).frames(25, 48):
            alive = [thing for thing in gc.get_objects() if type(thing) is av.VideoFrame and thing.width == 96]
            counts.append(len(alive))
            del alive
    finally:
        gc.unfreeze()
    # At the end the decoder hands out all it still holds in one list.
    assert max(counts[:20]) == 2


def test_the_verdict_comes_after_the_frames(tmp_path: Path, videos: Any) -> None:
    reader = VideoReader(videos.write(tmp_path / "a.mp4", 10))
    frames = reader.frames(25, 48)
    next(frames)
    with pytest.raises(RuntimeError, match="known when all its frames have been read"):
        _ = reader.verdict
    list(frames)
    assert reader.verdict.status == "ok"


def test_wrong_arguments_are_refused_before_the_file_is_opened(tmp_path: Path) -> None:
    reader = VideoReader(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="short_side is 47; expected an even number"):
        reader.frames(25, 47)
    with pytest.raises(ValueError, match="fps is 0; expected a rate above 0"):
        reader.frames(0, 48)


def test_pictures_that_cannot_be_converted_reject_the_file(
    tmp_path: Path, videos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Converter, frame: av.VideoFrame) -> None:
        raise MemoryError("no room\nfor it")

    monkeypatch.setattr(Converter, "convert", fail)
    reader = VideoReader(videos.write(tmp_path / "a.mp4", 10))
    reason = r"^frame at 0\.000 s \(64x48 yuv420p\) cannot be converted: MemoryError: no room for it$"
    with pytest.raises(RejectedVideo, match=reason):
        list(reader.frames(25, 48))
    assert reader.verdict.status == "rejected"


def test_known_colours() -> None:
    def solid(y: int, u: int, v: int) -> list[int]:
        i420 = np.concatenate([np.full((2, 2), y), np.array([[u, v]])]).astype(np.uint8)
        rgb = i420_to_rgb(i420)
        assert rgb.shape == (2, 2, 3)
        assert rgb.dtype == np.uint8
        return rgb[0, 0].tolist()

    assert solid(16, 128, 128) == [0, 0, 0]
    assert solid(235, 128, 128) == [255, 255, 255]
    assert solid(126, 128, 128) == [128, 128, 128]
    assert solid(81, 90, 240) == pytest.approx([254, 0, 0], abs=1)  # BT.601 red
    assert solid(41, 240, 110) == pytest.approx([0, 0, 255], abs=1)


def test_no_codec_is_missing() -> None:
    assert missing_codecs() == []


def test_without_the_matrix_the_angle_counts(tmp_path: Path, videos: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unable:
        def reformat(self, *args: object, **kwargs: object) -> None:
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr("pipeline.video.orientation.VideoReformatter", Unable)
    for degrees in (0, 90, 180, 270):
        frames, verdict = read(videos.write(tmp_path / f"{degrees}.mp4", 2, rotation_degrees=degrees))
        assert videos.number_of(frames[1].i420) == 1
        assert verdict.rotation_degrees == degrees


def test_a_video_ends_when_its_last_frame_is_over() -> None:
    end, latest = Verdict("ok", num_frames=30, duration_seconds=2.9).end_seconds or (0, 0)
    assert (end, latest) == pytest.approx((3.0, 3.3))  # headers may be three frames late
    end, latest = Verdict("ok", num_frames=101, duration_seconds=1.0).end_seconds or (0, 0)
    assert (end, latest) == pytest.approx((1.01, 1.11))
    assert Verdict("ok", num_frames=1, duration_seconds=0.0).end_seconds is None
    assert Verdict.rejected("no frames").end_seconds is None
