"""Changes of a video whose parts are known: a bright square that moves over a picture with a little noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import DataError
from pipeline.video import changes
from pipeline.video.changes import CHANGES, changed, fitted, separate

HEIGHT, WIDTH, SIDE, STEPS = 96, 120, 24, 16
SQUARE = (250, 40, 40)


def moving_square(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, where the square is `(T, H, W)` bool, and the picture without it."""
    rng = np.random.default_rng(seed)
    scene = np.full((HEIGHT, WIDTH, 3), (90, 120, 100), np.uint8)
    scene[:, : WIDTH // 2] = (60, 80, 120)
    frames = np.clip(scene + rng.integers(-3, 4, (STEPS, HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    truth = np.zeros(frames.shape[:3], bool)
    for step in range(STEPS):
        truth[step, 40 : 40 + SIDE, 6 * step : 6 * step + SIDE] = True
    frames[truth] = SQUARE
    return frames, truth, scene


FRAMES, TRUTH, SCENE = moving_square()
LAYERS = separate(FRAMES)
OTHER = np.full((50, 50, 3), (10, 200, 220), np.uint8)


def near_the_square(distance: int) -> np.ndarray:
    """Where the square is no further away than that many pixels."""
    near = TRUTH.copy()
    for shift in range(1, distance + 1):
        for axis in (1, 2):
            near |= np.roll(TRUTH, shift, axis) | np.roll(TRUTH, -shift, axis)
    for step, row in enumerate(near):  # the corners too: squares all of them
        columns, rows = np.flatnonzero(row.any(0)), np.flatnonzero(row.any(1))
        near[step, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return near


FAR = ~near_the_square(14)


def test_foreground_is_the_square_and_a_rim():
    assert (LAYERS.alpha[TRUTH] == 255).mean() > 0.99
    assert LAYERS.alpha[FAR].max() == 0
    assert LAYERS.problem == ""
    assert TRUTH.mean() < LAYERS.foreground_share < 3 * TRUTH.mean()


def test_background_is_the_picture_without_the_square():
    """To the noise, but for the edge in it where the square often passes: there it is filled in from around."""
    difference = np.abs(LAYERS.background.astype(int) - SCENE)
    often = (LAYERS.alpha > 127).mean(axis=0) > changes.OFTEN
    assert 0.1 < often.mean() < 0.5
    assert difference[~often].max() <= 4
    assert difference[often].mean() <= 2


def test_what_stands_in_two_places_is_in_the_background_of_neither():
    """The median of such a video shows it in one of them; without filling in, it would be there to the pixel."""
    frames = np.repeat(FRAMES[[0, 15]], [9, 7], axis=0)
    assert (np.median(frames, axis=0)[TRUTH[0]] == SQUARE).all()
    background = separate(frames).background
    for place in (TRUTH[0], TRUTH[15]):
        assert np.abs(background[place].astype(int) - SCENE[place]).mean() < 5


def test_what_hardly_ever_moves_is_background():
    frames = np.repeat(FRAMES[[0, 15]], [1, 15], axis=0)
    assert (separate(frames).background[TRUTH[15]] == SQUARE).all()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_shape_and_type_and_what_it_was_given(name):
    before, background, alpha = FRAMES.copy(), LAYERS.background.copy(), LAYERS.alpha.copy()
    first, second = (changed(name, FRAMES, LAYERS, OTHER) for _ in range(2))
    assert (first.shape, first.dtype) == (FRAMES.shape, np.uint8)
    assert np.array_equal(first, second)
    assert np.array_equal(FRAMES, before)
    assert np.array_equal(LAYERS.background, background)
    assert np.array_equal(LAYERS.alpha, alpha)
    assert not np.array_equal(first, FRAMES)


@pytest.mark.parametrize("name", ["background_blurred", "background_replaced", "background_median"])
def test_the_square_stays_when_its_background_is_changed(name):
    inside = LAYERS.alpha == 255
    assert np.array_equal(changed(name, FRAMES, LAYERS, OTHER)[inside], FRAMES[inside])


def test_background_replaced():
    assert (changed("background_replaced", FRAMES, LAYERS, OTHER)[FAR] == (10, 200, 220)).all()


def test_background_median():
    colours = np.unique(changed("background_median", FRAMES, LAYERS)[FAR], axis=0)
    assert len(colours) == 1
    assert ((colours[0] >= (56, 76, 96)) & (colours[0] <= (94, 124, 124))).all()


def test_background_blurred_loses_edges_and_knows_nothing_of_the_square():
    shown = changed("background_blurred", FRAMES, LAYERS)
    edge = np.abs(np.diff(shown[:, 5, 58:62].astype(int), axis=1)).max()
    assert np.abs(np.diff(FRAMES[:, 5, 58:62].astype(int), axis=1)).max() >= 30
    assert edge <= 5
    assert shown[FAR][:, 0].max() <= 95  # red is the square's


def test_person_removed():
    shown = changed("person_removed", FRAMES, LAYERS)
    assert np.array_equal(shown, np.broadcast_to(LAYERS.background, FRAMES.shape))
    assert shown[..., 0].max() <= 95  # red is the square's


def test_order_and_sides():
    assert (changed("frozen", FRAMES, LAYERS) == FRAMES[0]).all()
    assert np.array_equal(changed("mirrored", FRAMES, LAYERS)[:, :, 0], FRAMES[:, :, -1])
    dropped = changed("dropped", FRAMES[:5], LAYERS)
    assert np.array_equal(dropped, FRAMES[[0, 0, 2, 2, 4]])


def test_light():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, None, :, None], (2, 1, 256, 3))
    for name, factor in (("brighter", 1.3), ("darker", 0.7)):
        expected = np.clip(np.floor(np.arange(256) * factor + 0.5), 0, 255)
        assert np.array_equal(changed(name, ramp, LAYERS)[1, 0, :, 2], expected)


def test_nothing_moves():
    still = np.repeat(FRAMES[:1], 8, axis=0)
    assert separate(still).problem == "nothing moves"
    assert separate(FRAMES[:1]).problem == "nothing moves"
    assert np.array_equal(separate(still).background, still[0])
    noisy = np.random.default_rng(1).normal(120, 4, (8, 96, 96, 3)).clip(0, 255).astype(np.uint8)
    assert separate(noisy).problem == "nothing moves"


def test_everything_moves():
    stripes = (np.arange(64)[None, None, :, None] * 37 + np.arange(12)[:, None, None, None] * 91) % 256
    moving = np.broadcast_to(stripes, (12, 64, 64, 3)).astype(np.uint8)
    assert separate(moving).problem == "nearly everything moves"


@pytest.mark.parametrize(("size", "wanted"), [((50, 50), (96, 120)), ((200, 90), (96, 120)), ((96, 120), (96, 120))])
def test_a_borrowed_background_covers_the_frame(size, wanted):
    picture = np.zeros((*size, 3), np.uint8)
    picture[size[0] // 2 - 2 : size[0] // 2 + 2, size[1] // 2 - 2 : size[1] // 2 + 2] = 255
    found = fitted(picture, *wanted)
    assert found.shape == (*wanted, 3)
    rows, columns = np.nonzero(found[..., 0] > 100)
    assert abs(rows.mean() - (wanted[0] - 1) / 2) < 2
    assert abs(columns.mean() - (wanted[1] - 1) / 2) < 2


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(2, 20), st.integers(2, 20), st.just(3))),
    st.sampled_from(CHANGES),
)
def test_any_video_can_be_changed(frames, name):
    layers = separate(frames)
    assert layers.alpha.shape == frames.shape[:3]
    shown = changed(name, frames, layers, OTHER)
    assert (shown.shape, shown.dtype) == (frames.shape, np.uint8)


def test_what_is_refused():
    with pytest.raises(DataError, match=r"frames of shape \(0, 4, 4, 3\) uint8; expected \(T, H, W, 3\) uint8"):
        separate(np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="float32; expected"):
        separate(np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="needs another video's background; got none"):
        changed("background_replaced", FRAMES, LAYERS)


def test_the_list_of_changes_is_the_documented_one():
    documented = (
        "background_blurred, background_replaced, background_median, person_removed, frozen, mirrored, dropped, "
        "brighter, darker"
    )
    assert ", ".join(CHANGES) == documented
