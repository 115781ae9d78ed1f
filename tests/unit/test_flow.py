import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from pipeline.video import flow as module
from pipeline.video.flow import (
    BOUND,
    MIDDLE,
    STEPS,
    Method,
    estimator,
    first_flow_step,
    flow_frames,
    flow_image,
    mirror,
    mirror_flow,
)
from pipeline.video.reader import Frame
from pipeline.view import FLOW_FORMAT

METHODS: tuple[Method, ...] = ("dis", "farneback")
SIZE = (96, 128)


def texture(seed: int = 0, height: int = SIZE[0] + 64, width: int = SIZE[1] + 64) -> np.ndarray:
    small = np.random.default_rng(seed).integers(16, 236, (height // 4, width // 4), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def window(x: int, y: int, seed: int = 0) -> np.ndarray:
    """What a camera sees of a texture that has moved by (x, y) pixels, (H, W) uint8."""
    return np.ascontiguousarray(texture(seed)[32 - y : 32 - y + SIZE[0], 32 - x : 32 - x + SIZE[1]])


def frame(luma: np.ndarray, step: int, pts_seconds: float, fps: float = 10.0) -> Frame:
    grey = np.full((luma.shape[0] // 2, luma.shape[1]), 128, np.uint8)
    return Frame(step / fps, pts_seconds, np.concatenate([luma, grey]))


def video(pts: Sequence[float], fps: float = 10.0) -> Iterator[Frame]:
    """A texture that moves by (3, 1) pixels from each picture to the next; frames of one picture have equal pts."""
    pictures = {time: window(3 * k, k) for k, time in enumerate(sorted(set(pts)))}
    return (frame(pictures[time], step, time, fps) for step, time in enumerate(pts))


def inner(displacement: np.ndarray) -> np.ndarray:
    return displacement[16:-16, 16:-16]


# The displacement


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("x", "y"), [(3, 1), (-5, 2), (0, -4)])
def test_a_texture_that_moved_is_found_to_have_moved_so(method: Method, x: int, y: int) -> None:
    found = estimator(method)(window(0, 0), window(x, y))
    assert found.shape == (*SIZE, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(inner(found), np.broadcast_to([x, y], inner(found).shape), atol=0.3)


@pytest.mark.parametrize("method", METHODS)
def test_equal_pictures_have_no_motion_at_all(method: Method) -> None:
    assert not estimator(method)(window(0, 0), window(0, 0)).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 256), (18, 16)])
def test_the_smallest_frames_have_flow_too(method: Method, height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, height, width), np.uint8)
    assert np.isfinite(estimator(method)(first, second)).all()


@pytest.mark.parametrize("method", METHODS)
def test_flow_has_the_same_bits_whatever_ran_before_beside_or_with_other_settings(method: Method) -> None:
    pairs = [(window(0, 0, seed), window(seed % 5, 2, seed)) for seed in range(6)]
    alone = [estimator(method)(*pair) for pair in pairs]
    one = estimator(method)
    assert all(np.array_equal(one(*pair), expected) for pair, expected in zip(pairs, alone, strict=True))
    cv2.setNumThreads(4)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda pair: estimator(method)(*pair), pairs))
    assert cv2.getNumThreads() == 1
    assert all(np.array_equal(found, expected) for found, expected in zip(together, alone, strict=True))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"view.flow is 'brox'; expected dis or farneback"):
        estimator("brox")  # type: ignore[arg-type]


# The image


def test_the_image_holds_x_y_and_magnitude_around_128() -> None:
    bound = BOUND * SIZE[0]
    values = {
        (0, 0): (128, 128, 128),
        (bound, 0): (255, 128, 255),
        (-bound, 0): (1, 128, 255),
        (0, bound / 127): (128, 129, 129),
        (3 * bound / 127, -4 * bound / 127): (131, 124, 133),
        (9 * bound, -9 * bound): (255, 1, 255),
    }
    for motion, expected in values.items():
        image = flow_image(np.broadcast_to(np.array(motion, np.float32), (*SIZE, 2)))
        assert image.dtype == np.uint8
        assert image.shape == (*SIZE, 3)
        assert (image == expected).all(), motion


def test_the_bound_follows_the_shorter_side() -> None:
    for height, width in ((64, 200), (200, 64)):
        image = flow_image(np.broadcast_to(np.array([64 * BOUND, 0.0], np.float32), (height, width, 2)))
        assert (image[..., 0] == 255).all()


def test_a_mirrored_image_has_its_x_turned_round_and_two_mirrors_change_nothing() -> None:
    image = np.random.default_rng(0).integers(1, 256, (2, 6, 8, 3), np.uint8)
    seen = mirror_flow(image)
    assert np.array_equal(seen[..., ::-1, 0].astype(int) - 128, 128 - image[..., 0].astype(int))
    assert np.array_equal(seen[..., ::-1, 1:], image[..., 1:])
    assert np.array_equal(mirror_flow(seen), image)
    assert np.array_equal(mirror(image, is_flow=True), seen)
    assert np.array_equal(mirror(image, is_flow=False), image[:, :, ::-1])


@pytest.mark.parametrize("method", METHODS)
def test_the_flow_of_mirrored_frames_is_the_mirrored_flow(method: Method) -> None:
    pair = (window(0, 0), window(3, 1))
    seen = [np.ascontiguousarray(picture[:, ::-1]) for picture in pair]
    estimate = estimator(method)
    expected, found = mirror_flow(flow_image(estimate(*pair))), flow_image(estimate(*seen))
    assert np.abs(inner(expected).astype(int) - inner(found)).max() <= 2
    assert inner(found)[..., 0].mean() == pytest.approx(128 - 3 * 127 / (BOUND * SIZE[0]), abs=1)


# The stream


@pytest.mark.parametrize("method", METHODS)
def test_flow_begins_with_the_second_picture_and_has_its_times(method: Method) -> None:
    found = list(flow_frames(video([0.0, 0.11, 0.19, 0.3]), method))
    assert [(flow.time_seconds, flow.pts_seconds) for flow in found] == [(0.1, 0.11), (0.2, 0.19), (0.3, 0.3)]
    for flow in found:
        x, y = (inner(flow.image)[..., :2].astype(float) - 128).mean(axis=(0, 1)) / 127 * BOUND * SIZE[0]
        assert (x, y) == (pytest.approx(3, abs=0.3), pytest.approx(1, abs=0.3))


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_shown_again_keeps_its_flow_and_nothing_is_computed(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = module.flow_image
    monkeypatch.setattr(module, "flow_image", lambda displacement: calls.append(1) or original(displacement))
    pts = [0.0, 0.0, 0.0, 0.3, 0.3, 0.5, 0.6, 0.6, 0.6]  # variable rate: three, two, one and three steps
    found = list(flow_frames(video(pts), method))
    assert [flow.time_seconds for flow in found] == [step / 10 for step in range(3, 9)]
    assert [flow.pts_seconds for flow in found] == pts[3:]
    assert len(calls) == 3
    once = list(flow_frames(video([0.0, 0.3, 0.5, 0.6]), method))
    for flow, shown in zip(found, [0, 0, 1, 2, 2, 2], strict=True):
        assert np.array_equal(flow.image, once[shown].image)
    assert found[0].image is found[1].image


@pytest.mark.parametrize("pts", [[], [0.0], [0.0, 0.0, 0.0]])
def test_one_picture_has_no_flow(pts: list[float]) -> None:
    assert list(flow_frames(video(pts), "dis")) == []


def test_flow_comes_frame_by_frame() -> None:
    taken = []

    def watched() -> Iterator[Frame]:
        for item in video([0.0, 0.1, 0.2, 0.3]):
            taken.append(item)
            yield item

    stream = flow_frames(watched(), "dis")
    next(stream)
    assert len(taken) == 2
    next(stream)
    assert len(taken) == 3


def test_only_the_wanted_steps_are_given_and_they_are_the_same() -> None:
    pts = [0.0, 0.0, 0.2, 0.2, 0.4, 0.5]
    everything = list(flow_frames(video(pts), "farneback"))
    found = list(flow_frames(video(pts), "farneback", steps={1, 3}))
    assert [flow.time_seconds for flow in found] == [0.3, 0.5]
    assert all(np.array_equal(flow.image, everything[step].image) for flow, step in zip(found, (1, 3), strict=True))
    assert first_flow_step(np.array(pts)) == len(pts) - len(everything) == 2


def test_flow_images_are_those_of_their_format() -> None:
    """A change of what an image holds is a new FLOW_FORMAT: stored features of the old one must not pass for new."""
    rows, columns = np.mgrid[-3:4:1.0, -9:10:6.0]
    image = flow_image(np.stack([columns, rows], axis=-1).astype(np.float32).repeat(8, 0).repeat(14, 1))
    known = {1: "8084476dc1c81857"}
    assert known[FLOW_FORMAT] == hashlib.sha256(image.tobytes()).hexdigest()[:16]
    assert (BOUND, MIDDLE, STEPS) == (1 / 16, 128, 127)
