"""The tables of answers that `evaluate` and `fuse` write, and the scores that follow from them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import Experiment
from pipeline.data.cards import Dataset
from pipeline.errors import DataError
from pipeline.evaluation.calibration import calibration_scores
from pipeline.evaluation.detection import COLUMNS
from pipeline.evaluation.pooling import (
    Alarms,
    Tables,
    calibrated_answers,
    detection_table,
    pool_calibration,
    pool_clip,
    pool_detection,
    pool_frame,
)
from pipeline.files import write_json, write_table
from pipeline.models.calibration import Calibration
from pipeline.stages.layout import Layout, Scored, StageOptions
from pipeline.stages.leaks import leaks_in_words
from pipeline.stages.samples import opposites, task_classes

# A file's name may be no UTF-8, which the default storage of texts (Arrow, since pandas 3) refuses.
pd.set_option("mode.string_storage", "python")
TEXT = {name: str for name in ("control", "video_id", "group", "label", "predicted")}


def read_answers(path: Path) -> pd.DataFrame:
    """`predictions.csv`, `validation.csv` or `controls.csv`; labels and ids stay text, whatever they look like."""
    try:
        return pd.read_csv(path, dtype=TEXT, keep_default_na=False, encoding_errors="surrogateescape")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `lrcn select` again, then `dvc repro`") from None


def pooled(options: StageOptions, dataset: Dataset, task: str, stream: Scored, tables: Tables) -> dict[str, Any]:
    """Scores of a task and stream over folds and seeds."""
    classes = task_classes(dataset, task)
    evaluate = options.experiment.evaluate
    settings = {"samples": evaluate.bootstrap_samples, "seed": options.experiment.seed}
    if task == "clip":
        scores = pool_clip(tables, classes, opposites(dataset, stream), **settings)
    else:
        scores = pool_frame(tables, classes, 0 if dataset.card.background is not None else None, **settings)
    if dataset.card.alarms:
        scores["detection"] = pool_detection(tables, alarms(options, dataset), **settings)
    scores["calibration"] = {"wanted_precision": evaluate.precision, **pool_calibration(tables, **settings)}
    return scores


def alarms(options: StageOptions, dataset: Dataset) -> Alarms:
    """The classes that the card has an eye on, and how they are scored."""
    experiment = options.experiment
    return Alarms(dataset.card.alarms, experiment.evaluate.false_alarms_per_hour, 1 / experiment.view.fps)


def write_detection(path: Path, predictions: pd.DataFrame, watched: Alarms) -> None:
    """Write `detection.csv`; without alarm classes its header alone."""
    rows = detection_table([predictions], watched)
    write_table(path, COLUMNS, [[row[name] for name in COLUMNS] for row in rows])


def calibration_section(
    experiment: Experiment, calibration: Calibration, predictions: pd.DataFrame
) -> dict[str, float | None]:
    """What `metrics.json` says of one training's calibration, or of a fusion's, and of its sure answers."""
    evaluate = experiment.evaluate
    answers = calibrated_answers(predictions)
    return {
        "temperature": calibration.temperature,
        "threshold": calibration.threshold(evaluate.precision),
        "wanted_precision": evaluate.precision,
        **calibration_scores([answers], samples=evaluate.bootstrap_samples, seed=experiment.seed),
    }


def mean_calibration(layout: Layout, names: Sequence[str]) -> dict[str, float | None]:
    """Of these evaluations the geometric mean of the temperatures, and the mean of the thresholds.

    num_without_threshold: evaluations in which no confidence reached the wanted precision, so that nothing was sure.
    """
    files = [layout.evaluation(name) / "metrics.json" for name in names]
    found = [json.loads(file.read_text(encoding="utf-8"))["calibration"] for file in files]
    thresholds = [one["threshold"] for one in found if one["threshold"] is not None]
    return {
        "temperature": float(np.exp(np.mean([np.log(one["temperature"]) for one in found]))),
        "threshold": float(np.mean(thresholds)) if thresholds else None,
        "num_without_threshold": len(found) - len(thresholds),
    }


def write_records(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows of equal keys as CSV."""
    rows = list(rows)
    write_table(path, list(rows[0]), [list(row.values()) for row in rows])


def write_scores(
    folder: Path,
    scores: Mapping[str, object],
    per_class: Iterable[Mapping[str, object]],
    matrix: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Write `metrics.json`, `per_class.csv` and `confusion.csv`."""
    write_records(folder / "per_class.csv", per_class)
    write_records(folder / "confusion.csv", [dict(zip(classes, map(int, row), strict=True)) for row in matrix])
    write_json(folder / "metrics.json", scores)


def read_scores(path: Path) -> dict[str, Any]:
    """A `metrics.json`."""
    scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return scores


def headline(task: str, scores: Mapping[str, Any]) -> str:
    """The first score of `metrics.json` in words, with the leaks it was made with."""
    level, name = ("video", "top1") if task == "clip" else ("frame", "acc")
    own = scores["test"][level]
    interval = in_brackets(own[f"{name}_low"], own[f"{name}_high"])
    return f"{name} {own[name]:.3f} {interval} on {own['num_videos']:.0f} test videos{leaks_in_words(scores['leaks'])}"


def in_brackets(low: float, high: float, form: str = ".3f") -> str:
    """The bounds of an interval in words; nan where there are none.

    >>> in_brackets(0.25, 0.5)
    '[0.250, 0.500]'
    """
    return f"[{low:{form}}, {high:{form}}]" if np.isfinite(low) else "(no interval: a single group)"


def alarm_words(scores: Mapping[str, Any]) -> list[str]:
    """The recall of each alarm class, a line each, and whether the footage was long enough to tell."""
    lines = []
    for name, found in scores.get("detection", {}).items():
        hours, wanted = found["hours_without"], found["rate_per_hour"]
        words = f"alarms: {name}: {found['num_events']:.0f} event(s), {hours:.3g} hour(s) without"
        if np.isfinite(found["recall"]):
            words += (
                f"; recall {found['recall']:.3f} {in_brackets(found['recall_low'], found['recall_high'])} at "
                f"{found['false_alarms_per_hour']:.3g} false alarms per hour, {wanted:g} being allowed"
            )
        if 0 < hours * wanted < 1:
            words += f"; too short to measure that rate: a single false alarm would be {1 / hours:.3g} per hour"
        lines.append(words)
    return lines
