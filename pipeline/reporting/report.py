"""The report: one HTML page that needs nothing but itself, in light and dark, on screen and on paper."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.errors import DataError
from pipeline.reporting.figures import (
    confusion_figure,
    history_figure,
    interval_text,
    ladder_figure,
    per_class_figure,
    reliability_figure,
    timeline_figure,
    to_svg,
)
from pipeline.reporting.summary import (
    COLUMNS,
    LEVELS,
    Mistake,
    Training,
    confident_mistakes,
    headline_table,
    statement,
    streams_table,
)
from pipeline.reporting.words import STREAMS

__all__ = ["Mistake", "ReportData", "Training", "confident_mistakes", "render_report"]

JPEG_QUALITY = 88
MAX_FRAME_SIDE = 480  # pixels; a page of hundreds of frames stays a few megabytes
MAX_TIMELINES = 6
TASKS = {"clip": "One label per video", "frame": "One label per frame"}


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows, as plain values.

    title, experiment: what was done to which data set. trainings: at least one, all folds and seeds of each task and
    stream; of several seeds the first is shown in figures. pooled: per task and stream (rgb, flow, fused) the scores
    over all folds, in the form of metrics.json. facts: of the data set, name to value. samples:
    captions and frames, (H, W, 3) uint8 RGB. notes: sentences a reader must see beside the scores (files rejected,
    leaks of an official split, ...). provenance: name to value.
    """

    title: str
    experiment: str
    trainings: Sequence[Training]
    pooled: Mapping[str, Mapping[str, Mapping[str, Any]]]
    facts: Mapping[str, str]
    provenance: Mapping[str, str]
    samples: Sequence[tuple[str, np.ndarray]] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.trainings:
            raise DataError(f"report of {self.experiment}: no training to show; run the stage `evaluate` first")
        pooled = {f"{task} {stream}" for task, streams in self.pooled.items() for stream in streams}
        missing = {f"{training.task} {training.stream}" for training in self.trainings} - pooled
        if missing:
            raise DataError(f"report of {self.experiment}: no pooled scores of {', '.join(sorted(missing))}")


def render_report(data: ReportData) -> str:
    """The page as text. The same data gives the same page; nothing in it is loaded from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    trainings = [_clean(training) for training in data.trainings]
    tasks, streams = [], []
    for task, heading in TASKS.items():
        own = [training for training in trainings if training.task == task]
        known = [stream for stream in STREAMS if any(training.stream == stream for training in own)]
        for stream in known:
            chosen = [training for training in own if training.stream == stream]
            title = heading if known == ["rgb"] else f"{heading}, {STREAMS[stream]}"
            tasks.append(_task(title, chosen, data.pooled[task][stream]))
        num_seeds = len({training.seed for training in own})
        if len(known) > 1 or num_seeds > 1:
            heads, rows = streams_table(task, data.pooled[task])
            streams.append({"heading": heading, "heads": heads, "rows": rows, "num_seeds": num_seeds})
    page = environment.get_template("report.html").render(
        data=data, tasks=tasks, streams=streams, samples=[(caption, _image(frame)) for caption, frame in data.samples]
    )
    # A file name that is no UTF-8 was read with surrogate escapes, which no page can hold.
    return page.encode("utf-8", "replace").decode("utf-8")


def _task(heading: str, trainings: Sequence[Training], pooled: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of one task."""
    measure, key = COLUMNS[trainings[0].task][0]
    scores = pooled["test"][LEVELS[trainings[0].task]]
    share = interval_text(scores[key], scores.get(f"{key}_low"), scores.get(f"{key}_high"))
    heads, rows = headline_table(trainings, pooled)
    label = f"{heading}: the model and its controls, all folds together"
    return {
        "heading": heading,
        "statement": statement(trainings, pooled),
        "score": share.partition(" ")[0],
        "interval": share.partition(" ")[2],
        "measure": measure,
        "heads": heads,
        "rows": rows,
        "ladder": _svg(ladder_figure(pooled), label) if len(trainings) > 1 else None,
        "trainings": [_section(training) for training in _shown(trainings)],
    }


def _shown(trainings: Sequence[Training]) -> list[Training]:
    """The trainings of the first seed: those of the others differ by chance alone."""
    first = min(training.seed for training in trainings)
    return [training for training in trainings if training.seed == first]


def _section(training: Training) -> dict[str, Any]:
    """What the template shows of one training."""
    name = training.name
    figures = {
        "ladder": _svg(ladder_figure(training.metrics), f"{name}: the model and its controls"),
        "confusion": _svg(confusion_figure(training.confusion, training.classes), f"{name}: confusion matrix"),
        "per_class": _svg(per_class_figure(training.per_class), f"{name}: recall and precision of each class"),
    }
    if training.history is not None:
        figures["history"] = _svg(history_figure(training.history), f"{name}: curves of the training")
    if training.reliability:
        figures["reliability"] = _svg(reliability_figure(training.reliability), f"{name}: confidence and accuracy")
    if training.task == "frame":
        videos = _timelines(training)
        figures["timeline"] = _svg(timeline_figure(videos, training.background), f"{name}: labels over time")
    scores = training.scores
    return {
        "name": name,
        "figures": figures,
        "background": training.background,
        "fused": training.stream == "fused",
        "ece": interval_text(scores.get("ece")) if training.task == "clip" else None,
        "per_class": [[_cell(value) for value in row] for row in training.per_class.itertuples(index=False)],
        "per_class_heads": [str(column).replace("_", " ") for column in training.per_class.columns],
        "mistakes": [
            {
                "video_id": mistake.video_id,
                "label": mistake.label,
                "predicted": mistake.predicted,
                "score": f"{mistake.score:.2f}",
                "frames": [_image(frame) for frame in mistake.frames],
            }
            for mistake in training.mistakes
        ],
    }


def _clean(training: Training) -> Training:
    """The same training with its tables typed: numbers as floats, text without nan."""
    text = {"video_id", "group", "label", "predicted", "class"}
    tables = {
        name: pd.DataFrame(
            {
                column: table[column].fillna("").astype(str)
                if column in text
                else pd.to_numeric(table[column], errors="coerce")
                for column in table.columns
            }
        )
        for name, table in (("predictions", training.predictions), ("per_class", training.per_class))
    }
    return Training(**{**vars(training), **tables})


def _timelines(training: Training) -> list[tuple[str, np.ndarray, Sequence[str], Sequence[str], Sequence[str]]]:
    """Test recordings from the least to the most accurate, evenly spaced in that order: not only the good ones."""
    videos = []
    for video_id, rows in training.predictions.groupby("video_id", sort=True):
        known = rows[rows["label"] != ""]
        if len(known):
            accuracy = float((known["label"] == known["predicted"]).mean())
            videos.append((accuracy, str(video_id), rows))
    videos.sort(key=lambda video: video[:2])
    chosen = sorted({round(place) for place in np.linspace(0, len(videos) - 1, min(MAX_TIMELINES, len(videos)))})
    return [
        (
            f"{video_id}   {accuracy:.2f}",
            rows["time_seconds"].to_numpy(dtype=float),
            list(rows["label"]),
            list(rows["predicted"]),
            training.classes,
        )
        for accuracy, video_id, rows in (videos[place] for place in chosen)
    ]


def _svg(figure: Figure, label: str) -> Markup:
    return Markup(to_svg(figure, label))  # matplotlib escapes the texts it draws


def _image(frame: np.ndarray) -> str:
    """A frame (H, W, 3) uint8 RGB as the address of a JPEG inside the page."""
    scale = MAX_FRAME_SIDE / max(frame.shape[:2])
    if scale < 1:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise DataError(f"a frame of shape {frame.shape} cannot be encoded as JPEG; expected (H, W, 3) uint8")
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode("ascii")


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    number = float(value)  # type: ignore[arg-type]
    return f"{number:.0f}" if number.is_integer() and abs(number) > 1 else interval_text(number)
