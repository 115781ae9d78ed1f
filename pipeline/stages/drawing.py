"""The figures of an evaluation, drawn from the tables in its folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.reporting.figures import evaluation_figures
from pipeline.stages.answers import read_answers, read_scores
from pipeline.stages.figures import write_figures


def draw_evaluation(folder: Path, background: str | None) -> Path:
    """Draw the figures of an evaluation from the tables in its folder; returns the folder of the figures.

    background: the frame task's class for "none of the actions".
    """
    svgs = evaluation_figures(
        folder.name,
        read_scores(folder / "metrics.json"),
        read_answers(folder / "predictions.csv"),
        read_text_table(folder / "per_class.csv"),
        read_confusion(folder / "confusion.csv"),
        background=background,
        over_time=read_optional(folder / "over_time.csv"),
        detection=read_optional(folder / "detection.csv"),
    )
    return write_figures(folder / "figures", svgs)


def read_text_table(path: Path) -> pd.DataFrame:
    """A table whose cells stay the text that the file has."""
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")


def read_optional(path: Path) -> pd.DataFrame | None:
    """A table that not every evaluation has, numbers as such and names as text; None where it is missing."""
    text: Any = {name: str for name in ("video_id", "label", "predicted", "class")}
    if not path.is_file():
        return None
    return pd.read_csv(path, dtype=text, keep_default_na=False, encoding_errors="surrogateescape")


def read_confusion(path: Path) -> np.ndarray:
    """`confusion.csv`, (K, K) int64 counts with the truth in rows."""
    return np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.int64, ndmin=2)
