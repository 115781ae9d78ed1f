"""Stage `report`: scores over all folds, and one HTML page that shows everything a reader needs to trust them."""

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import Task
from pipeline.data.cards import Dataset
from pipeline.data.tables import Video, read_videos
from pipeline.discovery import printable
from pipeline.evaluation.clip_metrics import reliability
from pipeline.evaluation.pooling import class_probabilities, pool_clip, pool_frame
from pipeline.files import write_text
from pipeline.reporting.report import Mistake, ReportData, Training, confident_mistakes, render_report
from pipeline.stages.layout import Layout, StageOptions, dataset_of, representation, stage_options
from pipeline.stages.provenance import git_state
from pipeline.stages.samples import opposites, task_classes, without_nan
from pipeline.video.framestore import FrameStore
from pipeline.video.reader import i420_to_rgb

NUM_MISTAKES, STRIP_FRAMES, NUM_SAMPLES = 8, 6, 12
PACKAGES = ("lrcn-pipeline", "torch", "torchvision", "av", "numpy", "scikit-learn")


def main(argv: Sequence[str] | None = None) -> None:
    """Write `metrics.json` (all folds together) and `report.html`."""
    options = stage_options(__doc__, argv)
    experiment, layout = options.experiment, options.layout
    dataset = dataset_of(experiment)
    videos = {video.video_id: video for video in read_videos(layout.videos)}
    frames = FrameStore(layout.frames, experiment.view.frames_key)
    pooled: dict[str, Any] = {}
    trainings: list[Training] = []
    for task in experiment.stream("rgb").tasks:
        tables = [read_tables(layout, task, fold) for fold in experiment.folds]
        pooled[task] = pool(options, dataset, task, tables)
        trainings += [
            training_of(options, dataset, task, fold, predictions, videos, frames)
            for fold, (predictions, _) in zip(experiment.folds, tables, strict=True)
        ]
    write_text(layout.root / "metrics.json", json.dumps(without_nan(pooled), indent=2, allow_nan=False) + "\n")
    audit = json.loads(layout.audit.read_text(encoding="utf-8"))
    rejected = sum(video.status == "rejected" for video in videos.values())
    page = render_report(
        ReportData(
            title=dataset.card.title,
            experiment=options.name,
            trainings=trainings,
            pooled=pooled,
            facts={
                "videos": f"{len(videos) - rejected}, and {rejected} files that are none",
                "decoding": decoding_in_words(layout),
                "groups": str(len({video.group for video in videos.values() if video.group})),
                "classes": ", ".join(dataset.classes),
                "view": view_in_words(options),
                "backbone": backbone_in_words(options),
                "licence": dataset.card.licence,
                "source": dataset.card.source,
            },
            provenance=provenance(options, layout),
            samples=sample_frames(dataset, list(videos.values()) if experiment.backbone else [], frames),
            notes=audit["warnings"],
        )
    )
    write_text(layout.root / "report.html", page)
    print(printable(f"report: {layout.root / 'report.html'}"))


def read_tables(layout: Layout, task: Task, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`predictions.csv` and `controls.csv` of a training; labels and ids stay text, whatever they look like."""
    folder = layout.evaluation(task, fold)
    text = {name: str for name in ("control", "video_id", "group", "label", "predicted")}
    read = [
        pd.read_csv(folder / name, dtype=text, keep_default_na=False, encoding_errors="surrogateescape")
        for name in ("predictions.csv", "controls.csv")
    ]
    return read[0], read[1]


def pool(
    options: StageOptions, dataset: Dataset, task: Task, tables: Sequence[tuple[pd.DataFrame, pd.DataFrame]]
) -> dict[str, Any]:
    """Scores of a task over all folds."""
    classes = task_classes(dataset, task)
    settings = {"samples": options.experiment.evaluate.bootstrap_samples, "seed": options.experiment.seed}
    if task == "clip":
        return pool_clip(tables, classes, opposites(dataset), **settings)
    return pool_frame(tables, classes, 0 if dataset.card.background is not None else None, **settings)


def training_of(
    options: StageOptions,
    dataset: Dataset,
    task: Task,
    fold: int,
    predictions: pd.DataFrame,
    videos: dict[str, Video],
    frames: FrameStore,
) -> Training:
    """What the page shows of one task and fold."""
    layout, classes = options.layout, task_classes(dataset, task)
    folder = layout.evaluation(task, fold)
    mistakes = []
    bins: list[dict[str, float]] = []
    if task == "clip":
        for row in confident_mistakes(predictions, NUM_MISTAKES).itertuples():
            strip = (
                frame_strip(frames, videos[str(row.video_id)].sha256, STRIP_FRAMES)
                if options.experiment.backbone
                else []
            )
            texts = (str(row.video_id), str(row.label), str(row.predicted))
            mistakes.append(Mistake(*texts, float(str(row.score)), strip))
        bins = reliability(
            class_probabilities(predictions, classes), predictions["label"].map(classes.index).to_numpy()
        )
    settings = options.experiment.stream("rgb").settings(task)
    return Training(
        name=f"{task}-fold{fold}",
        task=task,
        model=settings.cell.upper() if settings else "",
        classes=classes,
        metrics=json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        history=pd.read_csv(layout.training(task, fold) / "history.csv"),
        predictions=predictions,
        per_class=pd.read_csv(folder / "per_class.csv", dtype=str, keep_default_na=False),
        confusion=np.loadtxt(folder / "confusion.csv", delimiter=",", skiprows=1, dtype=np.int64, ndmin=2),
        background=dataset.card.background if task == "frame" else None,
        reliability=bins,
        mistakes=mistakes,
    )


def frame_strip(frames: FrameStore, sha256: str, count: int) -> list[np.ndarray]:
    """`count` frames of a stored video, evenly spaced, (H, W, 3) uint8 RGB each."""
    wanted = set(np.linspace(0, len(frames.times(sha256)) - 1, count).round().astype(int).tolist())
    return [i420_to_rgb(frame.i420) for step, frame in enumerate(frames.read(sha256)) if step in wanted]


def sample_frames(dataset: Dataset, videos: Sequence[Video], frames: FrameStore) -> list[tuple[str, np.ndarray]]:
    """A strip of three frames from the first video of each class, side by side."""
    found = []
    for label in dataset.classes[:NUM_SAMPLES]:
        video = next((v for v in videos if v.label == label and v.status == "ok" and usable(frames, v)), None)
        if video is not None:
            found.append((label, np.concatenate(frame_strip(frames, video.sha256, 3), axis=1)))
    return found


def usable(frames: FrameStore, video: Video) -> bool:
    """Whether frames of a video could be decoded."""
    return frames.verdict(video.sha256).status != "rejected"


def decoding_in_words(layout: Layout) -> str:
    """How many videos decoded well, in part, or not at all."""
    status = pd.read_csv(layout.decoded, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")["status"]
    return ", ".join(f"{(status == word).sum()} {word}" for word in ("ok", "damaged", "rejected"))


def view_in_words(options: StageOptions) -> str:
    """How the model looks at a video."""
    view = options.experiment.view
    clips = f"clips of {view.clip_frames} frames every {view.clip_stride}" if view.clip_frames else "whole videos"
    if not view.has_pictures:
        return f"{view.fps:g} timesteps a second, {clips}"
    return f"{view.fps:g} frames a second, shorter side {view.short_side} pixels, centre {view.crop} pixels, {clips}"


def backbone_in_words(options: StageOptions) -> str:
    """Which CNN, with which weights."""
    backbone, finetune = options.experiment.backbone, options.experiment.finetune
    if backbone is None:
        return "none: the features came ready-made"
    tuned = f", fine-tuned on single frames for {finetune.epochs} epochs in each fold" if finetune else ""
    return f"{backbone.name}, weights: {Path(backbone.weights).name}{tuned}"


def provenance(options: StageOptions, layout: Layout) -> dict[str, str]:
    """What made these numbers: versions of code and packages, hashes of tables and weights."""
    names = dict.fromkeys(representation(options.experiment, fold) for fold in options.experiment.folds)
    backbones = [layout.backbone(name) / "backbone.json" for name in names]
    return {
        **git_state(),
        **{f"{path.parent.name} weights": json.loads(path.read_text())["weights_sha256"] for path in backbones},
        "features view": options.experiment.view.key,
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
