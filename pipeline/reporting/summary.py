"""What the report says in words and in its first table: scores beside those of simpler models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.reporting.figures import defined, interval_text
from pipeline.reporting.words import SIMPLER, STREAMS

FEW_GROUPS = 20  # below it a bootstrap over groups gives intervals that are too narrow
# Header of a column, key in metrics.json; the first of each task is its headline score.
COLUMNS = {
    "clip": [
        ("top-1", "top1"),
        ("top-5", "top5"),
        ("mean class accuracy", "mean_class_accuracy"),
        ("macro F1", "macro_f1"),
        ("AUC", "auc"),
        ("calibration error", "ece"),
    ],
    "frame": [
        ("frame accuracy", "acc"),
        ("edit score", "edit"),
        ("F1@10", "f1_10"),
        ("F1@25", "f1_25"),
        ("F1@50", "f1_50"),
        ("frame mAP", "frame_map"),
    ],
}
PERCENT = "\N{NO-BREAK SPACE}%"
LEVELS = {"clip": "video", "frame": "frame"}


@dataclass(frozen=True)
class Mistake:
    """A wrong answer and a strip of frames, each (H, W, 3) uint8 RGB."""

    video_id: str
    label: str
    predicted: str
    score: float
    frames: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class Training:
    """One task, stream, fold and seed, as its files hold it.

    name: e.g. `clip-rgb-fold1-seed0`. model: in words, e.g. `LSTM`. classes: in the order of confusion, (K, K) counts
    with the truth in rows. metrics, history, predictions, per_class: the files of these names; the tables may be text.
    A fusion of two streams has no history.
    background: the frame task's class for "none of the actions". reliability: rows of evaluation.clip_metrics.
    mistakes: see `confident_mistakes`. Raises DataError when confusion and classes do not fit.
    """

    name: str
    task: str
    model: str
    classes: Sequence[str]
    metrics: Mapping[str, Any]
    history: pd.DataFrame | None
    predictions: pd.DataFrame
    per_class: pd.DataFrame
    confusion: np.ndarray
    background: str | None = None
    reliability: Sequence[Mapping[str, float]] = ()
    mistakes: Sequence[Mistake] = ()
    stream: str = "rgb"
    seed: int = 0

    def __post_init__(self) -> None:
        size = len(self.classes)
        if np.shape(self.confusion) != (size, size):
            raise DataError(f"{self.name}: confusion of shape {np.shape(self.confusion)}; expected {(size, size)}")

    @property
    def scores(self) -> Mapping[str, Any]:
        """The model's own scores."""
        scores: Mapping[str, Any] = self.metrics["test"][LEVELS[self.task]]
        return scores


def confident_mistakes(predictions: pd.DataFrame, count: int) -> pd.DataFrame:
    """The rows of a clip task's predictions that are wrong, the surest first; equals in the order of their ids."""
    wrong = predictions[(predictions["label"] != predictions["predicted"]) & (predictions["label"] != "")]
    order = pd.DataFrame({"score": pd.to_numeric(wrong["score"]), "video_id": wrong["video_id"]})
    return wrong.loc[order.sort_values(["score", "video_id"], ascending=[False, True]).index[:count]]


def headline_table(trainings: Sequence[Training], pooled: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows (text) of one task and stream: each training, and of several their mean and all folds together.

    pooled: as metrics.json, over all folds. The mean comes with the standard deviation between trainings.
    """
    task = trainings[0].task
    whole = pooled["test"][LEVELS[task]]
    columns = [(head, key) for head, key in COLUMNS[task] if defined(whole.get(key))]
    rows = [_row(training.name, training.scores, [key for _, key in columns]) for training in trainings]
    if len(trainings) > 1:
        means = []
        for _, key in columns:
            values = [t.scores[key] for t in trainings if defined(t.scores.get(key))]
            means.append(f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "–")
        num_seeds = len({training.seed for training in trainings})
        rows.append(["mean of the folds" if num_seeds == 1 else "mean of the trainings", "", "", *means])
        together = "all folds together" if num_seeds == 1 else f"all folds together, mean of {num_seeds} seeds"
        rows.append(_row(together, whole, [key for _, key in columns]))
    first = f"{columns[0][0]} [95{PERCENT}]"
    return ["training", "test videos", "groups", first, *[head for head, _ in columns[1:]]], rows


def streams_table(task: str, pooled: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows (text) of one task: a row for each stream, all folds together, ± over the seeds.

    pooled: by stream, as metrics.json.
    """
    chosen = {stream: pooled[stream] for stream in STREAMS if stream in pooled}
    own = {stream: scores["test"][LEVELS[task]] for stream, scores in chosen.items()}
    columns = [(head, key) for head, key in COLUMNS[task] if any(defined(scores.get(key)) for scores in own.values())]
    rows = []
    for stream, scores in own.items():
        deviation = chosen[stream].get("deviation", {})
        cells = []
        for _, key in columns:
            value, apart = interval_text(scores.get(key)), deviation.get(key)
            bounds = interval_text(scores.get(key), scores.get(f"{key}_low"), scores.get(f"{key}_high"))
            cells.append(value + (f" ± {apart:.2f}" if defined(apart) else "") + bounds.removeprefix(value))
        counts = [f"{scores[count]:.0f}" for count in ("num_videos", "num_groups")]
        rows.append([STREAMS[stream], *counts, *cells])
    return ["stream", "test videos", "groups", *[head for head, _ in columns]], rows


def statement(trainings: Sequence[Training], pooled: Mapping[str, Any]) -> str:
    """The result of one task in sentences: the score, what simpler models reach, what the order of frames is worth."""
    task, controls = trainings[0].task, pooled["controls"]
    scores, key = pooled["test"][LEVELS[task]], COLUMNS[task][0][1]
    num_videos, num_groups = int(scores["num_videos"]), int(scores["num_groups"])
    tested = {"clip": f"{num_videos} test videos", "frame": f"the labelled frames of {num_videos} test recordings"}
    num_seeds = len({training.seed for training in trainings})
    num_folds = len(trainings) // num_seeds
    folds = f"{num_folds} folds together, " if num_folds > 1 else ""
    folds += f"mean of {num_seeds} seeds, " if num_seeds > 1 else ""
    if num_groups < 2:
        groups = "one group of recordings, so there is no interval"
    else:
        few = "; with so few, intervals are too narrow" if num_groups < FEW_GROUPS else ""
        groups = f"95{PERCENT} interval over {num_groups} groups of recordings{few}"
    share = interval_text(scores[key], scores.get(f"{key}_low"), scores.get(f"{key}_high"))
    words = [f"The {trainings[0].model} labels {share} of {tested[task]} correctly ({folds}{groups})."]
    words += _against_simpler(controls, key)
    words += _order(pooled, key)
    if {"file_properties", "majority"} <= set(controls):
        properties, majority = controls["file_properties"], controls["majority"]
        low = properties.get("low")
        if defined(low) and low > majority[key]:
            words.append(
                f"File properties alone (size, rate, duration, …) reach {properties[key]:.2f}, the most frequent class "
                f"{majority[key]:.2f}: the classes were recorded differently, and part of every score may come from "
                "that."
            )
    return " ".join(words)


def _row(name: str, scores: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    main = interval_text(scores.get(keys[0]), scores.get(f"{keys[0]}_low"), scores.get(f"{keys[0]}_high"))
    counts = [f"{scores[count]:.0f}" for count in ("num_videos", "num_groups")]
    return [name, *counts, main, *[interval_text(scores.get(key)) for key in keys[1:]]]


def _against_simpler(controls: Mapping[str, Any], key: str) -> list[str]:
    known = [name for name in SIMPLER if name in controls]
    if not known:
        return []
    best = controls[max(known, key=lambda name: controls[name][key])]
    reached = " and ".join(f"{SIMPLER[name]} reaches {controls[name][key]:.2f}" for name in known)
    text = reached[0].upper() + reached[1:]
    over = "that" if len(known) == 1 else "the better of these"
    low = best.get("difference_low")
    difference = interval_text(best["difference"], low, best.get("difference_high"), sign=True)
    if defined(low) and low > 0:
        return [f"{text}; the gain over {over} is {difference}."]
    return [f"{text}; a gain over {over} is not shown: the difference is {difference}."]


def _order(pooled: Mapping[str, Any], key: str) -> list[str]:
    opposite = pooled.get("reversed_opposite")
    if opposite is not None and defined(opposite):
        return [
            f"Played backwards, {100 * opposite:.0f}{PERCENT} of the videos it had right get the opposite action: "
            f"100{PERCENT} is a model that reads the direction of time, 0{PERCENT} one blind to it."
        ]
    parts = [
        f"{pooled['controls'][name][key]:.2f} with the frames {word}"
        for name, word in (("shuffled", "in random order"), ("reversed", "reversed"))
        if name in pooled["controls"]
    ]
    return [f"The same model scores {' and '.join(parts)}."] if parts else []
