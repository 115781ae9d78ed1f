"""Stage `report`: scores over all folds, and one HTML page that shows everything a reader needs to trust them."""

import itertools
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipeline.config import Experiment, Task
from pipeline.data.cards import Dataset
from pipeline.data.labels import IGNORED
from pipeline.data.tables import read_videos
from pipeline.discovery import printable
from pipeline.errors import DataError
from pipeline.evaluation.clip_metrics import confusion_matrix, per_class_table
from pipeline.evaluation.headline import experiment_headline
from pipeline.evaluation.pooling import between_trainings, class_probabilities, detection_table, label_indices
from pipeline.files import without_nan, write_json, write_table, write_text
from pipeline.reporting.figures import evaluation_figures
from pipeline.reporting.numbers import Source
from pipeline.reporting.report import Pooled, ReportData, render_report
from pipeline.reporting.summary import LEVELS, Mistake, Training, confident_mistakes
from pipeline.stages.aggregate import log_experiment
from pipeline.stages.answers import alarms, mean_calibration, pooled, read_answers, read_scores, write_records
from pipeline.stages.drawing import read_confusion, read_text_table
from pipeline.stages.facts import data_facts, provenance
from pipeline.stages.figures import read_figures, write_figures
from pipeline.stages.layout import Layout, Scored, StageOptions, dataset_of, stage_options, training_name
from pipeline.stages.leaks import leak_counts
from pipeline.stages.pictures import frame_strip, sample_frames
from pipeline.stages.samples import task_classes
from pipeline.video.framestore import FrameStore

NUM_MISTAKES, STRIP_FRAMES = 8, 6


def main(argv: Sequence[str] | None = None) -> None:
    """Write `metrics.json`, tables and figures (per task and stream, all folds together) and `report.html`."""
    options = stage_options(__doc__, argv)
    with options.layout.writing(options.layout.root):
        write_report(options)


def write_report(options: StageOptions) -> None:
    """Write the report of the options' experiment; what an earlier one wrote of other tasks and streams is removed."""
    for name in ("tables", "figures", "confusion"):
        shutil.rmtree(options.layout.root / name, ignore_errors=True)
    experiment, layout = options.experiment, options.layout
    dataset = dataset_of(experiment)
    videos = read_videos(layout.videos)
    frames = FrameStore(layout.frames, experiment.view.frames_key)
    scores: dict[str, dict[str, Any]] = {}
    folds: dict[tuple[Task, Scored], list[pd.DataFrame]] = {}
    trainings: list[Training] = []
    for task, stream in scored(experiment):
        tables = {
            seed: [read_tables(layout, training_name(task, stream, fold, seed)) for fold in experiment.folds]
            for seed in experiment.seeds
        }
        own = [
            training_of(options, dataset.card.background, (task, stream, fold, seed))
            for seed in experiment.seeds
            for fold in experiment.folds
        ]
        together = pooled(options, dataset, task, stream, tables)
        together["calibration"] |= mean_calibration(layout, [training.name for training in own])
        together["leaks"] = leak_counts(layout, experiment.folds)
        if len(own) > 1:
            together["trainings"] = between_trainings([training.metrics["test"][LEVELS[task]] for training in own])
        scores.setdefault(task, {})[stream] = without_nan(together)
        folds[task, stream] = [predictions for predictions, _ in tables[experiment.seed]]
        trainings += own
    write_json(layout.root / "metrics.json", scores)
    write_json(layout.root / "scores.json", experiment_headline(scores))
    files = {path.relative_to(layout.root).as_posix(): read_scores(path) for path in checks(layout)}
    premium = layout.premium.relative_to(layout.root).as_posix()
    if not is_current(files.get(premium, {}), scores, experiment.seed):
        print(f"report: {premium} is of other models or folds, and left out; run `lrcn audit --premium` again")
        del files[premium]
    config = Source(f"configs/{options.name}.yaml", experiment.model_dump(mode="json"))
    audit = Source(layout.audit.name, files[layout.audit.name])
    probes = probe_files(options)
    by_id = {video.video_id: video.sha256 for video in videos}
    page = render_report(
        ReportData(
            title=dataset.card.title,
            experiment=options.name,
            trainings=trainings,
            metrics=scores,
            pooled={
                (task, stream): Pooled(
                    *pooled_files(options, dataset, task, stream, predictions, scores[task][stream]),
                    mistakes_of(options, task, stream, predictions, by_id, frames),
                )
                for (task, stream), predictions in folds.items()
            },
            config=config,
            facts=data_facts(options, dataset, audit, config),
            provenance=provenance(options, layout),
            files=files,
            probes={path.relative_to(layout.root).as_posix(): read_scores(path) for path in probes},
            sheets={
                path.relative_to(layout.root).as_posix(): read_picture(path.with_name("contact_sheet.jpg"))
                for path in probes
                if path.with_name("contact_sheet.jpg").is_file()
            },
            samples=sample_frames(dataset, videos if experiment.backbone else [], frames),
        )
    )
    write_text(layout.root / "report.html", page)
    log_experiment(options, dataset.card.title, experiment_headline(scores))
    print(printable(f"report: {layout.root / 'report.html'}"))


def scored(experiment: Experiment) -> list[tuple[Task, Scored]]:
    """Tasks and streams that have scores, fused ones included."""
    alone: list[tuple[Task, Scored]] = [
        (task, stream) for stream in experiment.streams for task in experiment.stream(stream).tasks
    ]
    return [*alone, *((task, "fused") for task in experiment.fused_tasks)]


def checks(layout: Layout) -> list[Path]:
    """The files of what was checked of the data, those that the experiment has; `audit.json` always."""
    return [layout.audit, *filter(Path.is_file, (layout.leaks, layout.shortcut, layout.premium))]


def is_current(premium: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]], seed: int) -> bool:
    """Whether a `premium.json` compares with the scores there are: it is made by hand, and DVC does not renew it."""
    own = {task: scores.get(task, {}).get("rgb", {}).get("seeds", {}).get(str(seed), {}) for task in premium}
    return all(
        abs(one["grouped"]["score"] - own[task].get(one["metric"], math.nan)) < 1e-9 for task, one in premium.items()
    )


def probe_files(options: StageOptions) -> list[Path]:
    """`probe.json` of the trainings that the experiment probes, no older ones that lie beside them."""
    experiment = options.experiment
    if experiment.probe is None:
        return []
    pairs = itertools.product(experiment.stream("rgb").tasks, experiment.folds)
    names = [training_name(task, "rgb", fold, experiment.seed) for task, fold in pairs]
    files = [options.layout.probe(name) / "probe.json" for name in names]
    for file in files:
        if not file.is_file():
            print(
                printable(f"report: {file}: no such file; the page leaves this probe out until `lrcn probe` wrote it")
            )
    return [file for file in files if file.is_file()]


def read_tables(layout: Layout, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`predictions.csv` and `controls.csv` of a training, or of the fusion of two."""
    folder = layout.evaluation(name)
    return read_answers(folder / "predictions.csv"), read_answers(folder / "controls.csv")


def training_of(options: StageOptions, background: str | None, what: tuple[Task, Scored, int, int]) -> Training:
    """What the page shows of one task, stream, fold and seed."""
    task, stream, _, seed = what
    layout, name = options.layout, training_name(*what)
    folder, training = layout.evaluation(name), layout.training(name)
    settings = None if stream == "fused" else options.experiment.stream(stream).settings(task)
    history = [] if settings is None else read_text_table(layout.history(name)).to_dict("records")
    return Training(
        name=name,
        task=task,
        stream=stream,
        seed=seed,
        model="fusion of both streams" if settings is None else settings.cell.upper(),
        head="" if settings is None else settings.head,
        metrics=read_scores(folder / "metrics.json"),
        history=[{str(column): value for column, value in row.items()} for row in history],
        figures={**read_figures(folder / "figures"), **read_figures(training / "figures")},
        background=background if task == "frame" else None,
    )


def pooled_files(
    options: StageOptions,
    dataset: Dataset,
    task: Task,
    stream: Scored,
    folds: Sequence[pd.DataFrame],
    metrics: Mapping[str, Any],
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Write the tables and the figures of all folds together; returns `per_class.csv` and the figures."""
    layout, classes = options.layout, task_classes(dataset, task)
    name = f"{task}-{stream}"
    predictions = pd.concat(folds, ignore_index=True)
    probs, labels = class_probabilities(predictions, classes), label_indices(predictions["label"], classes)
    known = labels != IGNORED
    folder = layout.root / "tables" / name
    folder.mkdir(parents=True, exist_ok=True)
    matrix = confusion_matrix(labels[known], probs[known].argmax(axis=1), len(classes))
    write_records(folder / "per_class.csv", per_class_table(probs[known], labels[known], classes))
    write_records(folder / "confusion.csv", [dict(zip(classes, map(int, row), strict=True)) for row in matrix])
    counts = [
        [label, other, int(n)]
        for label, row in zip(classes, matrix, strict=True)
        for other, n in zip(classes, row, strict=True)
    ]
    write_table(layout.root / "confusion" / f"{name}.csv", ["label", "predicted", "count"], counts)
    per_class = read_text_table(folder / "per_class.csv")
    svgs = evaluation_figures(
        name,
        metrics,
        predictions,
        per_class,
        read_confusion(folder / "confusion.csv"),
        background=dataset.card.background if task == "frame" else None,
        detection=pd.DataFrame(detection_table(folds, alarms(options, dataset))),
    )
    write_figures(layout.root / "figures" / name, svgs)
    rows = per_class.to_dict("records")
    return [{str(column): value for column, value in row.items()} for row in rows], svgs


def mistakes_of(
    options: StageOptions, task: Task, stream: Scored, folds: Sequence[pd.DataFrame], sha256: Mapping[str, str],
    frames: FrameStore,
) -> list[Mistake]:  # fmt: skip
    """The surest mistakes of the first seed in all folds, with frames of the video or of around the moment."""
    names = [training_name(task, stream, fold, options.experiment.seed) for fold in options.experiment.folds]
    tables = [table.assign(evaluation=name, row=range(len(table))) for name, table in zip(names, folds, strict=True)]
    found = []
    for _, row in confident_mistakes(pd.concat(tables, ignore_index=True), NUM_MISTAKES).iterrows():
        when = float(row["time_seconds"]) if task == "frame" else None
        strip: list[np.ndarray] = []
        if options.experiment.backbone:
            strip = frame_strip(frames, sha256[str(row["video_id"])], STRIP_FRAMES, when)
        found.append(
            Mistake(
                evaluation=str(row["evaluation"]),
                row=int(row["row"]),
                video_id=str(row["video_id"]),
                label=str(row["label"]),
                predicted=str(row["predicted"]),
                score=str(row["score"]),
                time_seconds="" if when is None else str(row["time_seconds"]),
                frames=strip,
            )
        )
    return found


def read_picture(path: Path) -> np.ndarray:
    """A picture file as (H, W, 3) uint8 RGB; raises DataError when it is none."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise DataError(f"{path}: cannot be read as a picture; run the stage `probe` again")
    return np.asarray(picture[..., ::-1])
