"""File properties: the table, and the score of a classifier that sees nothing else."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pipeline.data.properties import measure, read_properties, write_properties
from pipeline.data.tables import Video
from pipeline.errors import DataError
from pipeline.evaluation.shortcut import PropertyFold, macro_auc, shortcut_scores


def video(video_id: str, **facts) -> Video:
    return Video(video_id, hashlib.sha256(video_id.encode()).hexdigest(), 1000, "ok", **facts)


def test_the_table_of_properties_comes_back(tmp_path):
    videos = [
        video(
            "a,b.mp4", codec="h264", width=64, height=48, fps_header=25.0, duration_seconds_header=2.5, has_audio=True
        ),
        video("b.avi", codec="mpeg4"),
    ]
    found = measure(videos, {"a,b.mp4": 50, "b.avi": None}, {"a,b.mp4": 101.25})
    assert found.names[-2:] == ("codec=h264", "codec=mpeg4")
    first = dict(zip(found.names, found.rows["a,b.mp4"].tolist(), strict=True))
    assert first == {
        "size_bytes": 1000, "width": 64, "height": 48, "fps": 25, "duration_seconds": 2.5, "bits_per_frame": 160,
        "brightness": 101.25, "has_audio": 1, "codec=h264": 1, "codec=mpeg4": 0,
    }  # fmt: skip
    unknown = [name for name, value in zip(found.names, found.rows["b.avi"], strict=True) if np.isnan(value)]
    assert unknown == ["width", "height", "fps", "duration_seconds", "bits_per_frame", "brightness"]
    write_properties(tmp_path / "properties.csv", found)
    assert (tmp_path / "properties.csv").read_text().splitlines()[2] == "b.avi,1000,,,,,,,0,0,1"
    again = read_properties(tmp_path / "properties.csv")
    assert again.names == found.names
    np.testing.assert_array_equal(again.table(["b.avi", "a,b.mp4"]), found.table(["b.avi", "a,b.mp4"]))
    assert "codec=h264" not in measure(videos[:1], {}, {}).names  # one codec tells nothing
    with pytest.raises(DataError, match=r"no row for 1 video\(s\), 'c' first"):
        again.table(["b.avi", "c"])
    (tmp_path / "properties.csv").write_text(",".join(["video_id", *found.names]) + "\nx,1,wide,,,,,,0,0,1\n")
    with pytest.raises(DataError, match=r"properties\.csv, row 2: could not convert string to float: 'wide'"):
        read_properties(tmp_path / "properties.csv")


@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(2, 40))
@settings(max_examples=100, deadline=None)
def test_macro_auc_is_that_of_scikit_learn(seed, num_classes, count):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(num_classes), count).round(1)
    labels = rng.integers(num_classes, size=count)
    if num_classes == 2:
        expected = roc_auc_score(labels, probs[:, 1]) if len(set(labels)) == 2 else np.nan
    else:
        present = [k for k in range(num_classes) if 0 < (labels == k).sum() < count]
        areas = [roc_auc_score(labels == k, probs[:, k]) for k in present]
        expected = np.mean(areas) if areas else np.nan
    np.testing.assert_allclose(macro_auc(probs, labels), expected, atol=1e-12)


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    monkeypatch.setattr("pipeline.evaluation.controls.NUM_TREES", 30)


def crowd(told: float, num_classes: int = 2, num: int = 120):
    """Properties of videos in groups of three; the second column holds the class with the weight `told`."""
    rng = np.random.default_rng(5)
    labels = np.arange(num) % num_classes
    table = rng.normal(size=(num, 4))
    table[:, 1] += told * labels
    table[::7, 0] = np.nan
    table[:, 3] = np.nan  # nobody knows it
    groups = [f"g{n // 6}" for n in range(num)]
    fold_of = np.arange(num) // 6 % 3
    folds = [PropertyFold(np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)) for k in range(3)]
    return table, ["size_bytes", "width", "codec=a", "codec=b"], labels, groups, folds


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_planted_property_is_found_and_named(num_classes):
    scores = shortcut_scores(*crowd(6.0, num_classes), num_classes, samples=50, seed=0)
    assert scores["auc"] > 0.97
    assert scores["auc_low"] <= scores["auc"] <= scores["auc_high"] <= 1
    assert scores["accuracy_low"] <= scores["accuracy"] <= scores["accuracy_high"]
    assert scores["majority_accuracy"] == pytest.approx(1 / num_classes, abs=0.01)
    assert (scores["num_videos"], scores["num_groups"]) == (120, 20)
    assert list(scores["importances"]) == ["size_bytes", "width", "codec"]
    assert scores["importances"]["width"] > 0.3
    assert abs(scores["importances"]["codec"]) < 0.05
    assert scores == shortcut_scores(*crowd(6.0, num_classes), num_classes, samples=50, seed=0)


def test_noise_tells_nothing():
    scores = shortcut_scores(*crowd(0.0), 2, samples=50, seed=0)
    assert 0.3 < scores["auc"] < 0.65


def test_one_class_has_no_area():
    table, names, labels, groups, folds = crowd(1.0)
    scores = shortcut_scores(table, names, np.zeros_like(labels), groups, folds, 2, samples=10, seed=0)
    assert np.isnan([scores["auc"], scores["auc_low"], scores["importances"]["width"]]).all()
    assert scores["accuracy"] == scores["majority_accuracy"] == 1.0
