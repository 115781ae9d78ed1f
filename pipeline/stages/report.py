"""Stage `report`: scores over all folds, and one HTML page that shows everything a reader needs to trust them."""

import importlib.metadata
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import Experiment, StreamSettings, Task
from pipeline.data.cards import Dataset
from pipeline.data.tables import Video, read_videos
from pipeline.discovery import printable
from pipeline.evaluation.clip_metrics import reliability
from pipeline.evaluation.pooling import class_probabilities
from pipeline.files import write_text
from pipeline.reporting.report import Mistake, ReportData, Training, confident_mistakes, render_report
from pipeline.stages.answers import mean_calibration, pooled, read_answers
from pipeline.stages.layout import (
    Layout,
    Scored,
    StageOptions,
    dataset_of,
    representation,
    stage_options,
    training_name,
)
from pipeline.stages.leaks import leak_counts
from pipeline.stages.provenance import git_state
from pipeline.stages.samples import task_classes, without_nan
from pipeline.video.framestore import FrameStore
from pipeline.video.reader import i420_to_rgb
from pipeline.view import features_key

NUM_MISTAKES, STRIP_FRAMES, NUM_SAMPLES = 8, 6, 12
PACKAGES = ("lrcn-pipeline", "torch", "torchvision", "av", "numpy", "scikit-learn")


def main(argv: Sequence[str] | None = None) -> None:
    """Write `metrics.json` (per task and stream, all folds together) and `report.html`."""
    options = stage_options(__doc__, argv)
    experiment, layout = options.experiment, options.layout
    dataset = dataset_of(experiment)
    videos = {video.video_id: video for video in read_videos(layout.videos)}
    frames = FrameStore(layout.frames, experiment.view.frames_key)
    scores: dict[str, dict[str, Any]] = {}
    trainings: list[Training] = []
    for task, stream in scored(experiment):
        tables = {
            seed: [read_tables(layout, training_name(task, stream, fold, seed)) for fold in experiment.folds]
            for seed in experiment.seeds
        }
        own = scores.setdefault(task, {})[stream] = pooled(options, dataset, task, stream, tables)
        names = [training_name(task, stream, fold, seed) for seed in experiment.seeds for fold in experiment.folds]
        own["calibration"] |= mean_calibration(layout, names)
        own["leaks"] = leak_counts(layout, experiment.folds)
        trainings += [
            training_of(options, dataset, (task, stream, fold, seed), predictions, videos, frames)
            for seed, folds in tables.items()
            for fold, (predictions, _) in zip(experiment.folds, folds, strict=True)
        ]
    write_text(layout.root / "metrics.json", json.dumps(without_nan(scores), indent=2, allow_nan=False) + "\n")
    audit = json.loads(layout.audit.read_text(encoding="utf-8"))
    rejected = sum(video.status == "rejected" for video in videos.values())
    page = render_report(
        ReportData(
            title=dataset.card.title,
            experiment=options.name,
            trainings=trainings,
            pooled=scores,
            facts={
                "videos": f"{len(videos) - rejected}, and {rejected} files that are none",
                "decoding": decoding_in_words(layout),
                "groups": str(len({video.group for video in videos.values() if video.group})),
                "classes": ", ".join(dataset.classes),
                "view": view_in_words(options),
                **streams_in_words(experiment),
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


def scored(experiment: Experiment) -> list[tuple[Task, Scored]]:
    """Tasks and streams that have scores, fused ones included."""
    alone: list[tuple[Task, Scored]] = [
        (task, stream) for stream in experiment.streams for task in experiment.stream(stream).tasks
    ]
    return [*alone, *((task, "fused") for task in experiment.fused_tasks)]


def read_tables(layout: Layout, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`predictions.csv` and `controls.csv` of a training, or of the fusion of two."""
    folder = layout.evaluation(name)
    return read_answers(folder / "predictions.csv"), read_answers(folder / "controls.csv")


def training_of(
    options: StageOptions,
    dataset: Dataset,
    what: tuple[Task, Scored, int, int],
    predictions: pd.DataFrame,
    videos: dict[str, Video],
    frames: FrameStore,
) -> Training:
    """What the page shows of one task, stream, fold and seed; pictures of mistakes only of the first seed."""
    task, stream, _, seed = what
    layout, classes = options.layout, task_classes(dataset, task)
    name = training_name(*what)
    folder = layout.evaluation(name)
    mistakes = []
    bins: list[dict[str, float]] = []
    if task == "clip" and seed == options.experiment.seed:
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
    settings = None if stream == "fused" else options.experiment.stream(stream).settings(task)
    return Training(
        name=name,
        task=task,
        stream=stream,
        seed=seed,
        model="fusion of both streams" if settings is None else settings.cell.upper(),
        classes=classes,
        metrics=json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        history=None if settings is None else pd.read_csv(layout.training(name) / "history.csv"),
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
    seen = f"centre {view.crop} pixels"
    if view.crops > 1:
        seen = f"{view.crops} crops of {view.crop} pixels (centre and corners, and these mirrored)"
    return f"{view.fps:g} frames a second, shorter side {view.short_side} pixels, {seen}, {clips}"


def backbone_in_words(settings: StreamSettings) -> str:
    """Which CNN, cut at which layer, with which weights, and how these were trained on."""
    backbone, finetune = settings.backbone, settings.finetune
    if backbone is None:
        return "none: the features came ready-made"
    words = [
        backbone.name,
        f"layer {backbone.layer}" if backbone.layer else "",
        f"weights: {Path(backbone.weights).name}",
    ]
    if finetune is not None:
        words.append(f"fine-tuned in each fold on single frames for {finetune.epochs} epochs")
        if finetune.end_to_end is not None:
            windows = finetune.end_to_end
            words.append(f"then with an LSTM on windows of {windows.clip_frames} frames for {windows.epochs} epochs")
    return ", ".join(filter(None, words))


def streams_in_words(experiment: Experiment) -> dict[str, str]:
    """The CNN of each stream, and how the two are fused."""
    facts = {"backbone": backbone_in_words(experiment.stream("rgb"))}
    if experiment.flow is not None:
        flow = experiment.flow
        chosen = "chosen on the validation side of each fold" if flow.weight == "validation" else f"{flow.weight:g}"
        facts |= {
            "optical flow": f"{flow.method}; {backbone_in_words(experiment.stream('flow'))}",
            "fusion": f"mean of the streams' probabilities, weight of flow: {chosen}",
        }
    return facts


def provenance(options: StageOptions, layout: Layout) -> dict[str, str]:
    """What made these numbers: versions of code and packages, hashes of weights, keys of features."""
    experiment = options.experiment
    pairs = itertools.product(experiment.streams, experiment.folds)
    names = {representation(experiment, stream, fold): experiment.stream(stream).view for stream, fold in pairs}
    made = {}
    for name, view in names.items():
        facts = json.loads((layout.backbone(name) / "backbone.json").read_text(encoding="utf-8"))
        made[f"{name} weights"] = facts["weights_sha256"]
        made[f"{name} features key"] = features_key(view, facts["name"], facts["weights_sha256"])
    return {
        **git_state(),
        **made,
        "seeds": ", ".join(map(str, experiment.seeds)),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
