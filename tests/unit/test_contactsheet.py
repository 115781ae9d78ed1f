import io

import numpy as np
from matplotlib.image import imread

from pipeline.reporting.contactsheet import (
    MAX_BYTES,
    NUM_ROWS,
    TILE_HEIGHT,
    TILE_WIDTH,
    Turned,
    contact_sheet,
    surest,
    tiles,
)


def turned(change: str, sureness: float, seed: int = 0, caption: str = "$a$ é → b") -> Turned:
    pictures = tiles(np.random.default_rng(seed).integers(0, 256, (4, 96, 128, 3)).astype(np.uint8))
    return Turned(change, caption, sureness, pictures, pictures)


def pixels(sheet: bytes) -> np.ndarray:
    return imread(io.BytesIO(sheet), format="jpg")


def test_the_surest_of_each_change_in_turns():
    rows = [*(turned("x", sureness / 20) for sureness in range(20)), turned("y", 0.1), turned("y", 0.3)]
    chosen = surest(rows, 5)
    assert [(one.change, one.sureness) for one in chosen] == [
        ("x", 0.95), ("x", 0.9), ("x", 0.85), ("y", 0.3), ("y", 0.1),
    ]  # fmt: skip
    assert len(surest(rows)) == NUM_ROWS
    assert surest([]) == []


def test_tiles_keep_the_whole_picture():
    for height, width in ((96, 128), (128, 96), (10, 300), (480, 640)):
        found = tiles(np.zeros((2, height, width, 3), np.uint8))
        assert len(found) == 2
        shown = found[0].shape
        assert shown[0] <= TILE_HEIGHT
        assert shown[1] <= TILE_WIDTH
        assert shown[0] == TILE_HEIGHT or shown[1] == TILE_WIDTH
        assert abs(shown[0] / shown[1] - height / width) < 0.05 * height / width + 0.01


def test_a_full_sheet_of_noise_is_1280_pixels_wide_and_below_400_kb():
    sheet = contact_sheet([turned(f"change {n % 3}", n / 20, n, "long " * 60) for n in range(20)], "title")
    assert len(sheet) <= MAX_BYTES == 400_000
    assert pixels(sheet).shape == (46 + NUM_ROWS * (26 + 116 + 5), 1280, 3)


def test_pictures_stand_where_they_belong_before_on_the_left():
    black, red = np.zeros((4, 116, 150, 3), np.uint8), np.zeros((4, 116, 150, 3), np.uint8)
    red[..., 0] = 255
    picture = pixels(contact_sheet([Turned("x", "caption", 1.0, tiles(black), tiles(red))], "title"))
    row = picture[46 + 26 + 58].astype(int)
    assert (row[10:150] < 12).all()
    assert (row[660:790, 0] > 240).all()
    assert (row[660:790, 1:] < 16).all()
    assert (row[1279] > 240).all()


def test_a_sheet_without_rows():
    empty = pixels(contact_sheet([], "title"))
    assert empty.shape[1] == 1280
    assert (empty < 100).any()  # it says so
    assert contact_sheet([], "title") == contact_sheet([], "title")


def test_a_name_in_letters_that_the_font_lacks_stops_nothing():
    assert pixels(contact_sheet([turned("x", 1.0, caption="\u5750\u4e0b → \u7ad9")], "title")).shape[1] == 1280
