import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline.data.labels import IGNORED
from pipeline.errors import DataError
from pipeline.evaluation import controls

LADDER = [controls.single_frame, controls.mean_pool, controls.mean_and_motion]


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(probs.argmax(axis=1) == labels))


def appearance(seed: int, num_videos: int, num_classes: int = 3, size: int = 12) -> tuple[list[np.ndarray], np.ndarray]:
    """Videos of 3 to 20 noisy frames around a point that the class decides."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.resize(np.arange(num_classes), num_videos))
    centres = 3 * np.eye(num_classes, size)
    videos = [centres[label] + rng.normal(size=(rng.integers(3, 21), size)) for label in labels]
    return [video.astype(np.float16) for video in videos], labels


def motion(seed: int, num_videos: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Class 0 drifts slowly, class 1 jumps; single frames and means of both come from one distribution."""
    rng = np.random.default_rng(seed)
    labels = np.resize([0, 1], num_videos)
    videos = []
    for label in labels:
        video = np.sort(rng.normal(size=(16, 6)), axis=0)
        videos.append((rng.permutation(video) if label else video).astype(np.float32))
    return videos, labels


def order(seed: int, num_videos: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Class 0 rises, class 1 is the same thing backwards."""
    rng = np.random.default_rng(seed)
    labels = np.resize([0, 1], num_videos)
    videos = [np.sort(rng.normal(size=(16, 6)), axis=0) for _ in labels]
    return [video[::-1] if label else video for video, label in zip(videos, labels, strict=True)], labels


def test_majority_gives_the_training_frequencies():
    probs = controls.majority(np.array([2, 2, 0, 2]), 3, num_classes=4)
    np.testing.assert_array_equal(probs, [[0.25, 0, 0.75, 0]] * 3)
    assert controls.majority(np.array([1, 0]), 1, 3).argmax() == 0
    assert controls.majority(np.array([1]), 0, 3).shape == (0, 3)


def test_majority_of_timesteps_leaves_ignored_ones_out():
    probs = controls.majority_labels([np.array([0, 1, 1, IGNORED]), np.array([1, IGNORED])], [2, 3], num_classes=2)
    assert [video.shape for video in probs] == [(2, 2), (3, 2)]
    np.testing.assert_array_equal(probs[1], [[0.25, 0.75]] * 3)


@pytest.mark.parametrize("control", LADDER)
def test_linear_controls_see_appearance(control):
    train, train_labels = appearance(0, 60)
    test, labels = appearance(1, 40)
    probs = control(train, train_labels, test, 3, 0)
    assert probs.shape == (40, 3)
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert accuracy(probs, labels) >= 0.95
    # Labels drawn at random cannot be learned: nothing of the test side reaches the fit.
    rng = np.random.default_rng(2)
    assert accuracy(control(train, rng.permutation(train_labels), test, 3, 0), labels) < 0.7


def test_only_mean_and_motion_sees_motion():
    train, train_labels = motion(0, 120)
    test, labels = motion(1, 100)
    assert accuracy(controls.mean_and_motion(train, train_labels, test, 2, 0), labels) > 0.95
    assert accuracy(controls.mean_pool(train, train_labels, test, 2, 0), labels) < 0.65
    assert accuracy(controls.single_frame(train, train_labels, test, 2, 0), labels) < 0.65


@pytest.mark.parametrize("control", LADDER)
def test_no_control_sees_order(control):
    train, train_labels = order(0, 120)
    test, labels = order(1, 100)
    assert accuracy(control(train, train_labels, test, 2, 0), labels) < 0.65
    backwards = control(train, train_labels, [video[::-1] for video in test], 2, 0)
    np.testing.assert_allclose(backwards, control(train, train_labels, test, 2, 0), atol=1e-5)


def test_mean_pool_is_the_regression_it_says():
    train, train_labels = appearance(0, 60)
    test, _ = appearance(1, 20)
    means, test_means = (np.stack([v.astype(np.float64).mean(axis=0) for v in part]) for part in (train, test))
    scaler = StandardScaler().fit(means)
    reference = LogisticRegression(C=10 / 12, max_iter=2000).fit(scaler.transform(means), train_labels)
    expected = reference.predict_proba(scaler.transform(test_means))
    np.testing.assert_allclose(controls.mean_pool(train, train_labels, test, 3, 0), expected, atol=2e-3)


def test_single_frame_is_the_mean_over_all_frames():
    train, train_labels = appearance(0, 60)
    video = appearance(1, 1)[0][0]
    together = controls.single_frame(train, train_labels, [video], 3, 0)[0]
    alone = controls.single_frame(train, train_labels, [frame[None] for frame in video], 3, 0)
    np.testing.assert_allclose(together, alone.mean(axis=0), atol=1e-6)


def test_single_frame_takes_eight_evenly_spaced_training_frames():
    # Sixteen frames: those at 1, 3, 5, ... are chosen. The others carry the other class's look and must not be read.
    labels = np.resize([0, 1], 30)
    rng = np.random.default_rng(0)
    train = [rng.normal(size=(16, 4)) for _ in labels]
    for video, label in zip(train, labels, strict=True):
        video[1::2, 0] += 8 * label
        video[0::2, 0] += 8 * (1 - label)
    probs = controls.single_frame(train, labels, [np.array([[8.0, 0, 0, 0]]), np.array([[0.0, 0, 0, 0]])], 2, 0)
    assert probs.argmax(axis=1).tolist() == [1, 0]


def test_many_videos_give_fewer_frames_each(monkeypatch):
    train, train_labels = appearance(0, 60)
    monkeypatch.setattr(controls, "MAX_TRAINING_FRAMES", 130)
    sizes = []
    fit = controls._fit
    monkeypatch.setattr(controls, "_fit", lambda inputs, *rest: sizes.append(len(inputs)) or fit(inputs, *rest))
    controls.single_frame(train, train_labels, train[:2], 3, 0)
    per_timestep = [np.full(len(video), label) for video, label in zip(train, train_labels, strict=True)]
    controls.single_frame_labels(train, per_timestep, train[:2], 3, 0)
    assert sizes == [120, 130]


@pytest.mark.parametrize("control", LADDER)
def test_classes_without_training_videos_have_probability_zero(control):
    train, train_labels = appearance(0, 30, num_classes=2)
    test, labels = appearance(1, 10, num_classes=2)
    probs = control(train, np.where(train_labels == 0, 1, 3), test, 5, 0)
    assert (probs[:, [0, 2, 4]] == 0).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert accuracy(probs, np.where(labels == 0, 1, 3)) >= 0.9
    only = control(train, np.full(30, 4), test, 5, 0)
    np.testing.assert_array_equal(only, np.eye(5)[[4] * 10])
    assert control(train, train_labels, [], 2, 0).shape == (0, 2)


@pytest.mark.parametrize("control", LADDER)
def test_constant_silent_and_huge_channels_are_harmless(control):
    train, train_labels = appearance(0, 60)
    test, labels = appearance(1, 40)
    rng = np.random.default_rng(3)

    def with_odd_channels(videos, silent_value):
        odd = []
        for video in videos:
            more = np.zeros((len(video), 3), dtype=np.float32)
            more[:, 0] = 1e4
            more[:, 1] = 1e6 * rng.normal(size=len(video))
            more[:, 2] = silent_value
            odd.append(np.concatenate([video.astype(np.float32), more], axis=1))
        return odd

    # The third channel is silent but for one training frame, and loud in the test videos.
    train = with_odd_channels(train, 0.0)
    train[0][0, -1] = 1e-4
    probs = control(train, train_labels, with_odd_channels(test, 5.0), 3, 0)
    assert accuracy(probs, labels) >= 0.9


@pytest.mark.parametrize("control", LADDER)
def test_videos_of_one_frame(control):
    train = [np.array([[float(label), 0.0]]) for label in [0, 1] * 10]
    probs = control(train, np.resize([0, 1], 20), [np.array([[0.0, 0.0]]), np.array([[1.0, 0.0]])], 2, 0)
    assert probs.argmax(axis=1).tolist() == [0, 1]


def test_equal_arguments_give_equal_results(monkeypatch):
    monkeypatch.setattr(controls, "NUM_TREES", 20)
    train, train_labels = appearance(0, 40)
    test, _ = appearance(1, 10)
    for control in LADDER:
        first = control(train, train_labels, test, 3, 7)
        np.testing.assert_array_equal(control(train, train_labels, test, 3, 7), first)
    table = np.random.default_rng(0).normal(size=(40, 3))
    first = controls.file_properties(table, train_labels, table[:10], 3, 7)
    np.testing.assert_array_equal(controls.file_properties(table, train_labels, table[:10], 3, 7), first)
    assert (controls.file_properties(table, train_labels, table[:10], 3, 8) != first).any()


@pytest.mark.slow
def test_file_properties_find_a_shortcut_and_nothing_in_noise():
    rng = np.random.default_rng(0)

    def table(labels):
        widths = np.where(labels == 1, 1280, rng.choice([320, 640], len(labels)))
        return np.column_stack([widths, rng.normal(size=len(labels)), rng.integers(10**6, 10**9, len(labels))])

    train_labels, labels = rng.integers(0, 2, 120), rng.integers(0, 2, 80)
    train, test = table(train_labels), table(labels)
    probs = controls.file_properties(train, train_labels, test, 2, 0)
    assert probs.shape == (80, 2)
    assert accuracy(probs, labels) >= 0.95
    assert accuracy(controls.file_properties(train[:, 1:], train_labels, test[:, 1:], 2, 0), labels) < 0.65


def test_file_properties_with_unknown_values_and_absent_classes(monkeypatch):
    monkeypatch.setattr(controls, "NUM_TREES", 20)
    labels = np.resize([1, 3], 40)
    train = np.column_stack([np.where(labels == 3, 30.0, np.nan), np.full(40, np.nan), np.arange(40.0)])
    probs = controls.file_properties(train, labels, np.array([[30.0, np.nan, np.nan], [np.nan, 1.0, 3.0]]), 4, 0)
    assert probs.argmax(axis=1).tolist() == [3, 1]
    assert (probs[:, [0, 2]] == 0).all()
    assert controls.file_properties(train, labels, train[:0], 4, 0).shape == (0, 4)
    only = controls.file_properties(train, np.full(40, 2), train[:3], 4, 0)
    np.testing.assert_array_equal(only, np.eye(4)[[2] * 3])


def test_single_frame_labels_one_row_per_timestep():
    rng = np.random.default_rng(0)

    def labelled(num_videos):
        labels = [np.repeat(rng.integers(0, 3, 6), 5) for _ in range(num_videos)]
        return [3 * np.eye(3, 8)[part] + rng.normal(size=(30, 8)) for part in labels], labels

    train, train_labels = labelled(12)
    test, labels = labelled(4)
    probs = controls.single_frame_labels(train, train_labels, test, 3, 0)
    assert [video.shape for video in probs] == [(30, 3)] * 4
    assert accuracy(np.concatenate(probs), np.concatenate(labels)) > 0.9
    # What is ignored is not trained on: wrong features there change nothing.
    ignored = [np.where(np.arange(30) < 10, IGNORED, part) for part in train_labels]
    spoiled = [np.where(np.arange(30)[:, None] < 10, 100.0, video) for video in train]
    clean = controls.single_frame_labels(train, ignored, test, 3, 0)
    for one, other in zip(clean, controls.single_frame_labels(spoiled, ignored, test, 3, 0), strict=True):
        np.testing.assert_array_equal(one, other)


def test_reverse_opposites_counts_right_videos_with_an_opposite():
    opposite = {0: 1, 1: 0}
    labels = np.array([0, 0, 1, 1, 2, 2])
    predicted = np.array([0, 0, 1, 0, 2, 2])  # the fourth is wrong, class 2 has no opposite
    backwards = np.array([1, 0, 0, 1, 0, 1])
    assert controls.reverse_opposites(predicted, backwards, labels, opposite) == pytest.approx(2 / 3)
    assert controls.reverse_opposites(predicted, predicted, labels, opposite) == 0
    assert math.isnan(controls.reverse_opposites(predicted, backwards, labels, {}))
    assert math.isnan(controls.reverse_opposites(1 - labels, backwards, labels, opposite))
    with pytest.raises(DataError, match="expected one of each for every video"):
        controls.reverse_opposites(predicted, backwards[:2], labels, opposite)


VIDEO = np.ones((2, 3))


@pytest.mark.parametrize("control", LADDER)
@pytest.mark.parametrize(
    ("train", "labels", "test", "message"),
    [
        ([], np.array([], dtype=int), [], "no training label"),
        ([VIDEO], np.array([0, 1]), [], "1 training videos but 2 labels"),
        ([VIDEO], np.array([5]), [], r"train_labels\[0\] is 5; expected a class index from 0 to 2"),
        ([VIDEO], np.array([IGNORED]), [], r"train_labels\[0\] is -100"),
        ([VIDEO], np.array([0]), [np.ones((2, 4))], r"test video 0 have shape \(2, 4\); expected \(T, 3\)"),
        ([VIDEO, np.ones((0, 3))], np.array([0, 1]), [], r"training video 1 have shape \(0, 3\)"),
        ([VIDEO, VIDEO * np.nan], np.array([0, 1]), [], "training video 1 .* expected .* finite"),
    ],
)
def test_unusable_arguments_are_named(control, train, labels, test, message):
    with pytest.raises(DataError, match=message):
        control(train, labels, test, 3, 0)


def test_unusable_tables_and_timestep_labels():
    labels = np.array([0, 1])
    with pytest.raises(DataError, match="a file property is infinite"):
        controls.file_properties(np.array([[1.0], [np.inf]]), labels, np.array([[1.0]]), 2, 0)
    with pytest.raises(DataError, match="tables have shapes"):
        controls.file_properties(np.ones((2, 2)), labels, np.ones((1, 3)), 2, 0)
    with pytest.raises(DataError, match="3 rows but 2 labels"):
        controls.file_properties(np.ones((3, 2)), labels, np.ones((1, 2)), 2, 0)
    with pytest.raises(DataError, match="training video 0 has 2 timesteps but 3 labels"):
        controls.single_frame_labels([VIDEO], [np.array([0, 1, 1])], [], 2, 0)
    with pytest.raises(DataError, match="1 videos but labels of 0"):
        controls.single_frame_labels([VIDEO], [], [], 2, 0)
    with pytest.raises(DataError, match="no training label"):
        controls.single_frame_labels([VIDEO], [np.array([IGNORED, IGNORED])], [], 2, 0)
    with pytest.raises(DataError, match="no training label"):
        controls.majority_labels([], [3], 2)
