"""Temperatures and thresholds whose answers are known: planted, worked out by hand, or simulated many times."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtri, softmax
from scipy.stats import binomtest, ttest_1samp

from pipeline.errors import DataError
from pipeline.evaluation.calibration import (
    PRECISIONS,
    CalibratedAnswers,
    abstain_thresholds,
    calibration_scores,
    design_effect,
    fit_calibration,
    fit_temperature,
    gain_is_certain,
)
from pipeline.evaluation.clip_metrics import clip_metrics
from pipeline.models.calibration import Calibration

temperatures = st.floats(0.3, 4)
NUMBER = np.arange(200)


def drawn(temperature: float, seed: int, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that this temperature would make right, (N, 3), and labels drawn from the right ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 3))
    right = softmax(logits, axis=1)
    labels = (rng.random(count)[:, None] > right.cumsum(axis=1)[:, :2]).sum(axis=1)
    return softmax(logits * temperature, axis=1), labels


def losses(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -np.log(probs[np.arange(len(labels)), labels])


@settings(max_examples=25, deadline=None)
@given(temperatures, st.integers(0, 99))
def test_a_planted_temperature_is_found(temperature: float, seed: int) -> None:
    probs, labels = drawn(temperature, seed)
    found = fit_temperature(probs, labels, np.arange(len(labels)))
    assert np.log(found) == pytest.approx(np.log(temperature), abs=0.17)
    assert np.log(
        fit_temperature(probs**2 / (probs**2).sum(axis=1, keepdims=True), labels, np.arange(len(labels)))
    ) == (pytest.approx(np.log(2 * temperature), abs=0.17))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_likelihood_of_the_validation_side_never_falls(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    weights = data.draw(arrays(np.float64, (count, 4), elements=st.floats(0.01, 1)))
    probs = weights / weights.sum(axis=1, keepdims=True)
    labels = data.draw(arrays(np.int64, count, elements=st.integers(0, 3)))
    groups = data.draw(arrays(np.int64, count, elements=st.integers(0, 5)))
    calibration = fit_calibration(probs, labels, groups)
    assert 0.05 <= calibration.temperature <= 20
    assert losses(calibration.apply(probs), labels).mean() <= losses(probs, labels).mean() + 1e-12


@given(arrays(np.float32, (6, 5), elements=st.floats(0, 30, width=32)), st.floats(0.05, 20))
def test_no_answer_changes(logits: np.ndarray, temperature: float) -> None:
    probs = softmax(logits, axis=1)
    calibrated = Calibration(temperature).apply(probs)
    assert calibrated.dtype == np.float32
    np.testing.assert_array_equal(calibrated.argmax(axis=1), probs.argmax(axis=1))
    np.testing.assert_allclose(calibrated.sum(axis=1), 1, atol=1e-5)
    assert (calibrated >= 0).all()


def test_two_neighbours_that_round_to_one_number_keep_their_order() -> None:
    probs = np.array([[0.3333333, 0.33333334, 0.3333333]], np.float32)
    assert probs.argmax() == 1
    assert Calibration(20.0).apply(probs).argmax() == 1


def test_a_temperature_divides_logits_and_one_does_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 7, 4)) * 5
    np.testing.assert_allclose(Calibration(2.5).apply(softmax(logits, -1)), softmax(logits / 2.5, -1), atol=1e-12)
    np.testing.assert_allclose(
        Calibration(0.1).apply(np.array([0.2, 0.8])), np.array([0.2**10, 0.8**10]) / (0.2**10 + 0.8**10)
    )
    np.testing.assert_allclose(Calibration(0.05).apply(np.array([0, 1e-30, 1.0], np.float32)), [0, 0, 1])
    probs = softmax(logits, -1).astype(np.float32)
    assert Calibration().apply(probs) is probs


def test_a_side_without_a_mistake_makes_surer_but_not_certain() -> None:
    probs = np.column_stack([np.linspace(0.7, 0.99, 80), 1 - np.linspace(0.7, 0.99, 80)])
    labels = np.zeros(80, np.int64)
    found = fit_temperature(probs, labels, np.arange(80))
    assert 0.3 < found < 0.7
    # Fewer answers leave it nearer to 1; a single group, which tells nothing about others, at 1.
    assert found < fit_temperature(probs[::8], labels[::8], np.arange(10)) < 1
    assert fit_temperature(probs, labels, np.zeros(80)) == 1.0


def test_what_is_no_more_than_chance_changes_nothing() -> None:
    probs, labels = drawn(1.0, seed=3, count=60)
    assert fit_temperature(probs, labels, np.arange(60)) == 1.0
    # The same answers in four groups, where one group alone pulls at the temperature.
    over = np.tile([[0.9, 0.1]], (160, 1))
    groups = np.repeat(np.arange(4), 40)
    wrong_in_one = (groups == 0).astype(np.int64)
    assert fit_temperature(over, wrong_in_one, np.arange(160)) > 1.3
    assert fit_temperature(over, wrong_in_one, groups) == 1.0


def test_one_class_and_certain_answers_are_no_trouble() -> None:
    sure = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert fit_calibration(sure, np.array([0, 0, 0]), np.arange(3)).temperature == pytest.approx(1, abs=1e-4)
    certain_and_wrong = fit_calibration(sure, np.array([0, 1, 1]), np.arange(3))
    assert np.isfinite(certain_and_wrong.temperature)
    assert certain_and_wrong.temperature >= 1
    assert all(at is None for _, at in certain_and_wrong.thresholds)


def test_answers_labels_and_groups_must_match() -> None:
    probs, labels = drawn(1.0, seed=0, count=4)
    with pytest.raises(DataError, match="4 answers, 3 labels and 4 groups"):
        fit_calibration(probs, labels[:3], np.arange(4))
    with pytest.raises(DataError, match=r"probs\[0\] sums to"):
        fit_calibration(probs * 2, labels, np.arange(4))
    with pytest.raises(DataError, match=r"labels\[3\] is 3; expected a class index from 0 to 2"):
        fit_calibration(probs, np.array([0, 1, 2, 3]), np.arange(4))


def test_the_design_effect_by_hand() -> None:
    # Four groups of two equal answers. Sums of the groups 2, -2, 2, -2: 16 * 4 / 3; variance of the answers 8 / 7.
    assert design_effect(np.array([1.0, 1, -1, -1, 1, 1, -1, -1]), NUMBER[:8] // 2) == pytest.approx(
        16 * 4 / 3 / (64 / 7)
    )
    assert design_effect(np.array([1.0, -1, 1, -1]), np.array(["a", "a", "b", "b"])) == 1.0  # never below one
    assert design_effect(np.array([1.0, 2, 3]), np.array(["a", "a", "a"])) == 3.0
    assert design_effect(np.ones(4), NUMBER[:4]) == 1.0
    values = np.random.default_rng(0).normal(size=200)
    assert design_effect(values, NUMBER) == pytest.approx(1)
    assert design_effect(np.repeat(values, 5), np.repeat(NUMBER, 5)) == pytest.approx(5, rel=0.01)


def test_a_gain_is_certain_by_the_t_test_over_groups() -> None:
    values = np.random.default_rng(0).normal(size=12)
    low = ttest_1samp(values, 0).confidence_interval(0.95).low
    assert gain_is_certain(values - low + 1e-6, np.arange(12))
    assert not gain_is_certain(values - low - 1e-6, np.arange(12))
    # Three copies of each tell no more than one.
    thrice, groups = np.repeat(values - low, 3), np.repeat(np.arange(12), 3)
    assert gain_is_certain(thrice + 1e-6, groups)
    assert not gain_is_certain(thrice - 1e-6, groups)
    assert gain_is_certain(thrice - 1e-6, np.arange(36))
    assert not gain_is_certain(np.ones(9), np.zeros(9))
    assert not gain_is_certain(np.zeros(9), np.arange(9))


def test_thresholds_by_hand() -> None:
    # 30 answers of their own groups, 0.99 to 0.70, the one at 0.74 wrong. The limit is 1 - 0.1 ** (1 / K) without a
    # mistake: 0.0880 of 25, 0.109 of 20; of 30 with one it is 0.124.
    confidence = np.round(0.99 - 0.01 * np.arange(30), 2)
    found = dict(abstain_thresholds(confidence, np.arange(30) != 25, np.arange(30)))
    assert found[0.8] == 0.70
    assert found[0.85] == 0.71  # the mean confidence of all is 0.845
    assert found[0.9] is None  # 21 answers have a limit of 0.104 and a mean of 0.89, 22 of 0.099 and 0.885


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(5, 80), st.floats(0.5, 1), st.integers(0, 99))
def test_thresholds_are_those_of_exact_binomial_limits(count: int, level: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(level, 1, count).round(2)
    right = rng.random(count) < level
    reached = []
    for at in sorted(set(confidence)):
        given = confidence >= at
        wrong = int((given & ~right).sum())
        limit = binomtest(wrong, int(given.sum())).proportion_ci(0.8, "exact").high  # 0.9 on one side
        reached.append((at, min(1 - limit, confidence[given].mean())))
    expected = {wanted: next((at for at, least in reached if least >= wanted), None) for wanted in PRECISIONS}
    assert dict(abstain_thresholds(confidence, right, np.arange(count))) == expected


def test_few_groups_count_for_less_than_many() -> None:
    confidence, right = np.full(60, 0.97), np.ones(60, bool)
    confidence[::2] = 0.95  # so that the answers differ, in every group alike
    alone, few = (
        dict(abstain_thresholds(confidence, right, groups)) for groups in (np.arange(60), np.arange(60) // 20)
    )
    assert alone[0.96] == 0.95
    assert few[0.96] is None
    assert few[0.9] == 0.95  # the quantile of 2 degrees of freedom is 1.89, of 59 it is 1.30: sixty count as 28
    assert not any(at for _, at in abstain_thresholds(confidence, right, np.zeros(60)))


def test_equal_confidences_are_answered_together_or_not_at_all() -> None:
    confidence = np.full(40, 0.95)
    right = np.arange(40) < 30  # that they come first must not matter
    found = dict(abstain_thresholds(confidence, right, np.arange(40)))
    assert found[0.6] == 0.95  # 10 of 40 wrong: at most 0.36
    assert found[0.7] is None


def test_a_higher_precision_needs_no_lower_threshold() -> None:
    probs, labels = drawn(2.0, seed=1, count=400)
    found = [at for _, at in fit_calibration(probs, labels, np.arange(400) // 4).thresholds]
    numbers = [at for at in found if at is not None]
    assert len(numbers) > 5
    assert numbers == sorted(numbers)
    assert found[len(numbers) :] == [None] * (len(found) - len(numbers))
    assert [wanted for wanted, _ in fit_calibration(probs, labels, np.arange(400)).thresholds] == list(PRECISIONS)


@pytest.mark.slow
@pytest.mark.parametrize(("num_groups", "size", "alike"), [(48, 1, 0.0), (150, 1, 0.0), (8, 6, 0.2), (5, 16, 0.1)])
@pytest.mark.parametrize(("shape", "worth"), [((3.0, 1.0), 1.0), ((3.0, 1.0), 0.0), ((1.2, 1.2), 0.5)])
def test_the_promise_holds_on_new_videos(
    num_groups: int, size: int, alike: float, shape: tuple[float, float], worth: float
) -> None:
    """Of 200 validation sides, how many give a threshold above which new videos are right less often than promised.

    alike: share of luck that the videos of a group have in common. worth: 1 where a confidence is right as often as it
    says, 0 where all are right equally often, however sure.
    """
    rng = np.random.default_rng([num_groups, size])
    groups = np.repeat(np.arange(num_groups), size)
    mean = 0.5 + 0.5 * shape[0] / sum(shape)
    new = 0.5 + rng.beta(*shape, size=20_000) / 2
    broken, given = dict.fromkeys((0.7, 0.8, 0.9), 0), dict.fromkeys((0.7, 0.8, 0.9), 0)
    for _ in range(200):
        confidence = 0.5 + rng.beta(*shape, size=len(groups)) / 2
        common = np.sqrt(alike) * rng.normal(size=num_groups)[groups]
        luck = common + np.sqrt(1 - alike) * rng.normal(size=len(groups))
        right = luck < ndtri(worth * confidence + (1 - worth) * mean)
        for wanted, at in abstain_thresholds(confidence, right, groups):
            if wanted in broken and at is not None:
                sure = new >= at
                given[wanted] += 1
                broken[wanted] += (worth * new + (1 - worth) * mean)[sure].mean() < wanted - 0.005
    assert max(broken.values()) <= 0.1 * 200 + 2 * np.sqrt(0.1 * 0.9 * 200)
    if mean > 0.8:
        assert given[0.7] > 100  # a promise that is kept by silence is worth nothing


def test_a_confidence_that_promises_too_much_is_not_believed() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.9, 1, 500)
    right = rng.random(500) < 0.7
    found = dict(abstain_thresholds(confidence, right, np.arange(500)))
    assert found[0.6] is not None
    assert found[0.8] is None


def test_scores_by_hand_and_over_two_seeds() -> None:
    groups = np.array(["a", "a", "b", "c"])
    right = np.array([True, False, True, True])
    one = CalibratedAnswers(np.full(4, 0.55), np.full(4, 0.75), right, np.array([True, True, True, False]), groups)
    scores = calibration_scores([one], samples=500, seed=0)
    assert scores["ece_before"] == pytest.approx(0.2)
    assert scores["ece_after"] == pytest.approx(0.0)
    assert scores["precision"] == pytest.approx(2 / 3)
    assert (scores["precision_low"], scores["precision_high"]) == (0.5, 1.0)  # of group a alone, of b alone
    assert scores["coverage"] == 0.75
    alone = CalibratedAnswers(one.before, one.after, right, np.array([True, True, False, False]), groups)
    scores = calibration_scores([alone], samples=50, seed=0)  # of group a alone, which does not vary
    assert scores["precision"] == 0.5
    assert np.isnan([scores["precision_low"], scores["precision_high"]]).all()
    other = CalibratedAnswers(np.full(4, 0.75), np.full(4, 0.75), right, np.zeros(4, bool), groups)
    both = calibration_scores([one, other], samples=500, seed=0)
    assert both["ece_before"] == pytest.approx(0.1)
    assert (both["precision"], both["coverage"]) == (pytest.approx(2 / 3), 0.375)
    silent = calibration_scores([other], samples=20, seed=0)
    assert np.isnan([silent[name] for name in ("precision", "precision_low", "precision_high")]).all()
    assert silent["coverage"] == 0


def test_the_error_is_that_of_the_scores() -> None:
    probs, labels = drawn(3.0, seed=2, count=300)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    answers = CalibratedAnswers(confidence, confidence, right, right, np.arange(300))
    assert calibration_scores([answers], samples=2, seed=0)["ece_after"] == clip_metrics(probs, labels)["ece"]


def test_the_next_higher_precision_is_taken() -> None:
    calibration = Calibration(1.5, ((0.8, 0.6), (0.9, 0.75), (0.95, None)))
    assert [calibration.threshold(wanted) for wanted in (0.5, 0.8, 0.81, 0.9)] == [0.6, 0.6, 0.75, 0.75]
    assert [calibration.threshold(wanted) for wanted in (0.91, 0.95, 0.96)] == [None, None, None]
    assert Calibration().threshold(0.5) is None
    assert calibration == Calibration(1.5, [[0.8, 0.6], [0.9, 0.75], [0.95, None]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("temperature", "thresholds", "message"),
    [
        (0.0, (), "temperature is 0.0; expected a number above 0"),
        (float("nan"), (), "temperature is nan"),
        ("hot", (), "temperature is 'hot'"),
        (1.0, ((0.9, 0.5), (0.8, 0.4)), r"\[0.9, 0.8\]; expected increasing numbers"),
        (1.0, ((1.5, 0.5),), "expected increasing numbers between 0 and 1"),
        (1.0, (0.9, 0.5), "expected pairs of a precision and a confidence"),
        (1.0, (("high", 0.5),), "expected pairs"),
        (1.0, None, "expected pairs"),
    ],
)
def test_what_is_no_calibration_is_refused(temperature: float, thresholds: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibration(temperature, thresholds)
