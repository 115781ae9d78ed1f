"""Splits: made ones (stratified, grouped folds), ones by group names, published lists; and the check for leaks.

A fold is a mapping from video id to its side. Folds never depend on the order in which videos are handed over.
"""

import os
import re
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from pipeline.data.tables import SIDES, Side, Split, Video
from pipeline.errors import DataError

Fold = dict[str, Side]


@dataclass(frozen=True)
class Leak:
    """Videos of one source, with the same bytes, or showing the same pictures, on two or three sides of a fold.

    kind: `group`, `content` or `pictures`; value: the group, the sha256, or how the pictures stand to each other,
    `as they are` or `mirrored`; sides: the videos by side, in path order.
    """

    fold: int
    kind: str
    value: str
    sides: dict[Side, list[str]]


def kfold(videos: Iterable[Video], *, folds: int, validation: float, seed: int) -> list[Fold]:
    """Folds stratified by label and grouped; every group is tested in exactly one of them.

    validation: share of each training part that is cut off for validation by the same rule. Raises DataError when there
    are fewer groups than folds, or too few to cut a validation part.
    """
    videos = _ordered(videos)
    if (num_groups := len({video.group for video in videos})) < folds:
        raise DataError(f"splits.kfold: {num_groups} group(s) for {folds} folds; each fold needs a group to test on")
    parts = _parts(videos, folds, seed)
    tests = [{video.video_id for video in part} for part in parts]
    return [
        with_validation(
            {v.video_id: "test" if v.video_id in test else "train" for v in videos}, videos, validation, seed
        )
        for test in tests
    ]


def by_groups(videos: Iterable[Video], test: Sequence[str], validation: Sequence[str] = ()) -> tuple[Fold, list[str]]:
    """A fold by the names of groups, in which `*`, `?` and `[1-7]` stand for parts of names; the rest is for training.

    A group that was joined of several (`a+b`) goes where any of them is named. Returns the fold, and the names that
    matched no group. Raises DataError when a group is named for two sides.
    """
    groups = sorted({video.group for video in videos})
    tested, validated = (
        {group for group in groups if any(_is_named(group, name) for name in names)} for names in (test, validation)
    )
    if both := sorted(tested & validated):
        raise DataError(f"splits.groups: {both[0]!r} ({len(both)} group(s) in all) is named for test and validation")
    unused = [name for name in [*test, *validation] if not any(_is_named(group, name) for group in groups)]
    sides: dict[str, Side] = {**dict.fromkeys(tested, "test"), **dict.fromkeys(validated, "val")}
    return {video.video_id: sides.get(video.group, "train") for video in _ordered(videos)}, unused


def with_validation(fold: Mapping[str, Side], videos: Iterable[Video], share: float, seed: int) -> Fold:
    """The fold with about `share` of its training part cut off for validation, stratified by label and grouped.

    Of the parts that a cross-validation would use, the one is taken that leaves and holds the most classes and whose
    size comes nearest. Raises DataError when the training part is a single group.
    """
    train = [video for video in _ordered(videos) if fold.get(video.video_id) == "train"]
    num_groups = len({video.group for video in train})
    if num_groups < 2:
        raise DataError(
            f"splits: {len(train)} training video(s) in {num_groups} group(s); "
            "validation needs groups of its own, so at least two"
        )
    classes = {video.label for video in train}

    def badness(part: list[Video]) -> tuple[int, int, float]:
        held = {video.video_id for video in part}
        left = {video.label for video in train if video.video_id not in held}
        found = {video.label for video in part}
        return len(classes - left), len(classes - found), abs(len(part) / len(train) - share)

    parts = [part for part in _parts(train, min(round(1 / share), num_groups), seed) if 0 < len(part) < len(train)]
    chosen = {video.video_id for video in min(parts, key=badness)}
    return {video_id: "val" if video_id in chosen else side for video_id, side in fold.items()}


def random_folds(strata: Mapping[str, Hashable], folds: Sequence[Fold], seed: int) -> list[Fold]:
    """The same folds, groups ignored: every video takes the place of a random one of its stratum, the same in all.

    So each side of each fold keeps its size and its number of videos of each stratum, and each video is tested as often
    as the one whose place it took; only the grouping is lost. strata: what must stay alike, by video, such as the
    label. Videos that have no stratum, or stand in no fold, keep their places.
    """
    rng = np.random.default_rng(seed)
    members = set().union(*folds)
    place = {video_id: video_id for video_id in members}
    alike: dict[Hashable, list[str]] = {}
    for video_id in sorted(members & set(strata), key=os.fsencode):
        alike.setdefault(strata[video_id], []).append(video_id)
    for same in alike.values():
        place.update(zip(same, (same[number] for number in rng.permutation(len(same))), strict=True))
    return [{v: fold[place[v]] for v in sorted(members, key=os.fsencode) if place[v] in fold} for fold in folds]


def folds_of(rows: Sequence[Split]) -> list[Fold]:
    """The folds that `table` wrote, fold 1 first."""
    folds: list[Fold] = [{} for _ in range(max((row.fold for row in rows), default=0))]
    for row in rows:
        folds[row.fold - 1][row.video_id] = row.split
    return folds


def read_ucf101_lists(folder: Path, fold: int) -> Fold:
    """`trainlist01.txt` and `testlist01.txt` of fold 1, ...: a path on each line, with or without the class's number.

    Raises DataError when a file cannot be read, or a path stands twice.
    """
    sides: Fold = {}
    lists: list[tuple[str, Side]] = [("trainlist", "train"), ("testlist", "test")]
    for name, side in lists:
        path = folder / f"{name}{fold:02d}.txt"
        for row, line in _lines(path):
            _put(sides, re.sub(r"\s+\d+$", "", line), side, path, row)
    return sides


def read_hmdb51_lists(folder: Path, fold: int, classes: Iterable[str]) -> Fold:
    """`<class>_test_split1.txt` of fold 1, ...: a file name and 1 (training), 2 (test) or 0 (in neither) on each line.

    Paths come out as `<class>/<name>`. Raises DataError when a file cannot be read or holds another line.
    """
    sides: Fold = {}
    for label in classes:
        path = folder / f"{label}_test_split{fold}.txt"
        for row, line in _lines(path):
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2") or not name:
                raise DataError(f"{path}, row {row}: {line!r}; expected a file name and 0, 1 or 2")
            if use != "0":
                _put(sides, f"{label}/{name.strip()}", "train" if use == "1" else "test", path, row)
    return sides


def read_mstcn_bundles(folder: Path, fold: int) -> Fold:
    """`train.split1.bundle` and `test.split1.bundle` of fold 1, ...: NAME.txt on each line, read as NAME.

    Raises DataError when a file cannot be read, or a name stands twice.
    """
    sides: Fold = {}
    for side in ("train", "test"):
        path = folder / f"{side}.split{fold}.bundle"
        for row, line in _lines(path):
            _put(sides, line.removesuffix(".txt"), "train" if side == "train" else "test", path, row)
    return sides


def find_leaks(videos: Iterable[Video], folds: Sequence[Fold]) -> list[Leak]:
    """Every group and every content (same bytes) that stands on more than one side of a fold."""
    videos = _ordered(videos)
    leaks = []
    for number, fold in enumerate(folds, start=1):
        for kind in ("group", "content"):
            found: dict[str, dict[Side, list[str]]] = {}
            for video in videos:
                if video.video_id in fold:
                    sides = found.setdefault(video.group if kind == "group" else video.sha256, {})
                    sides.setdefault(fold[video.video_id], []).append(video.video_id)
            leaks += [Leak(number, kind, value, sides) for value, sides in sorted(found.items()) if len(sides) > 1]
    return leaks


def find_picture_leaks(copies: Iterable[tuple[str, str, bool]], folds: Sequence[Fold]) -> list[Leak]:
    """Every pair of videos that show the same pictures and stand on two sides of a fold.

    copies: the two videos' ids, and whether one shows the other mirrored.
    """
    leaks = []
    for number, fold in enumerate(folds, start=1):
        for one, other, mirrored in copies:
            if one in fold and other in fold and fold[one] != fold[other]:
                sides = {side: [video] for side in SIDES for video in (one, other) if fold[video] == side}
                leaks.append(Leak(number, "pictures", "mirrored" if mirrored else "as they are", sides))
    return leaks


def table(folds: Sequence[Fold]) -> list[Split]:
    """Rows of `splits.csv`: by fold, then train, val, test, then path."""
    return [
        Split(video_id, number, side)
        for number, fold in enumerate(folds, start=1)
        for side in SIDES
        for video_id in sorted((v for v, s in fold.items() if s == side), key=os.fsencode)
    ]


def _is_named(group: str, name: str) -> bool:
    return any(fnmatchcase(one, name) for one in (group, *group.split("+")))


def _parts(videos: list[Video], num_parts: int, seed: int) -> list[list[Video]]:
    """Division into parts of similar size and class shares that keeps groups whole."""
    from sklearn.model_selection import StratifiedGroupKFold

    labels, groups = np.array([v.label for v in videos]), np.array([v.group for v in videos])
    if max(np.unique(labels, return_counts=True)[1]) < num_parts:
        labels = np.zeros(len(videos))  # no class has a video for each part, so there are no shares to keep
    splitter = StratifiedGroupKFold(num_parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Of a class with fewer videos than parts. What a side then lacks is refused or counted by the audit.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return [[videos[i] for i in test] for _, test in splitter.split(labels, labels, groups)]


def _ordered(videos: Iterable[Video]) -> list[Video]:
    return sorted(videos, key=lambda video: os.fsencode(video.video_id))


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: the list cannot be read ({error.strerror})") from None
    return [(row, line.strip()) for row, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _put(sides: Fold, video_id: str, side: Side, path: Path, row: int) -> None:
    if video_id in sides:
        raise DataError(f"{path}, row {row}: {video_id!r} is listed already, for {sides[video_id]}")
    sides[video_id] = side
