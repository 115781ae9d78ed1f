"""Thumbnails: the frames pass unchanged, one from about the middle is kept, whatever the length."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inference.answers import output_name
from pipeline.inference.thumbnails import KEPT, Thumbnail
from pipeline.video.reader import Frame


def frame(number: int, size: tuple[int, int] = (4, 4)) -> Frame:
    """A grey frame; its number is in its times, and in its luma as far as that goes."""
    i420 = np.full((size[1] * 3 // 2, size[0]), 128, np.uint8)
    i420[: size[1]] = 16 + number % 220
    return Frame(number / 10, number / 10, i420)


def picture(folder: Path, path: str) -> np.ndarray:
    found = cv2.imread(str(folder / "thumbnails" / f"{output_name(path)}.jpg"))
    assert found is not None
    return found


@given(st.integers(1, 3000))
def test_the_picture_is_from_about_the_middle(count: int) -> None:
    thumbnail = Thumbnail()
    frames = [frame(number) for number in range(count)]
    assert all(ours is theirs for ours, theirs in zip(thumbnail.watch(frames), frames, strict=True))
    assert thumbnail.time_seconds is not None
    assert abs(10 * thumbnail.time_seconds - (count - 1) / 2) <= max(0.51, count / KEPT)


def test_few_frames_are_held() -> None:
    """Holding every frame until the length is known would take a recording's gigabytes."""
    made = []

    def frames() -> Iterator[Frame]:
        for number in range(500):
            one = frame(number)
            made.append(weakref.ref(one.i420))
            yield one

    num_alive = [sum(one() is not None for one in made) for _ in Thumbnail().watch(frames())]
    assert 3 <= max(num_alive) <= KEPT + 2


@pytest.mark.parametrize(
    ("size", "expected"), [((400, 224), (90, 160)), ((64, 128), (128, 64)), ((224, 400), (160, 90))]
)
def test_the_file_is_small_and_the_same_each_time(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        thumbnail = Thumbnail()
        for _ in thumbnail.watch(frame(number * 30, size) for number in range(3)):
            pass
        thumbnail.write(folder, "clips/x y.mp4")
        found = picture(folder, "clips/x y.mp4")
        assert found.shape == (*expected, 3)
        assert abs(found.mean() - 30 * 255 / 219) < 2  # the frame in the middle, from limited to full range
        files.append(*(folder / "thumbnails").iterdir())
    assert files[0].read_bytes() == files[1].read_bytes()


def test_without_frames_there_is_no_picture(tmp_path: Path) -> None:
    thumbnail = Thumbnail()
    for _ in thumbnail.watch([frame(0)]):
        pass
    thumbnail.write(tmp_path, "a.mp4")
    assert list((tmp_path / "thumbnails").iterdir())
    empty = Thumbnail()
    assert list(empty.watch([])) == []
    empty.write(tmp_path, "a.mp4")
    assert not list((tmp_path / "thumbnails").iterdir())
    Thumbnail().write(tmp_path / "other", "a.mp4")
    assert not (tmp_path / "other").exists()


def test_closing_closes_the_frames_and_errors_pass(tmp_path: Path) -> None:
    ended = []

    def frames() -> Iterator[Frame]:
        try:
            yield frame(0)
            yield frame(1)
            raise ValueError("broken")
        finally:
            ended.append(True)

    watched = Thumbnail().watch(frames())
    next(watched)
    watched.close()
    assert ended == [True]
    with pytest.raises(ValueError, match="broken"):
        list(Thumbnail().watch(frames()))
    assert ended == [True, True]
