"""The tables of answers that `evaluate` and `fuse` write, and the scores that follow from them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.cards import Dataset
from pipeline.errors import DataError
from pipeline.evaluation.pooling import Tables, pool_clip, pool_frame
from pipeline.files import write_table, write_text
from pipeline.stages.layout import Scored, StageOptions
from pipeline.stages.samples import opposites, task_classes, without_nan

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
    settings = {"samples": options.experiment.evaluate.bootstrap_samples, "seed": options.experiment.seed}
    if task == "clip":
        return pool_clip(tables, classes, opposites(dataset, stream), **settings)
    return pool_frame(tables, classes, 0 if dataset.card.background is not None else None, **settings)


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
    write_text(folder / "metrics.json", json.dumps(without_nan(scores), indent=2, allow_nan=False) + "\n")


def read_scores(path: Path) -> dict[str, Any]:
    """A `metrics.json`."""
    scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return scores


def headline(task: str, scores: Mapping[str, Any]) -> str:
    """The first score of `metrics.json` in words."""
    level, name = ("video", "top1") if task == "clip" else ("frame", "acc")
    own = scores["test"][level]
    interval = f"[{own[f'{name}_low']:.3f}, {own[f'{name}_high']:.3f}]"
    return f"{name} {own[name]:.3f} {interval} on {own['num_videos']:.0f} test videos"
