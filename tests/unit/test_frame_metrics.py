import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.labels import IGNORED
from pipeline.errors import DataError
from pipeline.evaluation.frame_metrics import OVERLAPS, edit_score, frame_metrics, overlap_counts, segments

NUM_CLASSES = 4
REPEATABLE = settings(max_examples=40, deadline=None, derandomize=True, database=None)


# Each score once more, from its definition, with lists and loops only.


def runs(labels: list[int], background: int | None) -> list[tuple[int, int, int]]:
    found = []
    for t in range(len(labels)):
        if t == 0 or labels[t] != labels[t - 1]:
            end = t
            while end < len(labels) and labels[end] == labels[t]:
                end += 1
            found.append((labels[t], t, end))
    return [run for run in found if run[0] not in (IGNORED, background)]


def hidden(truth: list[int], predicted: list[int]) -> list[int]:
    return [IGNORED if true == IGNORED else given for true, given in zip(truth, predicted, strict=True)]


def levenshtein(a: list[int], b: list[int]) -> int:
    table = [[max(i, j) if 0 in (i, j) else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            table[i][j] = min(change, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


def edit_by_definition(truth: list[int], predicted: list[int], background: int | None) -> float:
    a = [label for label, _, _ in runs(truth, background)]
    b = [label for label, _, _ in runs(hidden(truth, predicted), background)]
    return 1.0 if not a and not b else 1 - levenshtein(a, b) / max(len(a), len(b))


def counts_by_definition(truth, predicted, background, overlap) -> tuple[int, int, int]:
    true_runs, given_runs = runs(truth, background), runs(hidden(truth, predicted), background)
    used, tp, fp = set(), 0, 0
    for label, start, end in given_runs:
        best, best_ratio = None, -1.0
        for index, (true_label, true_start, true_end) in enumerate(true_runs):
            if true_label != label:
                continue
            ours, theirs = set(range(start, end)), set(range(true_start, true_end))
            ratio = len(ours & theirs) / len(ours | theirs)
            if ratio > best_ratio:
                best, best_ratio = index, ratio
        if best is not None and best_ratio >= overlap and best not in used:
            tp += 1
            used.add(best)
        else:
            fp += 1
    return tp, fp, len(true_runs) - len(used)


def f1_by_definition(videos, background, overlap) -> float:
    tp, fp, fn = (sum(c) for c in zip(*[counts_by_definition(*v, background, overlap) for v in videos], strict=True))
    if tp + fp + fn == 0:
        return 1.0
    if tp == 0:
        return 0.0
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return 2 * precision * recall / (precision + recall)


def average_precision(positive: list[bool], scores: list[float]) -> float:
    """Sum over the score's values, from the highest, of precision there x gain in recall."""
    total, recall_before = 0.0, 0.0
    for bound in sorted(set(scores), reverse=True):
        taken = [is_positive for is_positive, score in zip(positive, scores, strict=True) if score >= bound]
        precision, recall = sum(taken) / len(taken), sum(taken) / sum(positive)
        total += precision * (recall - recall_before)
        recall_before = recall
    return total


# Labels in runs, as in real videos; single labels would make segments of one timestep only.
LABELS = st.one_of(st.just(IGNORED), *[st.integers(0, NUM_CLASSES - 1)] * 5)


@st.composite
def video(draw):
    def expanded(label):
        parts = draw(st.lists(st.tuples(label, st.integers(1, 6)), min_size=1, max_size=8))
        return [value for value, length in parts for _ in range(length)]

    truth, predicted = expanded(LABELS), expanded(st.integers(0, NUM_CLASSES - 1))
    length = min(len(truth), len(predicted))
    return truth[:length], predicted[:length]


@REPEATABLE
@given(videos=st.lists(video(), min_size=1, max_size=4), background=st.sampled_from([None, 0, 2]), data=st.data())
def test_every_score_equals_its_definition(videos, background, data):
    scored = [v for v in videos if any(true != IGNORED for true in v[0])]
    pairs = [pair for v in scored for pair in zip(*v, strict=True) if pair[0] != IGNORED]
    truth, predicted = ([np.array(v[part]) for v in videos] for part in (0, 1))
    if not pairs:
        with pytest.raises(DataError, match="no timestep to score"):
            frame_metrics(truth, predicted, num_classes=NUM_CLASSES, background=background)
        return
    # Few distinct values, so that ties occur in the ranking.
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    probs = [rng.integers(1, 4, size=(len(t), NUM_CLASSES)).astype(float) for t in truth]
    probs = [p / p.sum(axis=1, keepdims=True) for p in probs]
    result = frame_metrics(truth, predicted, num_classes=NUM_CLASSES, background=background, probs=probs)

    present = sorted({true for true, _ in pairs})
    recalls = [np.mean([given == true for true, given in pairs if true == c]) for c in present]
    actions = [given == true for true, given in pairs if true != background]
    rows = [row for t, p in zip(truth, probs, strict=True) for true, row in zip(t, p, strict=True) if true != IGNORED]
    precisions = [
        average_precision([true == c for true, _ in pairs], [row[c] for row in rows])
        for c in present
        if c != background
    ]
    expected = {
        "acc": np.mean([given == true for true, given in pairs]),
        "acc_without_background": np.mean(actions) if actions else math.nan,
        "mean_class_accuracy": np.mean(recalls),
        "edit": np.mean([edit_by_definition(*v, background) for v in scored]),
        **{name: f1_by_definition(scored, background, overlap) for name, overlap in OVERLAPS.items()},
        "frame_map": np.mean(precisions) if precisions else math.nan,
        "background_class": -1 if background is None else background,
        "num_videos": len(scored),
        "num_videos_ignored": len(videos) - len(scored),
        "num_frames": len(pairs),
        "num_frames_ignored": sum(len(t) for t in truth) - len(pairs),
        "num_classes_present": len(present),
        "num_truth_segments": sum(len(runs(true, background)) for true, _ in scored),
        "num_predicted_segments": sum(len(runs(hidden(*v), background)) for v in scored),
    }
    assert result == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert all(type(value) is float for value in result.values())


@REPEATABLE
@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_edit_score_equals_the_full_table(a, b):
    expected = 1 - levenshtein(a, b) / max(len(a), len(b)) if a or b else 1.0
    assert edit_score(np.array(a), np.array(b)) == pytest.approx(expected)
    assert edit_score(np.array(b), np.array(a)) == pytest.approx(expected)


@REPEATABLE
@given(video(), st.sampled_from([None, 1]), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_overlap_counts_equal_the_set_arithmetic(pair, background, overlap):
    truth, predicted = pair
    counts = overlap_counts(
        segments(np.array(truth), background), segments(np.array(hidden(truth, predicted)), background), overlap
    )
    assert counts == counts_by_definition(truth, predicted, background, overlap)


def scores(truth, predicted, background=0, **more):
    return frame_metrics(
        [np.array(v) for v in truth], [np.array(v) for v in predicted], num_classes=4, background=background, **more
    )


def test_scores_worked_by_hand():
    #         background, 1 1 1 1, background, 2 2, 3 3
    truth = [[0, 0, 1, 1, 1, 1, 0, 0, 2, 2, 3, 3]]
    predicted = [[0, 1, 1, 1, 0, 1, 0, 0, 3, 3, 3, 3]]
    result = scores(truth, predicted)
    assert result["acc"] == pytest.approx(8 / 12)
    assert result["acc_without_background"] == pytest.approx(5 / 8)
    assert result["mean_class_accuracy"] == pytest.approx((3 / 4 + 3 / 4 + 0 + 1) / 4)
    # Segments 1 2 3 against 1 1 3: one change.
    assert result["edit"] == pytest.approx(2 / 3)
    # [1, 4) over [2, 6) = 2/5; [5, 6) over [2, 6) = 1/4, but that one is found already; [8, 12) over [10, 12) = 1/2.
    assert result["f1_10"] == result["f1_25"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert result["f1_50"] == pytest.approx(2 * 1 / (2 * 1 + 2 + 2))
    assert result["background_class"] == 0
    assert "frame_map" not in result
    # Without a background class the runs of 0 are segments as well: 0 1 0 2 3 against 0 1 0 1 0 3.
    without = scores(truth, predicted, background=None)
    assert without["edit"] == pytest.approx(1 - 2 / 6)
    assert without["num_truth_segments"] == 5
    assert without["background_class"] == -1


def test_a_bound_that_is_reached_counts():
    assert overlap_counts(segments(np.array([1] * 10), 0), segments(np.array([1] + [0] * 9), 0), 0.1) == (1, 0, 0)
    assert overlap_counts(segments(np.array([1] * 11), 0), segments(np.array([1] + [0] * 10), 0), 0.1) == (0, 1, 1)


@pytest.mark.parametrize(
    ("found", "length", "reached"), [(1, 2, 3), (4, 9, 2), (1, 4, 2), (2, 9, 1), (1, 10, 1), (1, 11, 0)]
)
def test_the_three_bounds(found, length, reached):
    result = scores([[1] * length], [[1] * found + [0] * (length - found)])
    assert [result["f1_10"], result["f1_25"], result["f1_50"]] == [1.0] * reached + [0.0] * (3 - reached)


def test_the_earlier_of_two_equal_overlaps_is_taken():
    # The second prediction shares 2 of 7 timesteps with either true segment; the first of these is found already.
    truth = [1, 1, 1, 1, 0, 1, 1, 1, 1]
    predicted = [1, 0, 1, 1, 1, 1, 1, 0, 0]
    assert counts_by_definition(truth, predicted, 0, 0.1) == (1, 1, 1)
    assert overlap_counts(segments(np.array(truth), 0), segments(np.array(predicted), 0), 0.1) == (1, 1, 1)


def test_there_is_no_second_choice():
    # Both predicted segments overlap the first true one most, so the second true one stays unfound.
    truth = [1] * 10 + [2] + [1] * 2
    predicted = [1] * 5 + [2] + [1] * 7
    assert counts_by_definition(truth, predicted, 2, 0.1) == (1, 1, 1)
    assert overlap_counts(segments(np.array(truth), 2), segments(np.array(predicted), 2), 0.1) == (1, 1, 1)


def test_perfect_labels_score_one():
    truth = [[0, 1, 1, 2, IGNORED, 2], [0, 0, 0], [3, 3]]
    predicted = [[0, 1, 1, 2, 1, 2], [0, 0, 0], [3, 3]]
    probs = [np.eye(4)[v] for v in predicted]
    result = scores(truth, predicted, probs=probs)
    fractions = ("acc", "acc_without_background", "mean_class_accuracy", "edit", "f1_10", "f1_25", "f1_50", "frame_map")
    assert {key: result[key] for key in fractions} == dict.fromkeys(fractions, 1.0)


def test_over_segmentation_costs_edit_and_f1_but_not_accuracy():
    truth = [[1] * 50 + [2] * 50]
    flicker = [[1] * 50 + [2] * 50]
    flicker[0][10:50:10] = [3] * 4
    result = scores(truth, flicker)
    assert result["acc"] == pytest.approx(0.96)
    assert result["edit"] == pytest.approx(1 - 8 / 10)
    # The first piece of ten finds the long segment at 0.1; seven more pieces and spots are false.
    assert result["f1_10"] == pytest.approx(2 * 2 / (2 * 2 + 8))


def test_a_video_without_actions():
    # MS-TCN's evaluation crashes here. Silence is right, an invented action is wrong.
    silent = scores([[0, 0, 0]], [[0, 0, 0]])
    assert (silent["edit"], silent["f1_50"], silent["num_truth_segments"]) == (1, 1, 0)
    assert math.isnan(silent["acc_without_background"])
    invented = scores([[0, 0, 0]], [[0, 1, 0]])
    assert (invented["edit"], invented["f1_10"]) == (0, 0)
    missed = scores([[0, 1, 0]], [[0, 0, 0]])
    assert (missed["edit"], missed["f1_10"]) == (0, 0)
    # Beside another video it counts in the mean of edit and adds nothing to the pooled F1.
    both = scores([[0, 0, 0], [1, 2, 2]], [[0, 0, 0], [1, 1, 1]])
    assert both["edit"] == pytest.approx((1 + 1 / 2) / 2)
    assert both["f1_10"] == pytest.approx(2 / 3)
    assert math.isnan(scores([[0, 0]], [[0, 0]], probs=[np.full((2, 4), 0.25)])["frame_map"])


def test_ignored_timesteps_count_nowhere_and_end_segments():
    truth = [[1, 1, IGNORED, IGNORED, 1, 1], [IGNORED, IGNORED]]
    one = scores(truth, [[1, 1, 2, 3, 1, 1], [0, 1]])
    other = scores(truth, [[1, 1, 1, 1, 1, 1], [2, 2]])
    assert one == other
    assert (one["acc"], one["edit"], one["f1_50"]) == (1, 1, 1)
    assert (one["num_truth_segments"], one["num_predicted_segments"]) == (2, 2)
    assert (one["num_videos"], one["num_videos_ignored"], one["num_frames"], one["num_frames_ignored"]) == (1, 1, 4, 4)


def test_mean_average_precision_worked_by_hand():
    # Class 1 ranked right, wrong, right: 1 x 1/2 + 2/3 x 1/2. Class 2 stands last of three: 1/3.
    truth = [[1, 0, 1], [2]]
    probs = [np.array([[0.1, 0.8, 0.1, 0], [0.1, 0.7, 0.2, 0], [0.2, 0.5, 0.3, 0]]), np.array([[0.7, 0.2, 0.1, 0]])]
    # Class 2's frame ties with the first of video 0 at 0.1: both enter together, precision 1/4.
    result = scores(truth, [[1, 1, 1], [0]], probs=probs)
    assert result["frame_map"] == pytest.approx(((1 / 2 + 1 / 3) + 1 / 4) / 2)


def test_long_videos_are_scored_in_reasonable_time():
    rng = np.random.default_rng(0)
    truth, predicted = np.repeat(rng.integers(0, 4, 300), 100), rng.integers(0, 4, 30_000)
    result = frame_metrics([truth], [predicted], num_classes=4, background=0)
    assert result["num_predicted_segments"] > 15_000
    assert result["f1_10"] == 0


def test_segments_of_nothing():
    found = segments(np.array([], dtype=np.int64), background=0)
    assert [len(part) for part in found] == [0, 0, 0]


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([], [], "truth of 0 videos"),
        ([[0]], [[0], [1]], "truth of 1 videos, predictions of 2"),
        ([[0, 1], [0, 1, 2]], [[0, 1], [0, 1]], "video 1 has 3 labels but 2 predictions.*same rate"),
        ([[0, 4]], [[0, 1]], r"truth of video 0\[1\] is 4; expected a class index from 0 to 3"),
        ([[0, -1]], [[0, 1]], r"truth of video 0\[1\] is -1"),
        ([[0, 1]], [[0, -100]], r"prediction of video 0\[1\] is -100"),
        ([[-100, -100]], [[0, 1]], "no timestep to score in 1 videos"),
        ([[]], [[]], "no timestep to score in 1 videos"),
    ],
)
def test_unusable_arguments_are_named(truth, predicted, message):
    with pytest.raises(DataError, match=message):
        scores(truth, predicted)


def test_unusable_background_and_probabilities():
    with pytest.raises(DataError, match="background is class 4; expected 0 to 3, or None"):
        scores([[0]], [[0]], background=4)
    with pytest.raises(DataError, match=r"probs of video 0 has shape \(1, 4\); expected \(2, 4\)"):
        scores([[0, 1]], [[0, 1]], probs=[np.full((1, 4), 0.25)])
    with pytest.raises(DataError, match="probabilities of 2 videos, truth of 1"):
        scores([[0]], [[0]], probs=[np.full((1, 4), 0.25)] * 2)
    with pytest.raises(DataError, match=r"probs of video 0\[0\] sums to nan"):
        scores([[0]], [[0]], probs=[np.full((1, 4), np.nan)])
