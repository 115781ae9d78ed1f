"""Videos that show the same pictures: candidates by perceptual hash, then a look at their thumbnails.

A copy is found when it was re-encoded, rescaled, made brighter or darker, mirrored, cut shorter, reversed, slowed down
or sped up, and mostly when up to 4 % was cropped off its edges. Another recording of the same place is no copy. Black
bars, a greater crop, a turn, or a big overlay hide one. docs/leaks-and-shortcuts.md has the shares found.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.video.fingerprints import Fingerprint

MAX_DISTANCE = 8  # bits of 64 in which the hashes of a candidate pair's most similar frames may differ
BANDS, BAND_BITS = 4, 16
MAX_PAIRS_AT_A_TIME = 500_000  # which stay in the processor's cache

# Correlation of two thumbnails that may be one picture. Frames of copies taken 1/8 s apart reach 0.99 (median of 30
# real clips); the most alike of drawn scenes with other people reach 0.955.
SAME_PICTURE = 0.965
LEAST_SHARE = 0.5  # of the shorter video's frames that must be found in the other
# Correlation over space and time of what moves, in the frames that fit best. Of 30 real clips' re-encoded copies nine
# of ten reach 0.78; of 77 pairs that show one place at two times the highest are 0.54 and 0.40.
SAME_MOTION = 0.6
BEST_SHARE = 0.75  # of the shorter video's frames: a cut copy may have some of its own
# Where nothing moves by more than this many grey levels, pictures must agree as copies do (0.998) and places do not.
STILL, SAME_STILL = 2.0, 0.995
BORDER = 2  # pixels left out after alignment: they may come from outside the picture
MAX_STRETCH = 0.15  # of the alignment; a crop of 6 % at each edge stretches by 0.14
HOPELESS = 0.6  # correlation below which alignment is not tried
MAX_FRAMES = 256  # of the shorter video that are compared, spread evenly

Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class Copy:
    """Two videos, by their places in the list handed over, and whether the one shows the other mirrored."""

    first: int
    second: int
    mirrored: bool


def find_copies(prints: Sequence[Fingerprint], groups: Sequence[str], sides: NDArray[np.integer]) -> list[Copy]:
    """Pairs of videos of different groups, on different sides of a fold, that show the same pictures; in order.

    groups: (N,). sides: (N, F) a number for the side of each of F folds, below 0 where a video is on none.
    """
    owners = np.repeat(np.arange(len(prints)), [len(one.hashes) for one in prints])
    hashes, mirrored = (
        np.concatenate([np.empty(0, np.uint64), *(getattr(one, name) for one in prints)])
        for name in ("hashes", "mirrored")
    )
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    found: dict[tuple[int, int], Copy] = {}
    for flipped, queries in ((False, hashes), (True, mirrored)):
        pairs = near_videos(queries, hashes, owners, group_of)
        ours, theirs = sides[pairs[:, 0]], sides[pairs[:, 1]]
        apart = ((ours != theirs) & (ours >= 0) & (theirs >= 0)).any(axis=1)
        for first, second in pairs[apart].tolist():
            one, other = prints[first].thumbnails, prints[second].thumbnails
            if (first, second) not in found and same_pictures(one, other, mirrored=flipped):
                found[first, second] = Copy(first, second, flipped)
    return [found[pair] for pair in sorted(found)]


def near_videos(
    queries: NDArray[np.uint64],
    hashes: NDArray[np.uint64],
    owners: Pairs,
    groups: Pairs,
    max_distance: int = MAX_DISTANCE,
) -> Pairs:
    """Every pair (a, b), a < b, of videos in different groups with hashes that differ in at most `max_distance` bits.

    Args:
        queries, hashes: (N,) of the same N pictures, as they are or mirrored.
        owners: (N,) the video of each. groups: the group of each video.
        max_distance: at most 11.

    Returns:
        (M, 2), in order, without repetition. The search is exact: of two hashes that differ in d bits, some band of 16
        differs in at most d // 4 of them (multi-index hashing; Norouzi, Punjani and Fleet 2012, "Fast Search in Hamming
        Space").
    """
    num_videos = len(groups)
    found: set[int] = set()
    for near, far in _close_pairs(queries, hashes, max_distance):
        one, other = owners[near], owners[far]
        differ = groups[one] != groups[other]
        first, second = np.minimum(one, other)[differ], np.maximum(one, other)[differ]
        found.update(np.unique(first * num_videos + second).tolist())
    keys = np.array(sorted(found), dtype=np.int64)
    return np.stack([keys // max(num_videos, 1), keys % max(num_videos, 1)], axis=1)


def _close_pairs(
    queries: NDArray[np.uint64], hashes: NDArray[np.uint64], max_distance: int
) -> Iterator[tuple[Pairs, Pairs]]:
    """Index pairs, of a query and of a hash, at most `max_distance` bits apart; a pair may come again."""
    radius = max_distance // BANDS
    masks = [sum(1 << bit for bit in bits) for r in range(radius + 1) for bits in itertools.combinations(range(16), r)]
    for band in range(BANDS):
        shift = np.uint64(band * BAND_BITS)
        asked, stored = (((values >> shift) & np.uint64(0xFFFF)).astype(np.int32) for values in (queries, hashes))
        order = np.argsort(stored, kind="stable")
        in_order = hashes[order]
        begins = np.concatenate([[0], np.cumsum(np.bincount(stored, minlength=1 << BAND_BITS))]).astype(np.int32)
        sizes = np.diff(begins)
        for mask in masks:
            keys = asked ^ mask
            counts = sizes[keys]
            for part in _parts(counts):
                some = counts[part]
                near = np.repeat(np.arange(part.start, part.stop, dtype=np.int32), some)
                offsets = begins[keys[part]] - (np.cumsum(some, dtype=np.int32) - some)
                far = np.arange(len(near), dtype=np.int32) + np.repeat(offsets, some)
                close = np.bitwise_count(queries[near] ^ in_order[far]) <= max_distance
                yield near[close], order[far[close]]


def _parts(counts: NDArray[np.int32]) -> Iterator[slice]:
    """Slices of about as many pairs as are looked at in one go; one query may have more."""
    ends = np.cumsum(counts, dtype=np.int64)
    begin = 0
    while begin < len(counts):
        done = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + MAX_PAIRS_AT_A_TIME, side="right")))
        if ends[stop - 1] > done:
            yield slice(begin, stop)
        begin = stop


def same_pictures(one: NDArray[np.uint8], other: NDArray[np.uint8], *, mirrored: bool = False) -> bool:
    """Whether one video shows what the other shows, in whatever order: thumbnails (T, 32, 32) each.

    Each frame of the shorter is held against the frame of the other that is most like it, after the one affine map that
    brings their best pair into line. Half of them must be the same picture; and what moves between the three quarters
    that fit best must move alike. So the background, which two recordings of one place share, is no evidence.
    """
    short, long = (one, other) if len(one) <= len(other) else (other, one)
    if len(short) == 0:
        return False
    short = short[np.linspace(0, len(short) - 1, min(len(short), MAX_FRAMES)).round().astype(int)]
    long = np.ascontiguousarray(long[:, :, ::-1]) if mirrored else long
    alike = _correlations(short, long)
    if np.median(alike.max(axis=1)) < HOPELESS:
        return False
    aligned = _aligned(short, long, alike)
    if aligned is not None:
        inner = slice(BORDER, -BORDER)
        cut, moved = short[:, inner, inner], aligned[:, inner, inner]
        better = _correlations(cut, moved)
        if better.max(axis=1).mean() > alike.max(axis=1).mean():
            alike, short, long = better, cut, moved
    best = alike.max(axis=1)
    if np.mean(best >= SAME_PICTURE) < LEAST_SHARE:
        return False
    kept = np.argsort(-best, kind="stable")[: max(1, round(BEST_SHARE * len(best)))]
    ours, theirs = _motion(short[kept]), _motion(long[alike.argmax(axis=1)[kept]])
    if max(np.sqrt(np.mean(ours**2)), np.sqrt(np.mean(theirs**2))) < STILL:
        return bool(np.mean(best >= SAME_STILL) >= LEAST_SHARE)
    return bool((ours * theirs).sum() >= SAME_MOTION * np.sqrt((ours**2).sum() * (theirs**2).sum()) > 0)


def _correlations(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(S, T) correlation of each of S thumbnails with each of T: blind to brightness and contrast."""
    ones, others = (_centred(video) for video in (one, other))
    scaled = [values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6) for values in (ones, others)]
    return np.asarray(scaled[0] @ scaled[1].T, np.float32)


def _centred(video: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = video.reshape(len(video), -1).astype(np.float32)
    return np.asarray(values - values.mean(axis=1, keepdims=True), np.float32)


def _motion(video: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Differences to the mean picture."""
    values = _centred(video)
    return np.asarray(values - values.mean(axis=0), np.float32)


def _aligned(short: NDArray[np.uint8], long: NDArray[np.uint8], alike: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """The longer video mapped onto the shorter one's frame; None where no map close to none is found.

    By enhanced correlation, Evangelidis and Psarakis 2008, as OpenCV has it.
    """
    row, column = np.unravel_index(int(alike.argmax()), alike.shape)
    ends = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-4)
    start = np.eye(2, 3, dtype=np.float32)
    mask = np.full(short[row].shape, 255, np.uint8)
    try:
        _, found = cv2.findTransformECC(short[row], long[column], start, cv2.MOTION_AFFINE, ends, mask, 3)
    except cv2.error:  # it does not converge: these are different pictures
        return None
    if np.abs(found[:, :2] - np.eye(2)).max() > MAX_STRETCH:
        return None
    size = (long.shape[2], long.shape[1])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    frames = [cv2.warpAffine(frame, found, size, flags=flags, borderMode=cv2.BORDER_REPLICATE) for frame in long]
    return np.array(frames, np.uint8)
