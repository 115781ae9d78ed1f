import numpy as np
import pytest

from pipeline.features.crop import crop_of_frame, crop_to_rgb
from pipeline.video.changes import Picture
from pipeline.video.flow import FlowFrame
from pipeline.video.reader import Frame, i420_to_rgb

HEIGHT, WIDTH, CROP = 20, 28, 8
# First row and column of the centre and the corners.
PLACES = [(6, 10), (0, 0), (0, 20), (12, 0), (12, 20)]


def ten(frame: Frame | Picture | FlowFrame, crop: int = CROP) -> np.ndarray:
    out = np.zeros((10, crop, crop, 3), np.uint8)
    for number in range(10):
        crop_of_frame(frame, crop, number, out[number])
    return out


def test_ten_crops_are_centre_and_corners_and_then_the_five_in_a_mirror() -> None:
    i420 = np.random.default_rng(0).integers(0, 256, (HEIGHT * 3 // 2, WIDTH), np.uint8)
    rgb = i420_to_rgb(i420)
    found = ten(Frame(0.0, 0.0, i420))
    for number, (top, left) in enumerate(PLACES):
        square = rgb[top : top + CROP, left : left + CROP]
        assert np.array_equal(found[number], square), number
        assert np.array_equal(found[number + 5], square[:, ::-1]), number
    assert np.array_equal(ten(Picture(0.0, 0.0, rgb)), found)  # a frame that the probe left unchanged


def test_corners_show_their_corner_of_a_frame_painted_by_hand() -> None:
    luma = np.full((HEIGHT, WIDTH), 16, np.uint8)  # black
    luma[:CROP, :CROP] = 60
    luma[:CROP, -CROP:] = 100
    luma[-CROP:, :CROP] = 140
    luma[-CROP:, -CROP:] = 180
    luma[6:14, 10:18] = 235  # white
    grey = np.full((HEIGHT // 2, WIDTH), 128, np.uint8)
    found = ten(Frame(0.0, 0.0, np.concatenate([luma, grey])))
    levels = [int(crop[0, 0, 0]) for crop in found]
    assert all((crop == level).all() for crop, level in zip(found, levels, strict=True))
    assert levels == [255, 51, 98, 144, 191] * 2


def test_mirrored_crops_of_flow_have_their_x_turned_round() -> None:
    image = np.random.default_rng(0).integers(1, 256, (HEIGHT, WIDTH, 3), np.uint8)
    found = ten(FlowFrame(0.0, 0.0, image)).astype(int)
    for number, (top, left) in enumerate(PLACES):
        square = image[top : top + CROP, left : left + CROP].astype(int)
        assert np.array_equal(found[number], square)
        assert np.array_equal(found[number + 5][..., 0], 256 - square[:, ::-1, 0])
        assert np.array_equal(found[number + 5][..., 1:], square[:, ::-1, 1:])


@pytest.mark.parametrize("crop", [16, 17, 19, 20])
def test_every_place_fits_and_begins_at_even_pixels(crop: int) -> None:
    i420 = np.random.default_rng(crop).integers(0, 256, (HEIGHT * 3 // 2, WIDTH), np.uint8)
    rgb = i420_to_rgb(i420)
    for place in range(5):
        out = np.zeros((crop, crop, 3), np.uint8)
        crop_to_rgb(i420, crop, out, place)
        top = (0 if place in (1, 2) else (HEIGHT - crop) // 2 * 2) if place else (HEIGHT - crop) // 2 // 2 * 2
        left = (0 if place in (1, 3) else (WIDTH - crop) // 2 * 2) if place else (WIDTH - crop) // 2 // 2 * 2
        assert np.array_equal(out, rgb[top : top + crop, left : left + crop])
