"""Draws recordings as features, in the MS-TCN layout, from a semi-Markov chain of actions, and says what they allow.

An action lasts a number of timesteps drawn from its own range; which one comes next is drawn from TRANSITIONS. Every
timestep shows its action's signature in unit noise. `open` and `close` have one signature: only what comes before and
after tells them apart. As all of this is known, so is the best that can be done, exactly: by a classifier that sees one
timestep (Bayes' rule), and by one that sees the whole recording (the posterior of the semi-Markov chain).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.frame_metrics import frame_metrics
from pipeline.files import replacing, write_json, write_text

Floats = NDArray[np.float64]
CLASSES = ("rest", "open", "pour", "close", "stir", "drink")  # the first is the background
TRANSITIONS = np.array(
    [
        # rest open pour close stir drink
        [0.0, 0.7, 0.0, 0.0, 0.0, 0.3],
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.5, 0.5, 0.0],
        [0.6, 0.0, 0.0, 0.0, 0.0, 0.4],
        [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
)
START = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
SHORTEST_STEPS, LONGEST_STEPS = (8, 5, 8, 5, 10, 6), (20, 10, 18, 10, 24, 14)  # an action lasts, both included
SIGNATURE = (0, 1, 2, 1, 3, 4)  # which signature an action shows
STRENGTH = 1.5  # length of a signature; the noise has deviation 1 in every direction
NUM_FEATURES = 16
FPS = 15.0
SUBJECTS, RECORDINGS_EACH, FOLDS = 20, 4, 4
LENGTH_STEPS = (120, 160)
METRICS = ("acc", "edit", "f1_10", "f1_25", "f1_50")


@dataclass(frozen=True)
class Chain:
    """A semi-Markov chain: start (K,) and transitions (K, K) are probabilities, durations (K, longest) of 1, 2, ..."""

    start: Floats
    transitions: Floats
    durations: Floats

    def draw(self, num_steps: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Labels of a recording, (T,); its last action is cut at the end."""
        labels: list[int] = []
        state = int(rng.choice(len(self.start), p=self.start))
        while len(labels) < num_steps:
            labels += [state] * (1 + int(rng.choice(self.durations.shape[1], p=self.durations[state])))
            state = int(rng.choice(len(self.start), p=self.transitions[state]))
        return np.array(labels[:num_steps])

    def posterior(self, log_likelihood: Floats) -> Floats:
        """Probability of each class at each timestep, (T, K), given log p(timestep | class), (T, K).

        Forward and backward recursions over the ends of segments (Yu 2010, "Hidden semi-Markov models", section 2), the
        last segment being cut at the end.
        """
        num_steps, num_classes = log_likelihood.shape
        longest = self.durations.shape[1]
        with np.errstate(divide="ignore"):
            start, transitions, lasts = np.log(self.start), np.log(self.transitions), np.log(self.durations)
            lasts_longer = np.log(np.cumsum(self.durations[:, ::-1], axis=1)[:, ::-1])  # d steps or more
        sums = np.concatenate([np.zeros((1, num_classes)), np.cumsum(log_likelihood, axis=0)])
        # Of a segment of class k: begins at t, ends before t; the data up to t, and the data from t on.
        before_begin, before_end, after_begin, after_end = np.full((4, num_steps + 1, num_classes), -np.inf)
        before_begin[0] = start
        for t in range(1, num_steps + 1):
            d = np.arange(1, min(longest, t) + 1)
            before_end[t] = log_sum(before_begin[t - d] + lasts[:, d - 1].T + sums[t] - sums[t - d], axis=0)
            before_begin[t] = log_sum(before_end[t][:, None] + transitions, axis=0)
        after_end[num_steps] = 0.0
        for t in range(num_steps - 1, -1, -1):
            d = np.arange(1, min(longest, num_steps - t - 1) + 1)
            parts = after_end[t + d] + lasts[:, d - 1].T + sums[t + d] - sums[t]
            if num_steps - t <= longest:
                cut = lasts_longer[:, num_steps - t - 1] + sums[num_steps] - sums[t]
                parts = np.concatenate([parts, cut[None]])
            after_begin[t] = log_sum(parts, axis=0)
            after_end[t] = log_sum(transitions + after_begin[t][None], axis=1)
        total = log_sum(before_begin[0] + after_begin[0])
        begins = np.exp(before_begin[:-1] + after_begin[:-1] - total)
        ends = np.exp(before_end[:-1] + after_end[:-1] - total)
        occupied: Floats = np.cumsum(begins - ends, axis=0)
        return np.clip(occupied, 0.0, 1.0)


def log_sum(values: Floats, axis: int | None = None) -> Floats:
    """log(sum(exp(values))) over an axis, or over all; -inf stands for probability 0."""
    return np.asarray(np.logaddexp.reduce(values, axis=axis))


def demo_chain() -> Chain:
    """The chain of CLASSES."""
    longest = max(LONGEST_STEPS)
    durations = np.zeros((len(CLASSES), longest))
    for row, low, high in zip(durations, SHORTEST_STEPS, LONGEST_STEPS, strict=True):
        row[low - 1 : high] = 1 / (high - low + 1)
    return Chain(START, TRANSITIONS, durations)


def draw_recordings(folder: Path, *, seed: int = 0) -> dict[str, dict[str, dict[str, float]]]:
    """Write features, groundTruth, mapping.txt, splits and `expected.json`; equal seeds give equal bytes.

    Returns what stands in `expected.json`: for each fold, the scores on its test recordings of `single_frame` (Bayes'
    rule on each timestep, the best without time) and `whole_recording` (the chain's posterior, the best with it), and
    `margin`, the second minus the first.
    """
    chain = demo_chain()
    shared = np.random.default_rng([seed, 0])
    directions = np.linalg.qr(shared.normal(size=(NUM_FEATURES, NUM_FEATURES)))[0]
    signatures = STRENGTH * directions[list(SIGNATURE)]
    names: list[list[str]] = []
    labels: dict[str, NDArray[np.int64]] = {}
    features: dict[str, NDArray[np.float32]] = {}
    for subject in range(1, SUBJECTS + 1):
        names.append([f"s{subject:02d}_{number}" for number in range(1, RECORDINGS_EACH + 1)])
        for number, name in enumerate(names[-1], start=1):
            rng = np.random.default_rng([seed, subject, number])
            labels[name] = chain.draw(int(rng.integers(*LENGTH_STEPS, endpoint=True)), rng)
            noise = rng.normal(size=(len(labels[name]), NUM_FEATURES))
            features[name] = (signatures[labels[name]] + noise).astype(np.float32)
            _write_array(folder / "features" / f"{name}.npy", np.ascontiguousarray(features[name].T))
            write_text(folder / "groundTruth" / f"{name}.txt", "".join(f"{CLASSES[index]}\n" for index in labels[name]))
    write_text(folder / "mapping.txt", "".join(f"{index} {name}\n" for index, name in enumerate(CLASSES)))
    expected = {}
    for fold in range(1, FOLDS + 1):
        sides = {side: [n for i, own in enumerate(names) for n in own if (i % FOLDS == fold - 1) == (side == "test")]
                 for side in ("train", "test")}  # fmt: skip
        for side, listed in sides.items():
            write_text(folder / "splits" / f"{side}.split{fold}.bundle", "".join(f"{name}.txt\n" for name in listed))
        shares = np.bincount(np.concatenate([labels[name] for name in sides["train"]]), minlength=len(CLASSES))
        expected[f"fold{fold}"] = best_scores(
            chain,
            signatures,
            shares / shares.sum(),
            [features[name] for name in sides["test"]],
            [labels[name] for name in sides["test"]],
        )
    write_json(folder / "expected.json", expected)
    return expected


def best_scores(
    chain: Chain,
    signatures: Floats,
    shares: Floats,
    features: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int64]],
) -> dict[str, dict[str, float]]:
    """Scores on these recordings of the best classifiers with and without time, and the margin between them."""
    answers: dict[str, list[NDArray[np.int64]]] = {"single_frame": [], "whole_recording": []}
    for values in features:
        likelihood = -0.5 * ((values[:, None].astype(np.float64) - signatures) ** 2).sum(axis=2)
        answers["single_frame"].append((likelihood + np.log(shares)).argmax(axis=1))
        answers["whole_recording"].append(chain.posterior(likelihood).argmax(axis=1))
    scores = {}
    for name, predicted in answers.items():
        found = frame_metrics(labels, predicted, num_classes=len(CLASSES), background=0)
        scores[name] = {metric: round(found[metric], 4) for metric in METRICS}
    margin = {name: round(scores["whole_recording"][name] - scores["single_frame"][name], 4) for name in METRICS}
    return {**scores, "margin": margin}


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
