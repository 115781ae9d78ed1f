"""What an overlay shows: drawn where it must be, and nowhere else; whatever the size and the text."""

import numpy as np
import pytest

from pipeline.inference.answers import Segment
from pipeline.inference.drawing import GREY, OverlayState, Timeline, colour_of, draw_overlay

CLASSES = ("fall", "sit_down", "走路")
SEGMENTS = (Segment(1.0, 3.0, "fall", 0.95), Segment(5.0, 8.0, "sit_down", 0.4))
TIMELINE = Timeline(SEGMENTS, 0.0, 10.0, CLASSES, threshold=0.8)
MIDDLE_GREY = 120


def drawn(
    time_seconds: float = 0.0,
    label: str = "",
    score: float | None = None,
    *,
    size: tuple[int, int] = (320, 240),
    timeline: Timeline = TIMELINE,
) -> np.ndarray:
    """A grey picture, `(height, width, 3) uint8`, drawn over."""
    rgb = np.full((size[1], size[0], 3), MIDDLE_GREY, np.uint8)
    draw_overlay(rgb, OverlayState(timeline, time_seconds, label, score))
    return rgb


def changed_rows_and_columns(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    changed = (rgb != MIDDLE_GREY).any(axis=2)
    return np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))


@pytest.mark.parametrize(("width", "height"), [(96, 72), (320, 240), (1920, 1080), (96, 160)])
def test_only_a_corner_and_the_lower_edge_change(width: int, height: int) -> None:
    rgb = drawn(2.0, "fall", 0.95, size=(width, height))
    rows, columns = changed_rows_and_columns(rgb[: height // 2])
    assert rows.min() > 0
    assert columns.min() > 0
    assert rows.max() < 0.4 * height
    assert columns.max() < width - 1
    rows, _ = changed_rows_and_columns(rgb[height // 2 :])
    np.testing.assert_array_equal(rows, np.arange(rows.min(), height - height // 2))  # one strip, down to the edge
    assert 5 <= len(rows) <= max(7, 0.05 * height)


def test_without_a_label_there_is_the_strip_alone() -> None:
    rows, _ = changed_rows_and_columns(drawn(4.0))
    assert rows.min() > 220


def test_the_strip_shows_each_segment_in_its_place_and_colour() -> None:
    strip = drawn(9.9)[-6:]
    fall, sit_down = (colour_of(name, CLASSES) for name in ("fall", "sit_down"))
    for row, colour, first, end in ((1, fall, 32, 96), (5, fall, 32, 96), (5, sit_down, 160, 256)):
        np.testing.assert_array_equal(np.flatnonzero((strip[row] == colour).all(axis=1)), np.arange(first, end))
    assert not (strip[1] == sit_down).all(axis=1).any()  # not sure: half as high


def test_the_playhead_moves_and_nothing_else_does() -> None:
    before, after = drawn(4.0), drawn(9.0)
    columns = np.flatnonzero((before != after).any(axis=(0, 2)))
    near = [min(abs(column - place) for place in (128, 288)) for column in columns]
    assert max(near) <= 4
    assert (before[-4:, 127:131] == 255).all(axis=(0, 2)).sum() == 2
    assert (after[-4:, 286:290] == 255).all(axis=(0, 2)).sum() == 2


def bar_of(rgb: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many columns of the upper half are wholly of a colour in some row: the length of the bar."""
    return int((rgb[: len(rgb) // 2] == colour).all(axis=2).sum(axis=1).max())


def test_the_bar_is_as_long_as_the_probability_and_grey_when_it_is_not_sure() -> None:
    sure, unsure = drawn(2.0, "fall", 0.9), drawn(2.0, "fall", 0.45)
    long, short = bar_of(sure, colour_of("fall", CLASSES)), bar_of(unsure, GREY)
    assert bar_of(sure, GREY) < 5  # letters have grey edges
    assert bar_of(unsure, colour_of("fall", CLASSES)) == 0
    assert long == pytest.approx(2 * short, abs=3)
    other = drawn(2.0, "走路", 0.9)  # the bar's full length does not depend on the label
    assert bar_of(other, colour_of("走路", CLASSES)) == long
    never = Timeline(SEGMENTS, 0.0, 10.0, CLASSES, threshold=None)
    assert bar_of(drawn(2.0, "fall", 1.0, timeline=never), GREY) > long


def test_the_same_text_is_drawn_the_same_and_another_one_differently() -> None:
    np.testing.assert_array_equal(drawn(2.0, "fall", 0.9), drawn(2.0, "fall", 0.9))
    assert (drawn(2.0, "fall", 0.9) != drawn(2.0, "fail", 0.9)).any()
    assert (drawn(2.0, "fall", 0.9) != drawn(2.0, "fall", 0.91)).any()


@pytest.mark.parametrize(
    "text", ["", " ", "a\udce9b", "a\nb\x00c", "走路", "😀", "مرحبا", "\u200d\ue000", "long " * 60]
)
@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (16, 16), (95, 55)])
def test_any_text_fits_into_any_picture(text: str, size: tuple[int, int]) -> None:
    """Handed to OpenCV 5 as it is, the first name with half a surrogate pair ends the process."""
    rgb = drawn(2.0, text, 0.5, size=size)
    if text.startswith("long") and size == (95, 55):
        assert changed_rows_and_columns(rgb[:40])[1].max() < 94


def test_a_timeline_tells_the_segment_of_a_time() -> None:
    assert [TIMELINE.at(time) for time in (0.0, 1.0, 2.999, 3.0, 7.0, 8.0)] == [
        None, SEGMENTS[0], SEGMENTS[0], None, SEGMENTS[1], None,
    ]  # fmt: skip


def test_colours_of_many_classes_differ() -> None:
    names = [str(number) for number in range(24)]
    assert len({colour_of(name, names) for name in names}) == 24
    assert colour_of("another", names) == GREY


def test_a_strip_may_show_a_part_of_the_time_only() -> None:
    rolling = Timeline(SEGMENTS, 4.0, 6.0, CLASSES, threshold=0.1)
    strip = drawn(6.0, timeline=rolling)[-3]
    found = np.flatnonzero((strip == colour_of("sit_down", CLASSES)).all(axis=1))
    assert found.min() == 160
    assert not (strip == colour_of("fall", CLASSES)).all(axis=1).any()
