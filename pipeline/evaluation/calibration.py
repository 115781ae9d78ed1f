"""Calibration of class probabilities on a validation side: the temperature, and how sure an answer must be to be given.

N labelled answers (videos, or timesteps of the frame task), K classes. Answers of one group are alike, so N of them
tell less about new groups than N independent ones would: they count as N / d, with d their `design_effect`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError
from pipeline.evaluation.clip_metrics import calibration_error, check_labels, check_probs
from pipeline.evaluation.intervals import Groups, bootstrap_interval
from pipeline.models.calibration import Calibration

PRECISIONS = tuple(percent / 100 for percent in (*range(50, 90, 5), *range(90, 100)))
TEMPERATURES = (0.05, 20.0)  # bounds of the search
SPREAD = 0.5  # of log T before any answer is seen: T from 0.37 to 2.7 in 95 of 100 models
CERTAINTY = 0.9  # with which a threshold keeps its promise
LEAST = 0.5e-6  # a probability counts as at least half the last digit of the tables, so that no loss is infinite


def fit_calibration(probs: np.ndarray, labels: np.ndarray, groups: Groups) -> Calibration:
    """Temperature and thresholds from answers that trained nothing.

    probs: (N, K) float, rows summing to 1, N >= 1. labels: (N,) class indices. groups: (N,), of each answer.
    Raises DataError when a row is no distribution, a label no class, or the lengths differ.
    """
    if not len(probs) == len(labels) == len(groups):
        raise DataError(
            f"{len(probs)} answers, {len(labels)} labels and {len(groups)} groups; expected one of each for each answer"
        )
    calibration = Calibration(fit_temperature(probs, labels, groups))
    confidence, right = judged(calibration.apply(probs), labels)
    return Calibration(calibration.temperature, abstain_thresholds(confidence, right, groups))


def fit_temperature(probs: np.ndarray, labels: np.ndarray, groups: Groups) -> float:
    """The temperature T of these answers (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2).

    T minimises the negative log-likelihood of p^(1/T) with two guards, since a validation side is small and chose the
    epoch: log T has a normal prior around 0 (T = 1) of deviation SPREAD, against which the N answers weigh N / d; and
    T stays 1 unless the likelihood gained is above 0 with confidence, by a paired t-test over groups (see
    `gain_is_certain`). With a single group T stays 1. Rounded to six digits.
    """
    from scipy.optimize import minimize_scalar

    probs, labels = check_probs(probs, "probs"), check_labels(labels, np.shape(probs)[1], "labels")
    confidence, right = judged(probs, labels)
    weight = 1 / design_effect(right - confidence, groups)
    log_probs = np.log(np.maximum(probs, LEAST))
    of_truth = np.arange(len(labels)), labels

    def losses(log_temperature: float) -> np.ndarray:
        logits = log_probs / np.exp(log_temperature)
        highest = logits.max(axis=1)
        return np.asarray(highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)) - logits[of_truth])

    def objective(log_temperature: float) -> float:
        return float(weight * losses(log_temperature).sum() + (log_temperature / SPREAD) ** 2 / 2)

    best = minimize_scalar(objective, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-7}).x
    gain = losses(0.0) - losses(best)
    return round(float(np.exp(best)), 6) if gain_is_certain(gain, groups) else 1.0


def abstain_thresholds(
    confidence: np.ndarray, right: np.ndarray, groups: Groups
) -> tuple[tuple[float, float | None], ...]:
    """For each of PRECISIONS the lowest confidence from which on answers are right as often; None where none is.

    confidence: (N,) calibrated probability of each answer; right: (N,) bool. Of the K answers with a confidence of at
    least t let W be wrong. t reaches precision p where both

    - the upper limit of the share of wrong ones is 1 - p or less, with 90 % confidence (CERTAINTY): Clopper and
      Pearson's for W / e wrong ones of K / e, where e is the design effect, raised for a small number of groups G by
      the squared ratio of Student's quantiles with G - 1 and N - 1 degrees of freedom (Korn & Graubard 1998,
      "Confidence intervals for proportions with small expected number of positive counts estimated from survey data");
    - their mean confidence is p or more, so that a lucky few do not carry a threshold that the model itself denies.

    The guarantee is that of Geifman & El-Yaniv 2017, "Selective classification for deep neural networks": for nine
    validation sides in ten the share of right answers among new ones is p or more, whatever the confidences are worth.
    The limit is not raised for the number of thresholds tried, which are nested and rise and fall together;
    tests/unit/test_calibration.py simulates that the promise holds all the same.
    """
    from scipy import stats

    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    answered = np.arange(1, len(ranked) + 1)
    wrong = np.cumsum(~right[order])
    effect, num_groups = design_effect(right - confidence, groups), len(np.unique(np.asarray(groups)))
    if num_groups > 1:
        few, many = stats.t.ppf(CERTAINTY, (num_groups - 1, len(ranked) - 1))
        effect *= (few / many) ** 2
    limit = np.where(
        wrong < answered,
        stats.beta.ppf(CERTAINTY, wrong / effect + 1, np.maximum(answered - wrong, LEAST) / effect),
        1.0,
    )
    claimed = np.cumsum(ranked) / answered
    last_of_equals = np.append(ranked[1:] < ranked[:-1], True)
    found: list[tuple[float, float | None]] = []
    for precision in PRECISIONS:
        reached = np.flatnonzero((limit <= 1 - precision) & (claimed >= precision) & last_of_equals)
        found.append((precision, float(ranked[reached[-1]]) if len(reached) else None))
    return tuple(found)


def design_effect(values: np.ndarray, groups: Groups) -> float:
    """How many answers count as one because those of a group are alike; at least 1 (Kish 1965, "Survey Sampling").

    The variance of the mean over groups drawn whole, divided by that over answers drawn one by one. values: (N,). N
    for a single group, which tells nothing about others; 1 where each answer is a group, and for values all equal.
    """
    sums = _sums_by_group(values - values.mean(), groups)
    if len(sums) < 2:
        return float(len(values))
    spread = float(np.var(values, ddof=1)) * len(values)
    return max(1.0, float(sums @ sums) * len(sums) / (len(sums) - 1) / spread) if spread > 0 else 1.0


def gain_is_certain(values: np.ndarray, groups: Groups) -> bool:
    """Whether the 95 % interval of the mean of (N,) values lies above 0: Student's t over groups drawn whole.

    Never with a single group, whose answers do not tell how others would be.
    """
    from scipy import stats

    sums = _sums_by_group(values - values.mean(), groups)
    if len(sums) < 2:
        return False
    error = np.sqrt(sums @ sums * len(sums) / (len(sums) - 1)) / len(values)
    return bool(values.mean() > stats.t.ppf(0.975, len(sums) - 1) * error)


def judged(probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of (N, K) probabilities the confidence of each answer, (N,) float64, and whether it is right, (N,) bool."""
    return probs.max(axis=1).astype(np.float64), np.asarray(probs.argmax(axis=1) == labels)


@dataclass(frozen=True)
class CalibratedAnswers:
    """The labelled answers of one training, or of one seed in all folds; an entry each, (N,).

    before, after: confidence before and after the temperature, float. right, sure: bool. groups: text.
    """

    before: np.ndarray
    after: np.ndarray
    right: np.ndarray
    sure: np.ndarray
    groups: np.ndarray


def calibration_scores(runs: Sequence[CalibratedAnswers], *, samples: int, seed: int) -> dict[str, float]:
    """How well confidence and precision are kept on test videos, as written to `metrics.json`.

    runs: of one training, or of several seeds. `ece_before`, `ece_after`: expected calibration error (see
    `clip_metrics`), the mean over the runs. `precision`: share of right answers among the sure ones of all runs, nan
    where none is sure, with `precision_low` and `precision_high`, groups being drawn for all runs together; nan where
    all sure answers are of one group, which does not vary. `coverage`: share of sure answers among all.
    """
    right, sure = (np.concatenate([getattr(run, name) for run in runs]) for name in ("right", "sure"))
    groups = np.concatenate([run.groups for run in runs])
    kept, hits = _sums_by_group(sure.astype(float), groups), _sums_by_group((sure & right).astype(float), groups)

    def precision(chosen: np.ndarray) -> float:
        total = kept[chosen].sum()
        return float(hits[chosen].sum() / total) if total else float("nan")

    is_spread = (kept > 0).sum() > 1
    interval = bootstrap_interval(precision, np.arange(len(kept)), samples=samples, seed=seed)
    return {
        "ece_before": float(np.mean([calibration_error(run.before, run.right) for run in runs])),
        "ece_after": float(np.mean([calibration_error(run.after, run.right) for run in runs])),
        "precision": precision(np.arange(len(kept))),
        "precision_low": interval.low if is_spread else float("nan"),
        "precision_high": interval.high if is_spread else float("nan"),
        "coverage": float(sure.mean()),
    }


def _sums_by_group(values: np.ndarray, groups: Groups) -> np.ndarray:
    """Sum of the values of each group, (G,)."""
    return np.bincount(np.unique(np.asarray(groups), return_inverse=True)[1], weights=values)
