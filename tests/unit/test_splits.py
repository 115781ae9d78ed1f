import hashlib
import random
from collections import Counter

import pytest

from pipeline.data.splits import (
    by_groups,
    find_leaks,
    find_picture_leaks,
    folds_of,
    kfold,
    random_folds,
    read_hmdb51_lists,
    read_mstcn_bundles,
    read_ucf101_lists,
    table,
    with_validation,
)
from pipeline.data.tables import Split, Video
from pipeline.errors import DataError


def video(video_id: str, label: str = "", group: str = "", content: str | None = None) -> Video:
    sha256 = hashlib.sha256((content or video_id).encode()).hexdigest()
    return Video(video_id, sha256, 1, "ok", label=label, group=group)


def crowd(num_groups: int = 20, each: int = 4) -> list[Video]:
    """Groups of different sizes with both labels in each, so that grouping and stratifying can both be met."""
    return [
        video(f"g{g:02d}-{n}.mp4", "ab"[n % 2], f"g{g:02d}")
        for g in range(num_groups)
        for n in range(each + 2 * (g % 2))
    ]


def test_each_group_is_tested_once_and_never_divided():
    videos = crowd()
    group_of = {v.video_id: v.group for v in videos}
    tested = Counter()
    for fold in kfold(videos, folds=5, validation=0.25, seed=3):
        assert set(fold) == set(group_of)
        sides = {side: {group_of[v] for v, s in fold.items() if s == side} for side in ("train", "val", "test")}
        assert all(sides.values())
        assert not sides["train"] & sides["val"]
        assert not sides["train"] & sides["test"]
        assert not sides["val"] & sides["test"]
        tested.update(sides["test"])
    assert tested == Counter(f"g{g:02d}" for g in range(20))


def test_folds_keep_the_shares_of_the_classes():
    videos = [video(f"{n:03d}", "common" if n % 5 else "rare", f"g{n}") for n in range(100)]
    for fold in kfold(videos, folds=5, validation=0.25, seed=0):
        counts = Counter((fold[v.video_id], v.label) for v in videos)
        assert counts["test", "rare"] == 4
        assert counts["test", "common"] == 16
        assert counts["val", "rare"] == 4
        assert counts["val", "common"] == 16


def test_folds_depend_on_the_seed_and_not_on_the_order():
    videos = crowd()
    shuffled = random.Random(1).sample(videos, len(videos))
    folds = kfold(videos, folds=4, validation=0.25, seed=0)
    assert kfold(shuffled, folds=4, validation=0.25, seed=0) == folds
    assert kfold(videos, folds=4, validation=0.25, seed=1) != folds


def test_too_few_groups():
    with pytest.raises(DataError, match=r"2 group\(s\) for 3 folds"):
        kfold(crowd(num_groups=2), folds=3, validation=0.25, seed=0)
    with pytest.raises(DataError, match=r"2 training video\(s\) in 1 group\(s\)"):
        kfold(crowd(num_groups=2, each=2), folds=2, validation=0.25, seed=0)


def test_a_class_with_fewer_videos_than_folds_is_no_error():
    videos = [video(f"{n}", "ab"[n % 2], f"g{n}") for n in range(6)]
    assert len(kfold(videos, folds=5, validation=0.25, seed=0)) == 5


def test_validation_takes_no_class_away_from_training():
    # Only group x has class b; the seeds would otherwise cut it off now and then.
    videos = [video(f"a{n}", "a", f"g{n}") for n in range(5)] + [video("b", "b", "x"), video("c", "a", "x")]
    fold = {v.video_id: "train" for v in videos}
    for seed in range(10):
        cut = with_validation(fold, videos, 0.3, seed)
        assert cut["b"] == cut["c"] == "train"
        assert Counter(cut.values())["val"] in (1, 2)


def test_validation_leaves_the_test_side_and_other_videos_alone():
    videos = crowd()
    fold, _ = by_groups(videos, ["g0[0-4]"])
    cut = with_validation(fold, [*videos, video("unlisted", "a", "z")], 0.2, 0)
    assert "unlisted" not in cut
    assert {v for v, side in cut.items() if side == "test"} == {v for v, side in fold.items() if side == "test"}
    assert 0.1 < Counter(cut.values())["val"] / Counter(fold.values())["train"] < 0.3


def test_named_groups():
    videos = [video(f"{g}-{n}", "a", g) for g in ("Dig_g01", "Dig_g08", "Eat_g01", "Eat_g25", "Eat_g10") for n in "12"]
    fold, unused = by_groups(videos, ["*_g0[1-7]"], ["*_g2[345]", "nobody"])
    assert unused == ["nobody"]
    sides = {v.group: fold[v.video_id] for v in videos}
    assert sides == {"Dig_g01": "test", "Eat_g01": "test", "Eat_g25": "val", "Dig_g08": "train", "Eat_g10": "train"}
    more, _ = by_groups([*videos, video("new", "a", "Dig_g09")], ["*_g0[1-7]"], ["*_g2[345]"])
    assert {**fold, "new": "train"} == more
    with pytest.raises(DataError, match=r"'Dig_g01' \(1 group\(s\) in all\) is named for test and validation"):
        by_groups(videos, ["*_g01"], ["Dig*"])


def test_a_joined_group_goes_where_one_of_its_names_is_named():
    videos = [video("a", "x", "p1+p4"), video("b", "x", "p2"), video("c", "x", "p3+p5")]
    fold, unused = by_groups(videos, ["p4"], ["p2"])
    assert (fold, unused) == ({"a": "test", "b": "val", "c": "train"}, [])
    with pytest.raises(DataError, match=r"'p1\+p4' \(1 group\(s\) in all\) is named for test and validation"):
        by_groups(videos, ["p4"], ["p1"])


def test_ucf101_lists(tmp_path):
    (tmp_path / "trainlist01.txt").write_text("Dig/v_Dig_g08_c01.avi 1\r\nEat/v 2.avi 2\n\n")
    (tmp_path / "testlist01.txt").write_text("Dig/v_Dig_g01_c01.avi\n")
    assert read_ucf101_lists(tmp_path, 1) == {
        "Dig/v_Dig_g08_c01.avi": "train",
        "Eat/v 2.avi": "train",
        "Dig/v_Dig_g01_c01.avi": "test",
    }
    (tmp_path / "testlist01.txt").write_text("Dig/v_Dig_g08_c01.avi\n")
    with pytest.raises(
        DataError, match=r"testlist01\.txt, row 1: 'Dig/v_Dig_g08_c01\.avi' is listed already, for train"
    ):
        read_ucf101_lists(tmp_path, 1)
    with pytest.raises(DataError, match=r"trainlist02\.txt: the list cannot be read \(No such file"):
        read_ucf101_lists(tmp_path, 2)


def test_hmdb51_lists(tmp_path):
    (tmp_path / "ride_bike_test_split2.txt").write_text("#1 film_ride_bike_f_0.avi 1 \nb.avi 2 \nc.avi 0 \n")
    (tmp_path / "wave_test_split2.txt").write_text("d.avi 1\n")
    assert read_hmdb51_lists(tmp_path, 2, ["ride_bike", "wave"]) == {
        "ride_bike/#1 film_ride_bike_f_0.avi": "train",
        "ride_bike/b.avi": "test",
        "wave/d.avi": "train",
    }
    (tmp_path / "wave_test_split2.txt").write_text("d.avi 1\nd.avi\n")
    with pytest.raises(DataError, match=r"wave_test_split2\.txt, row 2: 'd\.avi'; expected a file name and 0, 1 or 2"):
        read_hmdb51_lists(tmp_path, 2, ["wave"])


def test_leaks_are_found_by_group_and_by_content():
    videos = [
        video("a1", group="a"),
        video("a2", group="a"),
        video("b", group="b", content="same"),
        video("c", group="c", content="same"),
        video("d", group="d"),
    ]
    clean = {"a1": "train", "a2": "train", "b": "test", "c": "test", "d": "val"}
    assert find_leaks(videos, [clean]) == []
    leaks = find_leaks(videos, [clean, {"a1": "train", "a2": "val", "b": "val", "c": "test", "d": "train"}])
    assert [(leak.fold, leak.kind, leak.sides) for leak in leaks] == [
        (2, "group", {"train": ["a1"], "val": ["a2"]}),
        (2, "content", {"val": ["b"], "test": ["c"]}),
    ]


def test_copies_leak_in_the_folds_that_part_them():
    folds = [{"a": "train", "b": "test", "c": "train"}, {"a": "val", "b": "val", "c": "train"}]
    leaks = find_picture_leaks([("b", "a", False), ("a", "c", True), ("a", "not in a split", False)], folds)
    assert [(leak.fold, leak.kind, leak.value, leak.sides) for leak in leaks] == [
        (1, "pictures", "as they are", {"train": ["a"], "test": ["b"]}),
        (2, "pictures", "mirrored", {"train": ["c"], "val": ["a"]}),
    ]


def test_the_table_is_in_order():
    folds = [{"b": "test", "a": "train"}, {"a": "test", "b": "val", "c": "train"}]
    assert table(folds) == [
        Split("a", 1, "train"),
        Split("b", 1, "test"),
        Split("c", 2, "train"),
        Split("b", 2, "val"),
        Split("a", 2, "test"),
    ]


def test_bundles_of_ms_tcn(tmp_path):
    (tmp_path / "train.split2.bundle").write_text("S1_Tea_C1.txt\n\nsub/S2.Tea.txt\r\n")
    (tmp_path / "test.split2.bundle").write_text("S3_Tea_C1.txt")  # MS-TCN's own reader would lose it
    assert read_mstcn_bundles(tmp_path, 2) == {"S1_Tea_C1": "train", "sub/S2.Tea": "train", "S3_Tea_C1": "test"}
    with pytest.raises(DataError, match=r"train\.split1\.bundle: the list cannot be read"):
        read_mstcn_bundles(tmp_path, 1)
    (tmp_path / "test.split2.bundle").write_text("S1_Tea_C1.txt\n")
    with pytest.raises(DataError, match=r"test\.split2\.bundle, row 1: 'S1_Tea_C1' is listed already, for train"):
        read_mstcn_bundles(tmp_path, 2)


# --- random folds -----------------------------------------------------------------------------------------------------


def test_random_folds_keep_everything_but_the_groups():
    videos = crowd()
    label_of = {v.video_id: v.label for v in videos}
    folds = kfold(videos, folds=4, validation=0.25, seed=0)
    found = random_folds(label_of, folds, seed=0)
    tested = Counter()
    for old, new in zip(folds, found, strict=True):
        assert Counter((side, label_of[v]) for v, side in new.items()) == Counter(
            (side, label_of[v]) for v, side in old.items()
        )
        tested.update(v for v, side in new.items() if side == "test")
    assert tested == Counter(dict.fromkeys(label_of, 1))
    assert not find_leaks(videos, folds)
    assert {leak.value for leak in find_leaks(videos, found)} == {v.group for v in videos}


def test_random_folds_depend_on_the_seed_and_not_on_the_order():
    videos = crowd()
    label_of = {v.video_id: v.label for v in videos}
    folds = kfold(videos, folds=4, validation=0.25, seed=0)
    backwards = [dict(reversed(fold.items())) for fold in folds]
    assert random_folds(dict(reversed(label_of.items())), backwards, seed=5) == random_folds(label_of, folds, seed=5)
    assert random_folds(label_of, folds, seed=6) != random_folds(label_of, folds, seed=5)


def test_random_folds_leave_videos_of_no_stratum_and_of_no_fold_where_they_are():
    fold = {f"{n}.mp4": side for n, side in enumerate(["train"] * 6 + ["val"] * 3 + ["test"] * 3)}
    strata = {video_id: "a" for video_id in fold if video_id not in ("0.mp4", "8.mp4", "9.mp4")}
    other = {video_id: "test" for video_id in ("1.mp4", "10.mp4")}  # the others stand in the first fold alone
    for seed in range(20):
        first, second = random_folds({**strata, "elsewhere.mp4": "a"}, [fold, other], seed)
        assert {v: first[v] for v in ("0.mp4", "8.mp4", "9.mp4")} == {"0.mp4": "train", "8.mp4": "val", "9.mp4": "test"}
        assert set(first) == set(fold)
        assert sorted(second.values()) == ["test", "test"]
        # A video takes the same place in every fold: what the second tests stood at 1 (train) and 10 (test) before.
        assert sorted(first[v] for v in second) == ["test", "train"]


def test_folds_are_read_back_from_their_table():
    folds = kfold(crowd(), folds=3, validation=0.25, seed=0)
    assert folds_of(table(folds)) == folds
