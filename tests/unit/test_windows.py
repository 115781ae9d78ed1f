import threading
from collections import Counter
from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np
import pytest

from pipeline.training.windows import Footage, FrameMemory, Window, random_windows, read_batches
from pipeline.video.flow import mirror

HEIGHT, WIDTH, CROP = 12, 15, 8
mirror_colour = partial(mirror, is_flow=False)


def numbered(steps: int, class_index: int = 0) -> Footage:
    """Frames that say of each pixel its timestep, row and column."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    frames = [np.dstack([np.full_like(rows, step), rows, columns]) for step in range(steps)]
    return Footage(steps, HEIGHT, WIDTH, class_index, lambda start, stop: iter(frames[start:stop]))


def test_all_frames_of_a_window_are_seen_through_one_square() -> None:
    footage = [numbered(20) for _ in range(300)]
    windows = random_windows(footage, clip_frames=6, crop=CROP, flip=True, rng=np.random.default_rng(0))
    assert Counter(id(window.footage) for window in windows) == Counter(id(stretch) for stretch in footage)
    assert [id(window.footage) for window in windows] != [id(stretch) for stretch in footage]
    for window in windows:
        pixels = window.read(CROP, mirror_colour)
        assert pixels.shape == (6, CROP, CROP, 3)
        assert pixels[:, 0, 0, 0].tolist() == list(range(window.start, window.start + 6))
        columns = range(window.left, window.left + CROP)
        expected = columns[::-1] if window.is_mirrored else columns
        for frame in pixels:  # the same square, and mirrored or not, in each
            assert frame[:, 0, 1].tolist() == list(range(window.top, window.top + CROP))
            assert frame[0, :, 2].tolist() == list(expected)
    assert {window.start for window in windows} == set(range(15))
    assert {window.top for window in windows} == set(range(5))
    assert {window.left for window in windows} == set(range(8))
    assert 100 < sum(window.is_mirrored for window in windows) < 200


def test_nothing_is_mirrored_unless_asked_and_the_generator_decides() -> None:
    def draw(seed: int) -> list[tuple[int, int, int, bool]]:
        rng = np.random.default_rng(seed)
        windows = random_windows([numbered(20)] * 50, clip_frames=6, crop=CROP, flip=False, rng=rng)
        return [(window.start, window.top, window.left, window.is_mirrored) for window in windows]

    assert not any(mirrored for *_, mirrored in draw(0))
    assert draw(0) == draw(0) != draw(1)


def test_a_short_stretch_gives_all_it_has() -> None:
    (window,) = random_windows([numbered(3)], clip_frames=6, crop=CROP, flip=False, rng=np.random.default_rng(0))
    assert (window.start, window.num_steps) == (0, 3)


def test_flow_can_have_a_mirror_of_its_own() -> None:
    def negated(pixels: np.ndarray) -> np.ndarray:
        mirrored = pixels[..., ::-1, :].copy()
        mirrored[..., 0] = -mirrored[..., 0]
        return mirrored

    pixels = Window(numbered(9), 2, 3, 0, 0, True).read(CROP, negated)
    assert pixels[:, 0, 0, 0].tolist() == [254, 253, 252]
    assert pixels[0, 0, :, 2].tolist() == list(range(CROP))[::-1]


def test_batches_come_in_order_and_only_a_few_are_read_ahead() -> None:
    begun, lock = [], threading.Lock()

    def footage(number: int) -> Footage:
        def frames(start: int, stop: int) -> Any:
            with lock:
                begun.append(number)
            yield np.full((HEIGHT, WIDTH, 3), number, np.uint8)

        return Footage(1, HEIGHT, WIDTH, 0, frames)

    windows = [Window(footage(number), 0, 1, 0, 0, False) for number in range(20)]
    batches = [windows[start : start + 2] for start in range(0, 20, 2)]
    found = []
    for pixels in read_batches(batches, CROP, mirror_colour, num_threads=3):
        found += [int(window[0, 0, 0, 0]) for window in pixels]
        assert max(begun) < len(found) + 4
    assert found == list(range(20))


def test_an_error_of_reading_is_raised_and_threads_end() -> None:
    def broken(start: int, stop: int) -> Any:
        raise OSError("the disk is gone")

    before = threading.active_count()
    window = Window(Footage(1, HEIGHT, WIDTH, 0, broken), 0, 1, 0, 0, False)
    with pytest.raises(OSError, match="the disk is gone"):
        list(read_batches([[window]] * 5, CROP, mirror_colour, num_threads=2))
    assert threading.active_count() == before


def test_videos_are_kept_as_long_as_they_fit() -> None:
    read: Counter[str] = Counter()
    closed = []

    def reader(name: str) -> Any:
        def frames() -> Generator[np.ndarray, None, None]:
            try:
                for step in range(10):
                    read[name] += 1
                    yield np.full((2, 2, 3), step, np.uint8)
            finally:
                closed.append(name)

        return frames

    memory = FrameMemory(budget_bytes=250)
    for _ in range(3):
        for name in ("a", "b", "c"):
            found = list(memory.frames(name, 120, reader(name), 3, 6))
            assert [int(frame[0, 0, 0]) for frame in found] == [3, 4, 5]
    assert read == {"a": 10, "b": 10, "c": 18}  # c does not fit: read up to the last frame wanted, three times
    assert closed.count("c") == 3
    assert memory.left_bytes == 10


def test_several_threads_share_what_is_kept() -> None:
    memory, footage = FrameMemory(budget_bytes=10**6), numbered(20)

    def everything() -> Generator[np.ndarray, None, None]:
        yield from footage.frames(0, 20)

    kept = Footage(20, HEIGHT, WIDTH, 0, lambda a, b: memory.frames("a", 20 * HEIGHT * WIDTH * 3, everything, a, b))
    windows = random_windows([kept] * 40, clip_frames=6, crop=CROP, flip=False, rng=np.random.default_rng(0))
    for window, (pixels,) in zip(windows, read_batches([[w] for w in windows], CROP, mirror_colour, 4), strict=True):
        assert pixels[:, 0, 0, 0].tolist() == list(range(window.start, window.start + 6))
