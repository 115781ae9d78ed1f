import math

import numpy as np
import pytest
from sklearn import metrics as reference

from pipeline.errors import DataError
from pipeline.evaluation.clip_metrics import auc, clip_metrics, confusion_matrix, per_class_table, reliability


def drawn(seed: int, num_videos: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities without ties and labels in which every class occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.resize(np.arange(num_classes), num_videos))
    logits = rng.normal(size=(num_videos, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    exp = np.exp(logits)
    return exp / exp.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize(("num_videos", "num_classes"), [(40, 2), (60, 3), (200, 9)])
def test_scores_equal_scikit_learn(num_videos, num_classes):
    for seed in range(5):
        probs, labels = drawn(seed, num_videos, num_classes)
        predicted = probs.argmax(axis=1)
        expected = {
            "top1": reference.accuracy_score(labels, predicted),
            "mean_class_accuracy": reference.balanced_accuracy_score(labels, predicted),
            "macro_f1": reference.f1_score(labels, predicted, average="macro"),
            "nll": reference.log_loss(labels, probs),
            "num_videos": num_videos,
            "num_classes_present": num_classes,
        }
        if num_classes > 5:
            expected["top5"] = reference.top_k_accuracy_score(labels, probs, k=5)
        if num_classes == 2:
            expected["auc"] = reference.roc_auc_score(labels, probs[:, 1])
        result = clip_metrics(probs, labels)
        expected["ece"] = ece_by_definition(probs, labels, 15)
        assert result == pytest.approx(expected, abs=1e-12)
        assert all(type(value) is float for value in result.values())
        np.testing.assert_array_equal(
            confusion_matrix(labels, predicted, num_classes), reference.confusion_matrix(labels, predicted)
        )


def ece_by_definition(probs: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, eq. 3, video by video and bin by bin."""
    total = 0.0
    for m in range(1, bins + 1):
        members = [i for i in range(len(labels)) if (m - 1) / bins < max(probs[i]) <= m / bins]
        if members:
            accuracy = sum(int(np.argmax(probs[i]) == labels[i]) for i in members) / len(members)
            confidence = sum(max(probs[i]) for i in members) / len(members)
            total += len(members) / len(labels) * abs(accuracy - confidence)
    return total


def test_scores_worked_by_hand():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    labels = np.array([0, 1, 1, 1])
    result = clip_metrics(probs, labels)
    assert result["top1"] == 0.75
    assert result["mean_class_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)  # tp 1, fp 1, fn 0; tp 2, fp 0, fn 1
    assert result["auc"] == 1.0  # 0.1 stands below 0.4, 0.7 and 0.8
    # Confidences 0.9, 0.6, 0.7, 0.8 lie in four different bins, only the second is wrong.
    assert result["ece"] == pytest.approx((0.1 + 0.6 + 0.3 + 0.2) / 4)
    assert result["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.7) + math.log(0.8)) / 4)
    assert "top5" not in result


def test_equal_probabilities_go_to_the_lower_class():
    labels = np.arange(10)
    result = clip_metrics(np.full((10, 10), 0.1), labels)
    assert result["top1"] == 0.1
    assert result["top5"] == 0.5
    probs = np.array([[0.4, 0.4, 0.2]])
    assert clip_metrics(probs, np.array([0]))["top1"] == 1
    assert clip_metrics(probs, np.array([1]))["top1"] == 0


def test_auc_equals_scikit_learn_also_with_ties():
    rng = np.random.default_rng(0)
    for num_values in (2, 5, 1000):
        scores, positive = rng.integers(0, num_values, 70) / num_values, rng.random(70) < 0.3
        assert auc(scores, positive) == pytest.approx(reference.roc_auc_score(positive, scores), abs=1e-12)
    assert math.isnan(auc(np.array([0.5]), np.array([True])))
    assert math.isnan(auc(np.array([0.5]), np.array([False])))
    assert math.isnan(auc(np.array([]), np.array([], dtype=bool)))


def test_auc_counts_ties_one_half():
    assert clip_metrics(np.full((4, 2), 0.5), np.array([0, 1, 0, 1]))["auc"] == 0.5


def test_class_without_videos_is_left_out_and_stated():
    # Perfect predictions must score 1, whichever classes the split happens to lack.
    probs = np.eye(4)[[0, 2, 2]]
    result = clip_metrics(probs, np.array([0, 2, 2]))
    assert result["macro_f1"] == result["mean_class_accuracy"] == result["top1"] == 1
    assert result["num_classes_present"] == 2
    # A wrong answer that falls into an absent class costs the true class only.
    probs = np.eye(4)[[0, 3, 2]]
    result = clip_metrics(probs, np.array([0, 2, 2]))
    assert result["mean_class_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert result["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_one_class_only():
    result = clip_metrics(np.array([[0.3, 0.7], [0.6, 0.4]]), np.array([1, 1]))
    assert math.isnan(result["auc"])
    assert result["top1"] == result["mean_class_accuracy"] == 0.5
    assert result["num_classes_present"] == 1


def test_certain_and_wrong_has_a_finite_loss():
    probs, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 1])
    result = clip_metrics(probs, labels)
    assert result["nll"] == pytest.approx(-math.log(2**-52) / 2)
    assert result["nll"] == pytest.approx(reference.log_loss(labels, probs, labels=[0, 1]))
    assert result["ece"] == 0.5


def test_bins_are_closed_above():
    # 0.6 is the upper edge of bin 9 of 15 and 0.5 that of bin 5 of 10; one step above is the next bin.
    probs = np.array([[0.6, 0.4], [np.nextafter(0.6, 1), 1 - np.nextafter(0.6, 1)], [1.0, 0.0], [1 + 1e-7, 0.0]])
    rows = reliability(probs, np.array([0, 1, 0, 0]))
    assert len(rows) == 15
    assert {index: row["count"] for index, row in enumerate(rows) if row["count"]} == {8: 1, 9: 1, 14: 2}
    assert rows[8]["accuracy"] == 1
    assert rows[9]["accuracy"] == 0
    assert rows[8]["high"] == rows[9]["low"] == pytest.approx(0.6)
    assert math.isnan(rows[0]["accuracy"])
    assert math.isnan(rows[0]["mean_confidence"])
    halves = reliability(np.array([[0.5, 0.5]]), np.array([0]), bins=10)
    assert [row["count"] for row in halves] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_reliability_of_drawn_probabilities():
    probs, labels = drawn(3, 500, 4)
    rows = reliability(probs, labels, bins=7)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    assert sum(row["count"] for row in rows) == 500
    for m, row in enumerate(rows):
        inside = (confidence > m / 7) & (confidence <= (m + 1) / 7)
        assert row["count"] == inside.sum()
        if inside.any():
            assert row["mean_confidence"] == pytest.approx(confidence[inside].mean())
            assert row["accuracy"] == pytest.approx(right[inside].mean())


def test_per_class_table_equals_scikit_learn():
    probs, labels = drawn(7, 120, 5)
    predicted = probs.argmax(axis=1)
    names = ["jump", "run", "sit", "stand", "wave"]
    precision, recall, f1, support = reference.precision_recall_fscore_support(labels, predicted)
    rows = per_class_table(probs, labels, names)
    assert [row["class"] for row in rows] == names
    assert [row["support"] for row in rows] == support.tolist()
    for index, row in enumerate(rows):
        values = [row["precision"], row["recall"], row["f1"]]
        assert values == pytest.approx([precision[index], recall[index], f1[index]])
        given = predicted == index
        assert row["predicted"] == given.sum()
        assert row["mean_confidence"] == pytest.approx(probs[given].max(axis=1).mean())
    assert clip_metrics(probs, labels)["macro_f1"] == pytest.approx(np.mean([row["f1"] for row in rows]))


def test_per_class_table_of_classes_never_seen_or_never_given():
    probs = np.array([[0.8, 0.1, 0.1, 0.0], [0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.8, 0.0]])
    kept, missed, invented, neither = per_class_table(probs, np.array([0, 1, 0]), ["a", "b", "c", "d"])
    assert kept == {
        "class": "a",
        "support": 2,
        "predicted": 2,
        "recall": 0.5,
        "precision": 0.5,
        "f1": 0.5,
        "mean_confidence": pytest.approx(0.75),
    }
    assert (missed["support"], missed["recall"], missed["f1"]) == (1, 0, 0)
    assert math.isnan(missed["precision"])
    assert math.isnan(missed["mean_confidence"])
    assert invented["precision"] == 0
    assert math.isnan(invented["recall"])
    assert math.isnan(invented["f1"])
    assert all(math.isnan(neither[key]) for key in ("recall", "precision", "f1", "mean_confidence"))


def test_half_precision_probabilities_are_accepted():
    probs, labels = drawn(1, 50, 101)
    assert clip_metrics(probs.astype(np.float16), labels)["nll"] == pytest.approx(
        clip_metrics(probs, labels)["nll"], rel=1e-3
    )


def test_confusion_matrix_of_nothing():
    empty = np.array([], dtype=np.int64)
    np.testing.assert_array_equal(confusion_matrix(empty, empty, 3), np.zeros((3, 3)))


GOOD = np.array([[0.5, 0.5], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (np.empty((0, 2)), np.array([], dtype=int), "no video to score"),
        (GOOD, np.array([0]), "2 rows of probabilities but 1 labels"),
        (GOOD, np.array([0, 2]), r"labels\[1\] is 2; expected a class index from 0 to 1"),
        (GOOD, np.array([-100, 0]), r"labels\[0\] is -100"),
        (GOOD, np.array([0.0, 1.0]), r"labels has shape \(2,\) and type float64"),
        (GOOD, np.array([[0, 1]]), r"labels has shape \(1, 2\)"),
        (np.array([[0.5, 0.5], [np.nan, 0.5]]), np.array([0, 1]), r"probs\[1\] sums to nan"),
        (np.array([[2.0, -1.0], [0.5, 0.5]]), np.array([0, 1]), r"probs\[0\] sums to 1, its least value is -1"),
        (np.array([[3.0, 1.0], [0.5, 0.5]]), np.array([0, 1]), r"probs\[0\] sums to 4.*logits"),
        (np.ones((2, 1)), np.array([0, 0]), r"probs has shape \(2, 1\); expected \(N, K\) with 2 or more classes"),
    ],
)
def test_unusable_arguments_are_named(probs, labels, message):
    with pytest.raises(DataError, match=message):
        clip_metrics(probs, labels)


def test_unusable_arguments_of_the_other_functions():
    with pytest.raises(DataError, match="3 class names but 2 columns"):
        per_class_table(GOOD, np.array([0, 1]), ["a", "b", "c"])
    with pytest.raises(DataError, match="1 labels but 2 predictions"):
        confusion_matrix(np.array([0]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="bins is 0; expected 1 or more"):
        reliability(GOOD, np.array([0, 1]), bins=0)
