"""Perceptual hashes, the search among them, and the look at candidates, on scenes drawn here."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.video.duplicates import Copy, find_copies, near_videos, same_pictures
from pipeline.video.fingerprints import SIDE, Fingerprint, dct_hashes, fingerprint
from pipeline.video.reader import Frame

HEIGHT, WIDTH, STEPS = 144, 192, 16  # two seconds, eight frames each


def scene(seed: int) -> np.ndarray:
    """A place, (H, W) uint8: shades of several sizes."""
    rng = np.random.default_rng(seed)
    parts = [cv2.resize(rng.uniform(0, 1, (n, n)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for n in (3, 6, 12)]
    shades = sum(parts)
    return (20 + 210 * (shades - shades.min()) / np.ptp(shades)).astype(np.uint8)


def clip(place: int, actor: int, *, start: int = 0, steps: int = STEPS) -> np.ndarray:
    """Somebody walks through a place, (T, H, W) uint8: the actor decides on path, size and shade."""
    rng = np.random.default_rng([actor, 1])
    (x0, y0), (x1, y1) = rng.uniform(0.2, 0.8, (2, 2)) * (WIDTH, HEIGHT)
    size, shade = int(rng.uniform(10, 16)), int(rng.choice([20, 235]))
    frames = []
    for step in range(start, start + steps):
        share = step / (STEPS - 1)
        frame = scene(place)
        center = (round(x0 + share * (x1 - x0)), round(y0 + share * (y1 - y0)))
        cv2.ellipse(frame, center, (size // 2, size), 0, 0, 360, shade, -1)
        frames.append(frame)
    return np.array(frames)


def seen(video: np.ndarray, fps: float = 8.0) -> Fingerprint:
    """The fingerprint of luma pictures (T, H, W)."""
    _, height, width = video.shape
    grey = np.full((height // 2, width), 128, np.uint8)
    return fingerprint(Frame(k / fps, k / fps, np.concatenate([luma, grey])) for k, luma in enumerate(video))


def jpeg(frame: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0))


def each(video: np.ndarray, change) -> np.ndarray:
    return np.array([change(frame) for frame in video])


COPIES = {
    "encoded anew": lambda v: each(v, jpeg),
    "half the size": lambda v: each(v, lambda f: cv2.resize(f, (96, 72), interpolation=cv2.INTER_AREA)),
    "another shape": lambda v: each(v, lambda f: cv2.resize(f, (192, 96), interpolation=cv2.INTER_AREA)),
    "brighter": lambda v: np.clip(v * 0.8 + 50, 0, 255).astype(np.uint8),
    "cropped by 3 %": lambda v: each(v[:, 4:-4, 6:-6], jpeg),
    "reversed": lambda v: v[::-1],
    "the second half": lambda v: v[8:],
    "twice as fast": lambda v: v[::2],
    "half as fast": lambda v: np.repeat(v, 2, axis=0),
    "mirrored": lambda v: np.ascontiguousarray(v[:, :, ::-1]),
}


def test_the_hash_is_that_of_the_definition():
    thumbnail = cv2.resize(scene(1), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    # The DCT written out, and bits in the order of rows, first bit highest.
    n, k = np.arange(SIDE), np.arange(1, 9)
    waves = np.cos(np.pi * (2 * n[None] + 1) * k[:, None] / (2 * SIDE))
    values = (waves @ thumbnail.astype(float) @ waves.T).ravel()
    expected = int("".join("1" if value > np.median(values) else "0" for value in values), 2)
    hashes, mirrored = dct_hashes(thumbnail[None])
    assert int(hashes[0]) == expected
    assert int(hashes[0]).bit_count() == 32
    assert dct_hashes(np.ascontiguousarray(thumbnail[None, :, ::-1]))[0][0] == mirrored[0]
    assert dct_hashes(np.empty((0, SIDE, SIDE), np.uint8))[0].shape == (0,)


def test_a_fingerprint_looks_four_times_a_second_and_leaves_flat_pictures_out():
    video = clip(1, 1)
    video[4:6] = 17  # at 0.5 s
    found = seen(video)
    assert len(found.thumbnails) == 7
    assert len(found.hashes) == 4
    assert found.brightness == pytest.approx((video.mean() - 16) * 255 / 219)
    assert seen(np.full((3, 32, 32), 235, np.uint8)).brightness == pytest.approx(255)
    nothing = seen(video[:0])
    assert (nothing.brightness, len(nothing.hashes), len(nothing.thumbnails)) == (None, 0, 0)
    assert len(seen(clip(1, 1), fps=2.0).thumbnails) == 16


@given(st.integers(0, 2**32), st.integers(0, 11), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_the_search_finds_what_trying_all_pairs_finds(seed, distance, count):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    hashes[count // 3 :] = hashes[rng.integers(0, max(count // 3, 1), count - count // 3)]
    for _ in range(10):  # near ones among them
        hashes ^= np.where(
            rng.random(count) < 0.7, np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64), 0
        ).astype(np.uint64)
    queries = hashes ^ np.uint64(rng.integers(0, 4))
    owners, groups = np.sort(rng.integers(0, 20, count)), rng.integers(0, 8, 20)
    expected = {
        (min(owners[i], owners[j]), max(owners[i], owners[j]))
        for i in range(count)
        for j in range(count)
        if int(queries[i] ^ hashes[j]).bit_count() <= distance and groups[owners[i]] != groups[owners[j]]
    }
    found = near_videos(queries, hashes, owners, groups, distance)
    assert [tuple(pair) for pair in found.tolist()] == sorted(expected)


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_found(change):
    original, others = clip(1, 1), [seen(clip(place, place)) for place in (2, 3, 4)]
    prints = [seen(original), *others, seen(COPIES[change](original))]
    sides = np.array([[0], [0], [2], [0], [2]])
    assert find_copies(prints, list("abcde"), sides) == [Copy(0, 4, mirrored=change == "mirrored")]


def test_another_actor_or_another_time_in_the_same_place_is_no_copy():
    videos = [clip(1, actor) for actor in range(1, 9)] + [clip(1, 1, start=14)]
    prints = [seen(video) for video in videos]
    assert find_copies(prints, [str(n) for n in range(9)], np.arange(9)[:, None] % 3) == []
    # They are candidates, which the background makes them: only the second look tells.
    hashes, owners = (
        np.concatenate([p.hashes for p in prints]),
        np.repeat(np.arange(9), [len(p.hashes) for p in prints]),
    )
    assert len(near_videos(hashes, hashes, owners, np.arange(9))) >= 20


def test_pictures_in_which_nothing_moves():
    still = np.repeat(scene(1)[None], 8, axis=0)
    assert same_pictures(seen(still).thumbnails, seen(each(still, jpeg)).thumbnails)
    assert same_pictures(seen(still[:1]).thumbnails, seen(still).thumbnails)
    somebody = still.copy()
    cv2.circle(somebody[0], (60, 60), 9, 20, -1)
    somebody[1:] = somebody[0]
    assert not same_pictures(seen(still).thumbnails, seen(somebody).thumbnails)


def test_only_other_groups_on_another_side_count():
    prints = [seen(clip(1, 1)), seen(COPIES["encoded anew"](clip(1, 1)))]
    for groups, sides in ((["a", "a"], [[0], [2]]), (["a", "b"], [[0], [0]]), (["a", "b"], [[0], [-1]])):
        assert find_copies(prints, groups, np.array(sides)) == []
    assert find_copies(prints, ["a", "b"], np.array([[0, 0], [0, 1]])) == [Copy(0, 1, mirrored=False)]
    assert find_copies([], [], np.empty((0, 1), np.int8)) == []
    blank = SimpleNamespace(hashes=prints[0].hashes[:0], mirrored=prints[0].hashes[:0])
    assert find_copies([blank, blank], ["a", "b"], np.array([[0], [2]])) == []
