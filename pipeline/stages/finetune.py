"""Stage `finetune`: fixes the backbone's weights. They come as the configuration names them; where it has a `finetune`
section they are trained on single frames of the training split (LRCN's first step: Donahue et al. 2015, section 4).
"""

import json
from collections.abc import Collection, Sequence

import numpy as np

from pipeline.data.cards import Dataset
from pipeline.data.labels import class_index
from pipeline.data.tables import Side, read_segments, read_splits, read_videos, video_ids
from pipeline.device import choose_device
from pipeline.features.backbones import load_backbone, save_backbone
from pipeline.files import write_table, write_text
from pipeline.stages.layout import StageOptions, dataset_of, representation, stage_options
from pipeline.training.finetune import TrainVideo, finetune, sample_steps
from pipeline.video.flow import NO_FLOW, first_flow_step, flow_frames
from pipeline.video.framestore import FrameStore
from pipeline.video.reader import i420_to_rgb
from pipeline.view import View


def main(argv: Sequence[str] | None = None) -> None:
    """Write `backbone.safetensors` and the curves of its training (header only when there was none)."""
    options = stage_options(__doc__, argv, fold=True)
    experiment = options.experiment
    folder = options.layout.backbone(representation(experiment, options.fold))
    folder.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(
        experiment.backbone.name, experiment.backbone.weights, experiment.seed,
        layer=experiment.backbone.layer, crop=experiment.view.crop, is_flow=bool(experiment.view.flow),
    )  # fmt: skip
    backbone.check_crop(experiment.view.crop)
    history: list[dict[str, float]] = []
    if experiment.finetune is not None:
        dataset = dataset_of(experiment)
        settings = experiment.finetune
        history = finetune(
            backbone,
            labelled_frames(options, dataset, "train", settings.frames_per_video),
            labelled_frames(options, dataset, "val", settings.frames_per_video),
            num_classes=len(dataset.classes),
            crop=experiment.view.crop,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            label_smoothing=settings.label_smoothing,
            flip=settings.flip,
            is_flow=bool(experiment.view.flow),
            seed=experiment.seed,
            device=choose_device(options.runtime.device),
        )
    save_backbone(backbone, folder / "backbone.safetensors")
    columns = ["epoch", "train_loss", "val_loss", "val_frame_accuracy", "val_video_accuracy"]
    write_table(folder / "history.csv", columns, [[row.get(name) for name in columns] for row in history])
    facts = {"name": backbone.name, "weights_sha256": backbone.weights_sha256, "feature_size": backbone.feature_size}
    write_text(folder / "backbone.json", json.dumps(facts, indent=2) + "\n")
    how = f"fine-tuned for {len(history)} epochs" if history else f"weights: {experiment.backbone.weights}"
    print(f"finetune: {backbone.name}, {backbone.feature_size} features, {how}, sha256 {backbone.weights_sha256[:16]}")


def labelled_frames(options: StageOptions, dataset: Dataset, split: Side, count: int) -> list[TrainVideo]:
    """Frames with a class from one side of the fold: `count` steps of each labelled clip and of each segment.

    RGB frames, or flow images where the view says so. Steps are drawn from a generator of (seed, the video's content),
    so that other videos do not change them.
    """
    layout, experiment = options.layout, options.experiment
    store = FrameStore(layout.frames, experiment.view.frames_key)
    chosen = set(video_ids(read_splits(layout.splits), options.fold, split))
    segments = read_segments(layout.segments)
    found: list[TrainVideo] = []
    without = 0
    for video in read_videos(layout.videos):
        if video.video_id not in chosen or store.verdict(video.sha256).status == "rejected":
            continue
        times = view_times(store, video.sha256, experiment.view)
        if not len(times):
            without += 1
            continue
        stretches = [(video.label, np.arange(len(times)))] if video.label else []
        for segment in segments:
            if segment.video_id == video.video_id and segment.label in dataset.classes:  # background is no action
                inside = np.flatnonzero((times >= segment.start_seconds) & (times < segment.end_seconds))
                stretches += [(segment.label, inside)] if len(inside) else []
        rng = np.random.default_rng([experiment.seed, int(video.sha256[:16], 16)])
        wanted = [(label, steps[sample_steps(len(steps), count, rng)]) for label, steps in stretches]
        needed = {int(step) for _, steps in wanted for step in steps}
        pixels = view_pixels(store, video.sha256, experiment.view, needed)
        found += [
            TrainVideo(np.stack([pixels[int(step)] for step in steps]), class_index(label, dataset.classes))
            for label, steps in wanted
        ]
    if without:
        print(f"{split}: {without} video(s) left out: {NO_FLOW}")
    return found


def view_times(store: FrameStore, sha256: str, view: View) -> np.ndarray:
    """Times (T,) of the timesteps that a view has of a stored video: of flow fewer, or none."""
    times = store.times(sha256)
    return times[first_flow_step(store.pts(sha256)) :] if view.flow else times


def view_pixels(store: FrameStore, sha256: str, view: View, steps: Collection[int]) -> dict[int, np.ndarray]:
    """Frames (H, W, 3) uint8 by timestep, as numbered by `view_times`: RGB, or flow images."""
    frames = store.read(sha256)
    if view.flow:
        images = (frame.image for frame in flow_frames(frames, view.flow, steps))
        return dict(zip(sorted(steps), images, strict=True))
    return {step: i420_to_rgb(frame.i420) for step, frame in enumerate(frames) if step in steps}
