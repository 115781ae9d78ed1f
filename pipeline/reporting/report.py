"""The report: one HTML page that needs nothing but itself, in light and dark, on screen and on paper."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.errors import DataError
from pipeline.reporting.checks import (
    calibration_table,
    detection_table,
    importances_table,
    leaks_table,
    premium_table,
    probe_by_class,
    probe_table,
    too_short,
)
from pipeline.reporting.numbers import Source, Table
from pipeline.reporting.summary import (
    COLUMNS,
    LEVELS,
    Mistake,
    Training,
    folds_table,
    ladder_table,
    measures_table,
    per_class_table,
    statement,
    streams_table,
)
from pipeline.reporting.words import HEADS, STREAMS

JPEG_QUALITY = 84
MAX_FRAME_SIDE, MAX_SHEET_SIDE = 320, 1400  # pixels; a page of hundreds of frames stays a few megabytes
TASKS = {"clip": "One label per video", "frame": "One label per frame"}


@dataclass(frozen=True)
class Pooled:
    """One task and stream over all folds: rows of `per_class.csv`, SVG text by figure name, the surest mistakes."""

    per_class: Sequence[Mapping[str, str]]
    figures: Mapping[str, str]
    mistakes: Sequence[Mistake] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows, as plain values.

    title, experiment: what was done to which data set. trainings: at least one, all folds and seeds of each task and
    stream; of several seeds the first is shown in figures. metrics: `metrics.json`, by task and stream (rgb, flow,
    fused). pooled: by task and stream too. config: the experiment's file. files: the contents of `audit.json` and,
    where there are such, of `leaks.json`, `shortcut.json`, `evaluations/premium.json`. probes: `probe.json` by its
    file's name, sheets: the contact sheet beside it, (H, W, 3) uint8 RGB. facts: of the data set, name to value.
    samples: captions and frames, (H, W, 3) uint8 RGB. provenance: name to value.
    """

    title: str
    experiment: str
    trainings: Sequence[Training]
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]
    pooled: Mapping[tuple[str, str], Pooled]
    config: Source
    facts: Mapping[str, str]
    provenance: Mapping[str, str]
    files: Mapping[str, Any] = field(default_factory=dict)
    probes: Mapping[str, Any] = field(default_factory=dict)
    sheets: Mapping[str, np.ndarray] = field(default_factory=dict)
    samples: Sequence[tuple[str, np.ndarray]] = ()

    def __post_init__(self) -> None:
        if not self.trainings:
            raise DataError(f"report of {self.experiment}: no training to show; run the stage `evaluate` first")
        scored = {(task, stream) for task, streams in self.metrics.items() for stream in streams}
        missing = {(training.task, training.stream) for training in self.trainings} - (scored & set(self.pooled))
        if missing:
            names = ", ".join(sorted(" ".join(names) for names in missing))
            raise DataError(f"report of {self.experiment}: no pooled scores of {names}; run the stage `report` anew")

    def source(self, file: str) -> Source | None:
        """One of the `files`, None where the experiment has it not."""
        return Source(file, self.files[file]) if self.files.get(file) else None


def render_report(data: ReportData) -> str:
    """The page as text. The same data gives the same page; nothing in it is loaded from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    metrics = Source("metrics.json", data.metrics)
    tasks, streams, aucs = [], [], []
    for task, heading in TASKS.items():
        own = [training for training in data.trainings if training.task == task]
        known = [stream for stream in STREAMS if any(training.stream == stream for training in own)]
        for stream in known:
            chosen = [training for training in own if training.stream == stream]
            title = heading if known == ["rgb"] else f"{heading}, {STREAMS[stream]}"
            shown = _task(title, chosen, metrics.under(task, stream), data)
            tasks.append(shown | {"tabled": len(known) > 1 or shown["many_seeds"]})
            scores = metrics.under(task, stream, "test", LEVELS[task])
            if scores.defined("auc"):
                aucs.append((f"{STREAMS[stream]}, {task} task", scores.interval("auc")))
        if len(known) > 1 or len({training.seed for training in own}) > 1:
            table = streams_table(task, metrics.under(task))
            streams.append(Table(table.heads, table.rows, _streams_caption(heading, own, data.config)))
    names = ("leaks.json", "shortcut.json", "evaluations/premium.json")
    leaks, shortcut, premium = (data.source(name) for name in names)
    audit = Source("audit.json", data.files.get("audit.json", {}))
    page = environment.get_template("report.html").render(
        data=data,
        tasks=tasks,
        streams=streams,
        audit=audit,
        warnings=[audit.text("warnings", place) for place in range(len(audit.at("warnings") or []))],
        leaks=leaks,
        leaks_table=leaks and leaks_table(leaks),
        shortcut=shortcut,
        shortcut_score=shortcut and _shortcut_score(shortcut),
        importances=shortcut and importances_table(shortcut),
        model_auc=aucs,
        premium=premium and premium_table(premium),
        probes=[_probe(file, data) for file in data.probes],
        samples=[(caption, _image(frame)) for caption, frame in data.samples],
    )
    # A file name that is no UTF-8 was read with surrogate escapes, which no page can hold.
    return page.lstrip().encode("utf-8", "replace").decode("utf-8")


def _task(heading: str, trainings: Sequence[Training], pooled: Source, data: ReportData) -> dict[str, Any]:
    """What the template shows of one task and stream."""
    first = trainings[0]
    measure, key = COLUMNS[first.task][0]
    scores = pooled.under("test", LEVELS[first.task])
    several = len(trainings) > 1
    shown = [training for training in trainings if training.seed == min(one.seed for one in trainings)]
    folds = data.pooled[first.task, first.stream]
    # One training alone is all there is; of several the figures of all folds, and what only a fold has from the first.
    alone = {name: svg for name, svg in shown[0].figures.items() if name == "over_time"}
    figures = {**folds.figures, **alone} if several else shown[0].figures
    return {
        "id": f"{first.task}-{first.stream}",
        "heading": heading,
        "statement": statement(trainings, pooled, data.config),
        "score": scores.number(key),
        "interval": scores.interval(key, alone=True),
        "measure": measure,
        "leaks": any(any((part.at("leaks") or {}).values()) for part in (pooled, *(one.own for one in trainings))),
        "measures": measures_table(first.task, pooled),
        "folds": folds_table(trainings, pooled) if several else None,
        "many_seeds": len(shown) < len(trainings),
        "figures": {name: Markup(svg) for name, svg in figures.items()},  # matplotlib escapes the texts it draws
        "ladder": ladder_table(first.task, pooled),
        "per_class": per_class_table(f"tables/{first.task}-{first.stream}/per_class.csv", folds.per_class),
        "calibration": calibration_table(trainings, pooled),
        "detection": detection_table(trainings, pooled),
        "too_short": any(too_short(own) for own in (pooled, *(one.own for one in trainings))),
        "head": HEADS.get("frame" if first.task == "frame" else first.head, ""),
        "frame": first.task == "frame",
        "fused": first.stream == "fused",
        "background": first.background,
        "several": several,
        "mistakes": [_mistake(mistake) for mistake in folds.mistakes],
        "parts": [_part(training) for training in shown],
    }


def _part(training: Training) -> dict[str, Any]:
    """What the template shows of one training."""
    return {
        "name": training.name,
        "fused": training.stream == "fused",
        "figures": {name: Markup(svg) for name, svg in training.figures.items()},
        "ladder": ladder_table(training.task, training.own),
        "measures": measures_table(training.task, training.own),
        "kept": _kept(Source(f"histories/{training.name}.csv", training.history)),
    }


def _kept(history: Source) -> Markup:
    """How long a training took, and which epoch's weights were kept."""
    rows = [row for row in range(len(history.values)) if history.defined(row, "val_loss")]
    if not rows:
        return Markup("")
    best = min(rows, key=lambda row: float(history.at(row, "val_loss")))
    return Markup(
        "{} epochs; kept are the weights of epoch {}, with a validation loss of {} and a score of {}."
    ).format(
        history.count(),
        history.whole(best, "epoch"),
        history.number(best, "val_loss", places=3),
        history.number(best, "val_score", places=3),
    )


def _mistake(mistake: Mistake) -> dict[str, Any]:
    row = {"score": mistake.score, "time_seconds": mistake.time_seconds}
    # The one row at its place of the file.
    table = Source(f"evaluations/{mistake.evaluation}/predictions.csv", row, (str(mistake.row),))
    return {
        "video_id": mistake.video_id,
        "label": mistake.label,
        "predicted": mistake.predicted,
        "score": table.number("score"),
        "time": table.number("time_seconds") if mistake.time_seconds else "",
        "frames": [_image(frame) for frame in mistake.frames],
    }


def _probe(file: str, data: ReportData) -> dict[str, Any]:
    own = Source(file, data.probes[file])
    return {
        "name": Path(file).parent.name,  # evaluations/probes/NAME/probe.json
        "own": own,
        "table": probe_table(own),
        "by_class": probe_by_class(own),
        "sheet": _image(data.sheets[file], MAX_SHEET_SIDE) if file in data.sheets else "",
    }


def _streams_caption(heading: str, trainings: Sequence[Training], config: Source) -> Markup:
    text = Markup("{}: all folds together").format(heading)
    if len({training.seed for training in trainings}) > 1:
        text += Markup(
            "; the mean over {} seeds ± their standard deviation, in brackets the interval of this mean"
        ).format(config.whole("num_seeds"))
    return text


def _shortcut_score(shortcut: Source) -> Markup:
    """The AUC in words; nothing where no fold tests labelled videos of two classes."""
    if shortcut.defined("auc"):
        return Markup("an AUC of {}").format(shortcut.interval("auc"))
    return Markup("")


def _image(frame: np.ndarray, max_side: int = MAX_FRAME_SIDE) -> str:
    """A frame (H, W, 3) uint8 RGB as the address of a JPEG inside the page."""
    scale = max_side / max(frame.shape[:2])
    if scale < 1:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise DataError(f"a frame of shape {frame.shape} cannot be encoded as JPEG; expected (H, W, 3) uint8")
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode("ascii")
