"""Every score against another implementation: scikit-learn where it has the score, else its published definition.

The definitions are written out with lists and loops and use no code of the project. Frame scores follow the evaluation
of MS-TCN (github.com/yabufarha/ms-tcn, eval.py) and the rules of `frame_metrics` for what that leaves open.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pipeline.errors import DataError
from pipeline.evaluation.clip_metrics import auc, clip_metrics, confusion_matrix, per_class_table, reliability
from pipeline.evaluation.frame_metrics import edit_score, frame_metrics

pytestmark = pytest.mark.slow  # 200 random cases each

CASES = settings(max_examples=200, deadline=None, derandomize=True, database=None)
IGNORED = -100
CLOSE = {"abs": 1e-9, "rel": 0, "nan_ok": True}


@st.composite
def answers(draw, num_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels: ties, certainty, one class only, all wrong and all right among them."""
    size = num_classes or draw(st.integers(2, 8))
    number = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, size, number)
    shape = draw(st.sampled_from(["smooth", "ties", "certain", "uniform"]))
    probs = {
        "smooth": rng.dirichlet(np.ones(size), number),
        "ties": rng.integers(1, 4, (number, size)) / 1.0,
        "certain": np.eye(size)[rng.integers(0, size, number)],
        "uniform": np.ones((number, size)),
    }[shape]
    kind = draw(st.sampled_from(["mixed", "mixed", "one class", "all right", "all wrong"]))
    if kind == "one class":
        labels = np.full(number, labels[0])
    elif kind == "all right":
        labels = probs.argmax(axis=1)
    elif kind == "all wrong":
        labels = (probs.argmax(axis=1) + 1) % size
    return probs / probs.sum(axis=1, keepdims=True), labels


def before_the_truth(row: Sequence[float], truth: int) -> int:
    """Classes that stand before the true one: more probable, or as probable with a lower index."""
    return sum(1 for c, p in enumerate(row) if p > row[truth] or (p == row[truth] and c < truth))


def calibration_error(probs: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, eq. 3."""
    total = 0.0
    for m in range(1, bins + 1):
        members = [i for i in range(len(labels)) if (m - 1) / bins < min(max(probs[i]), 1.0) <= m / bins]
        if members:
            accuracy = sum(1 for i in members if before_the_truth(probs[i], labels[i]) == 0) / len(members)
            confidence = sum(max(probs[i]) for i in members) / len(members)
            total += len(members) / len(labels) * abs(accuracy - confidence)
    return total


@pytest.mark.slow  # scikit-learn checks its arguments for milliseconds a call
@CASES
@given(answers())
def test_clip_scores(case):
    probs, labels = case
    number, size = probs.shape
    predicted = [max(range(size), key=lambda c: (row[c], -c)) for row in probs]
    present = sorted(set(labels.tolist()))
    expected = {
        "top1": sk.accuracy_score(labels, predicted),
        # The mean over the classes that occur: scikit-learn's balanced accuracy warns of predictions of others.
        "mean_class_accuracy": sk.recall_score(labels, predicted, labels=present, average="macro", zero_division=0),
        "macro_f1": sk.f1_score(labels, predicted, labels=present, average="macro", zero_division=0),
        "ece": calibration_error(probs, labels, 15),
        "nll": sk.log_loss(labels, probs, labels=range(size)),
        "num_videos": number,
        "num_classes_present": len(present),
    }
    if set(predicted) <= set(present) and len(present) > 1:
        assert expected["mean_class_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    if size > 5:
        expected["top5"] = sum(before_the_truth(row, c) < 5 for row, c in zip(probs, labels, strict=True)) / number
        if all(len(set(row)) == size for row in probs.tolist()):  # of ties scikit-learn takes the higher index first
            assert expected["top5"] == pytest.approx(sk.top_k_accuracy_score(labels, probs, k=5, labels=range(size)))
    if size == 2:
        expected["auc"] = sk.roc_auc_score(labels, probs[:, 1]) if len(present) == 2 else math.nan
    assert clip_metrics(probs, labels) == pytest.approx(expected, **CLOSE)


@pytest.mark.slow  # scikit-learn checks its arguments for milliseconds a call
@CASES
@given(answers())
def test_confusion_and_per_class_table(case):
    probs, labels = case
    size = probs.shape[1]
    predicted = probs.argmax(axis=1)
    matrix = confusion_matrix(labels, predicted, size)
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(labels, predicted, labels=range(size)))
    names = [f"class {index}" for index in range(size)]
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predicted, labels=range(size), zero_division=np.nan
    )
    for index, row in enumerate(per_class_table(probs, labels, names)):
        given_here = [i for i, c in enumerate(predicted) if c == index]
        assert row.pop("class") == names[index]
        assert row == pytest.approx(
            {
                "support": support[index],
                "predicted": len(given_here),
                "recall": recall[index],
                "precision": precision[index],
                # Without support f1 is 0 or undefined for scikit-learn, here always undefined.
                "f1": f1[index] if support[index] else math.nan,
                "mean_confidence": sum(probs[i][index] for i in given_here) / len(given_here)
                if given_here
                else math.nan,
            },
            **CLOSE,
        )


@CASES
@given(answers(), st.integers(1, 20))
def test_reliability(case, bins):
    probs, labels = case
    rows = reliability(probs, labels, bins)
    total = 0.0
    for m, row in enumerate(rows, start=1):
        members = [i for i in range(len(labels)) if (m - 1) / bins < min(max(probs[i]), 1.0) <= m / bins]
        right = [before_the_truth(probs[i], labels[i]) == 0 for i in members]
        assert row == pytest.approx(
            {
                "low": (m - 1) / bins,
                "high": m / bins,
                "count": len(members),
                "mean_confidence": sum(max(probs[i]) for i in members) / len(members) if members else math.nan,
                "accuracy": sum(right) / len(members) if members else math.nan,
            },
            **CLOSE,
        )
        total += row["count"] / len(labels) * abs(row["accuracy"] - row["mean_confidence"]) if members else 0.0
    assert len(rows) == bins
    assert total == pytest.approx(calibration_error(probs, labels, bins), abs=1e-9)


@CASES
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), max_size=20))
def test_auc(pairs):
    scores = np.array([score for score, _ in pairs])
    positive = np.array([is_positive for _, is_positive in pairs], dtype=bool)
    won = [
        (a > b) + (a == b) / 2
        for a, is_positive in pairs
        if is_positive
        for b, is_other_positive in pairs
        if not is_other_positive
    ]
    assert auc(scores, positive) == pytest.approx(sum(won) / len(won) if won else math.nan, **CLOSE)
    if won:
        assert auc(scores, positive) == pytest.approx(sk.roc_auc_score(positive, scores), abs=1e-9)


def runs_of(labels: Sequence[int], left_out: Sequence[int | None]) -> tuple[list[int], list[int], list[int]]:
    """MS-TCN's get_labels_start_end_time: labels, starts and ends of the segments."""
    names, starts, ends = [], [], []
    if not len(labels):
        return names, starts, ends
    last = labels[0]
    if last not in left_out:
        names.append(last)
        starts.append(0)
    for i in range(len(labels)):
        if labels[i] != last:
            if labels[i] not in left_out:
                names.append(labels[i])
                starts.append(i)
            if last not in left_out:
                ends.append(i)
            last = labels[i]
    if last not in left_out:
        ends.append(len(labels))
    return names, starts, ends


def levenshtein(a: Sequence[int], b: Sequence[int]) -> float:
    table = [[0.0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) + 1):
        table[i][0] = i
    for j in range(len(b) + 1):
        table[0][j] = j
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, same)
    return table[-1][-1]


def f_score(recognized: Sequence[int], truth: Sequence[int], overlap: float, left_out: Sequence[int | None]):
    """MS-TCN's f_score: tp, fp, fn. Where there is no true segment of the class it would fail or take none."""
    p_label, p_start, p_end = runs_of(recognized, left_out)
    y_label, y_start, y_end = runs_of(truth, left_out)
    tp = fp = 0
    hits = [0] * len(y_label)
    for j in range(len(p_label)):
        ratios = []
        for x in range(len(y_label)):
            intersection = min(p_end[j], y_end[x]) - max(p_start[j], y_start[x])
            union = max(p_end[j], y_end[x]) - min(p_start[j], y_start[x])
            ratios.append((1.0 * intersection / union) * (p_label[j] == y_label[x]))
        best = max(range(len(ratios)), key=lambda x: (ratios[x], -x)) if ratios else None
        if best is not None and ratios[best] >= overlap and not hits[best]:
            tp += 1
            hits[best] = 1
        else:
            fp += 1
    return tp, fp, len(y_label) - sum(hits)


def average_precision(positive: Sequence[bool], scores: Sequence[float]) -> float:
    """Timesteps sorted by score, those of one score taken together; precision summed over the gains in recall."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    total, right, taken = 0.0, 0, 0
    while taken < len(order):
        tied = [i for i in order[taken:] if scores[i] == scores[order[taken]]]
        gained = sum(positive[i] for i in tied)
        taken, right = taken + len(tied), right + gained
        total += right / taken * gained
    return total / sum(positive)


@st.composite
def recordings(draw):
    """Recordings in runs of labels: ignored stretches, background only, one class only and nothing known among them."""
    size = draw(st.integers(2, 5))
    background = draw(st.sampled_from([None, 0, size - 1]))
    classes = st.integers(0, size - 1)
    only = draw(st.sampled_from([None, None, None, background if background is not None else 0]))
    truths, predictions = [], []
    for _ in range(draw(st.integers(1, 3))):
        label = st.just(only) if only is not None else st.one_of(classes, classes, classes, st.just(IGNORED))
        parts = draw(st.lists(st.tuples(label, st.integers(1, 5)), max_size=6))
        truth = [name for name, length in parts for _ in range(length)]
        kind = draw(st.sampled_from(["runs", "right", "wrong", "background"]))
        if kind == "runs":
            given = [
                name for name, length in draw(st.lists(st.tuples(classes, st.integers(1, 5)))) for _ in range(length)
            ]
            given = (given + [draw(classes)] * len(truth))[: len(truth)]
        else:
            shift = {"right": 0, "wrong": 1, "background": 0}[kind]
            given = [(max(name, 0) + shift) % size for name in truth]
            if kind == "background":
                given = [background or 0] * len(truth)
        truths.append(truth)
        predictions.append(given)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    high = draw(st.sampled_from([3, 1000]))  # few values: ties
    probs = [rng.integers(1, high, (len(truth), size)).astype(float) for truth in truths]
    return size, background, truths, predictions, [p / p.sum(axis=1, keepdims=True) for p in probs]


@CASES
@given(recordings())
def test_frame_scores(case):
    size, background, truths, predictions, probs = case
    arrays = [np.array(truth, dtype=np.int64) for truth in truths], [np.array(p, dtype=np.int64) for p in predictions]
    kept = [(t, p, list(rows)) for t, p, rows in zip(truths, predictions, probs, strict=True) if set(t) - {IGNORED}]
    if not kept:
        with pytest.raises(DataError, match="no timestep to score"):
            frame_metrics(*arrays, num_classes=size, background=background, probs=probs)
        return
    result = frame_metrics(*arrays, num_classes=size, background=background, probs=probs)

    correct = total = correct_actions = total_actions = 0
    edits, counts = [], {0.10: [0, 0, 0], 0.25: [0, 0, 0], 0.50: [0, 0, 0]}
    names, rows = [], []
    for truth, predicted, video in kept:
        shown = [IGNORED if name == IGNORED else own for name, own in zip(truth, predicted, strict=True)]
        for name, own, row in zip(truth, predicted, video, strict=True):
            if name == IGNORED:
                continue
            total += 1
            correct += name == own
            if name != background:
                total_actions += 1
                correct_actions += name == own
            names.append(name)
            rows.append(row)
        left_out = (background, IGNORED)
        p, y = runs_of(shown, left_out)[0], runs_of(truth, left_out)[0]
        # MS-TCN divides by the longer one and fails where both are empty; nothing predicted of nothing is right here.
        edits.append(1 - levenshtein(p, y) / max(len(p), len(y)) if p or y else 1.0)
        for overlap, pooled in counts.items():
            for place, count in enumerate(f_score(shown, truth, overlap, left_out)):
                pooled[place] += count
    f1 = {}
    for overlap, (tp, fp, fn) in counts.items():
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / (tp + fn) if tp + fn else 0.0
        f1[overlap] = 2 * precision * recall / (precision + recall) if tp else float(tp + fp + fn == 0)
    precisions = []
    for index in sorted(set(names) - {background}):
        positive, scores = [name == index for name in names], [row[index] for row in rows]
        precisions.append(average_precision(positive, scores))
        assert precisions[-1] == pytest.approx(sk.average_precision_score(positive, scores), abs=1e-9)
    owns = [own for truth, guess, _ in kept for name, own in zip(truth, guess, strict=True) if name != IGNORED]
    recalls = [
        sum(own == name == index for name, own in zip(names, owns, strict=True)) / names.count(index)
        for index in sorted(set(names))
    ]
    expected = {
        "acc": correct / total,
        "acc_without_background": correct_actions / total_actions if total_actions else math.nan,
        "mean_class_accuracy": sum(recalls) / len(recalls),
        "edit": sum(edits) / len(edits),
        "f1_10": f1[0.10],
        "f1_25": f1[0.25],
        "f1_50": f1[0.50],
        "frame_map": sum(precisions) / len(precisions) if precisions else math.nan,
        "background_class": -1 if background is None else background,
    }
    assert {name: result[name] for name in expected} == pytest.approx(expected, **CLOSE)


@CASES
@given(st.lists(st.integers(0, 3), max_size=10), st.lists(st.integers(0, 3), max_size=10))
def test_edit_score(truth, predicted):
    longer = max(len(truth), len(predicted))
    expected = 1 - levenshtein(truth, predicted) / longer if longer else 1.0
    assert edit_score(np.array(truth), np.array(predicted)) == pytest.approx(expected, abs=1e-9)
