"""The shortcut audit: how well file properties alone tell the classes, and which of them do.

Classes that were recorded, encoded or lit differently can be told apart without any action being seen, and a model may
learn just this. The classifier is the control `file_properties` of every evaluation, on the same folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.clip_metrics import auc
from pipeline.evaluation.controls import file_properties
from pipeline.evaluation.intervals import bootstrap_interval, bootstrap_mean

NUM_PERMUTATIONS = 5


@dataclass(frozen=True)
class PropertyFold:
    """One fold: indices of its labelled training and test videos, (N,) int each."""

    train: np.ndarray
    test: np.ndarray


def shortcut_scores(
    table: np.ndarray,
    names: Sequence[str],
    labels: np.ndarray,
    groups: Sequence[str],
    folds: Sequence[PropertyFold],
    num_classes: int,
    *,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """Scores of a random forest on file properties, trained and tested on each fold, all test videos taken together.

    table: (N, P) float, nan = unknown; names: (P,); labels: (N,) class indices; groups: (N,). A video that several
    folds test counts in each. Keys: `auc`, `accuracy` and `majority_accuracy` (that of each fold's most frequent
    training class), the first two with `_low` and `_high` from a bootstrap over groups; `num_videos` tested and their
    `num_groups`; `importances`: by how much the AUC falls when that property is shuffled among a fold's test videos
    (mean of 5 times; Breiman 2001, "Random Forests", section 10). Columns `codec=...` are shuffled together.
    auc is that of two classes, of more the mean over the classes tested of each against the rest; nan when there is
    one class only.
    """
    owners = np.array([name.partition("=")[0] for name in names])
    kinds = list(dict.fromkeys(owners.tolist()))
    rng = np.random.default_rng(seed)
    answers, permuted, majorities = [], [], []
    for fold in folds:
        test = table[fold.test]
        tables = [test]
        for kind in kinds:
            for _ in range(NUM_PERMUTATIONS):
                order = rng.permutation(len(test))
                tables.append(np.where(owners == kind, test[order], test))
        probs = file_properties(table[fold.train], labels[fold.train], np.concatenate(tables), num_classes, seed)
        first, *others = np.split(probs, len(tables))
        answers.append(first)
        permuted.append(others)
        majorities.append(np.bincount(labels[fold.train], minlength=num_classes).argmax() == labels[fold.test])
    tested = np.concatenate([fold.test for fold in folds])
    probs, truth = np.concatenate(answers), labels[tested]
    own = np.asarray(groups)[tested]
    right = (probs.argmax(axis=1) == truth).astype(float)
    area = macro_auc(probs, truth)
    bounds = bootstrap_interval(lambda at: macro_auc(probs[at], truth[at]), own, samples=samples, seed=seed)
    accuracy = bootstrap_mean(right, own, samples=samples, seed=seed)
    without = [macro_auc(np.concatenate(one), truth) for one in zip(*permuted, strict=True)]
    return {
        "auc": area,
        "auc_low": bounds.low,
        "auc_high": bounds.high,
        "accuracy": float(right.mean()),
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "majority_accuracy": float(np.concatenate(majorities).mean()),
        "num_videos": len(tested),
        "num_groups": accuracy.num_groups,
        "importances": {
            kind: area - float(np.mean(without[index * NUM_PERMUTATIONS :][:NUM_PERMUTATIONS]))
            for index, kind in enumerate(kinds)
        },
    }


def macro_auc(probs: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve of (N, K) class probabilities; of several classes the mean of each against the rest.

    Every class with videos here counts the same (scikit-learn's `ovr`, `macro`). nan when there is one class only.
    """
    if probs.shape[1] == 2:
        return auc(probs[:, 1], labels == 1)
    areas = [auc(probs[:, index], labels == index) for index in np.unique(labels)]
    known = [area for area in areas if not np.isnan(area)]
    return float(np.mean(known)) if known else float("nan")
