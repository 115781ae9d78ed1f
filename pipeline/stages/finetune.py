"""Stage `finetune`: fixes the backbone's weights. They come as the configuration names them; where it has a `finetune`
section they are trained on single frames of the training split (LRCN's first step: Donahue et al. 2015, section 4), and
then, where that has an `end_to_end` section, together with an LSTM on windows of frames (the second).
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.data.cards import Dataset
from pipeline.data.tables import Side
from pipeline.device import choose_device, num_workers
from pipeline.features.backbones import Backbone, load_backbone, save_backbone
from pipeline.files import write_json, write_table
from pipeline.stages.footage import labelled_footage, labelled_stretches, view_pixels
from pipeline.stages.importfeatures import describe_features
from pipeline.stages.layout import StageOptions, dataset_of, stage_options
from pipeline.stages.leaks import leak_counts
from pipeline.training.checkpoint import CheckpointSlot, save_checkpoint, unfinished
from pipeline.training.distributed import World, process_group
from pipeline.training.endtoend import EndToEndSettings, train_end_to_end
from pipeline.training.finetune import TrainVideo, finetune, sample_steps
from pipeline.training.windows import FrameMemory
from pipeline.video.flow import NO_FLOW, mirror
from pipeline.video.framestore import FrameStore
from pipeline.view import digest

# phase: `frames` or `windows`. Losses of the two do not compare: one frame's answer, and the average over windows.
COLUMNS = ["phase", "epoch", "train_loss", "val_loss", "val_frame_accuracy", "val_video_accuracy"]
COLUMNS += ["lr", "backbone_lr", "grad_norm"]  # of windows


def main(argv: Sequence[str] | None = None) -> None:
    """Write `backbone.safetensors` and the curves of its training (header only when there was none)."""
    options = stage_options(__doc__, argv, stream=True, fold=True)
    with options.layout.writing(options.layout.backbone(options.representation)):
        fix_weights(options)


def fix_weights(options: StageOptions) -> None:
    """Make the CNN that the options name."""
    experiment, stream = options.experiment, options.settings
    folder = options.layout.backbone(options.representation)
    folder.mkdir(parents=True, exist_ok=True)
    if stream.backbone is None:
        backbone, source = describe_features(options), "none: the features came ready-made"
    else:
        backbone = load_backbone(
            stream.backbone.name, stream.backbone.weights, experiment.seed,
            layer=stream.backbone.layer, crop=stream.view.crop, is_flow=bool(stream.view.flow),
        )  # fmt: skip
        backbone.check_crop(stream.view.crop)
        source = stream.backbone.weights
    # Of single-frame fine-tuning, and of what follows it; there only until the stage has ended.
    name = f"finetune-{options.representation}"
    slots = [CheckpointSlot(options.layout.checkpoint(f"{name}-{phase}")) for phase in ("frames", "windows")]
    with process_group(choose_device(options.runtime.device)) as world:
        history = trained(options, backbone, slots, world) if stream.finetune else []
    if not world.is_main:
        return
    save_backbone(backbone, folder / "backbone.safetensors")
    write_table(
        options.layout.history(options.representation),
        COLUMNS,
        [[row.get(name) for name in COLUMNS] for row in history],
    )
    facts = {"name": backbone.name, "weights_sha256": backbone.weights_sha256, "feature_size": backbone.feature_size}
    write_json(folder / "backbone.json", facts)
    for slot in slots:
        slot.remove()
    how = f"fine-tuned for {len(history)} epochs" if history else f"weights: {source}"
    print(f"finetune: {backbone.name}, {backbone.feature_size} features, {how}, sha256 {backbone.weights_sha256[:16]}")


def trained(
    options: StageOptions, backbone: Backbone, slots: Sequence[CheckpointSlot], world: World
) -> list[dict[str, Any]]:
    """Fine-tune a backbone, in place; returns the rows of the history, those of both phases.

    With an end-to-end part, a stage that was cut off goes on from its checkpoints. Started by torchrun, every process
    trains on single frames by itself and goes on with the main one's weights: waiting would not be quicker.
    """
    experiment, view, settings = options.experiment, options.settings.view, options.settings.finetune
    assert settings is not None
    leak_counts(options.layout, [options.fold])  # raises where the split has not passed the audit
    dataset = dataset_of(experiment)
    memory = FrameMemory(int(options.runtime.frames_memory_gb * 1e9))
    sides: tuple[Side, Side] = ("train", "val")
    footage, data = zip(*(labelled_footage(options, dataset, side, memory) for side in sides), strict=True)
    identity = {
        "backbone": {"name": backbone.name, "weights": backbone.weights_sha256},
        "settings": settings.model_dump(mode="json", exclude={"end_to_end"}),
        "view": {"frames": view.frames_key, "crop": view.crop, "flow": view.flow},
        "seed": experiment.seed,
        "data": {side: digest(value) for side, value in zip(sides, data, strict=True)},
    }
    frames_file = slots[0].file(identity)
    checkpoint = unfinished(frames_file, identity) if settings.end_to_end else None
    if checkpoint is not None:
        checkpoint.restore({"backbone": backbone})
        single: list[dict[str, Any]] = checkpoint.values["history"]
    else:
        single = finetune(
            backbone,
            labelled_frames(options, dataset, "train", settings.frames_per_video),
            labelled_frames(options, dataset, "val", settings.frames_per_video),
            num_classes=len(dataset.classes),
            crop=view.crop,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            label_smoothing=settings.label_smoothing,
            flip=settings.flip,
            is_flow=bool(view.flow),
            seed=experiment.seed,
            device=world.device,
            progress=_bar("single frames", settings.epochs, world),
        )
        if settings.end_to_end and world.is_main:
            save_checkpoint(frames_file, identity, {"backbone": backbone}, values={"history": single})
    rows: list[dict[str, Any]] = [{"phase": "frames", **row} for row in single]
    if settings.end_to_end:
        world.copy_from_main(backbone.to(world.device))
        told = settings.end_to_end.model_dump()
        _, windows = train_end_to_end(
            backbone,
            *footage,
            num_classes=len(dataset.classes),
            view=view,
            settings=EndToEndSettings(**told, flip=settings.flip, seed=experiment.seed),
            world=world,
            num_readers=num_workers(options.runtime.workers),
            checkpoint=slots[1],
            mirror=partial(mirror, is_flow=bool(view.flow)),
            identity={name: identity[name] for name in ("view", "data")},
            progress=_bar("end to end", settings.end_to_end.epochs, world),
        )
        rows += [{"phase": "windows", **row, "epoch": len(single) + row["epoch"]} for row in windows]
    return rows


def _bar(name: str, epochs: int, world: World) -> Callable[[dict[str, float]], None]:
    """What each epoch's row is handed to: a progress bar on the main process's terminal."""
    bar = tqdm(total=epochs, desc=name, unit="epoch", disable=not (world.is_main and sys.stderr.isatty()))

    def advance(row: dict[str, float]) -> None:
        bar.set_postfix({key: f"{row[key]:.3f}" for key in ("val_loss", "val_video_accuracy") if key in row})
        bar.update(int(row["epoch"]) - bar.n)  # a resumed training begins further on
        if row["epoch"] == epochs:
            bar.close()

    return advance


def labelled_frames(options: StageOptions, dataset: Dataset, split: Side, count: int) -> list[TrainVideo]:
    """Frames with a class from one side of the fold: `count` steps of each labelled clip and of each segment.

    RGB frames, or flow images where the view says so. Steps are drawn from a generator of (seed, the video's content),
    so that other videos do not change them.
    """
    experiment, view = options.experiment, options.settings.view
    store = FrameStore(options.layout.frames, view.frames_key)
    labelled, without = labelled_stretches(options, dataset, split)
    found: list[TrainVideo] = []
    for video, stretches in labelled:
        rng = np.random.default_rng([experiment.seed, int(video.sha256[:16], 16)])
        wanted = [
            (number, [start + step for step in sample_steps(stop - start, count, rng)])
            for number, start, stop in stretches
        ]
        pixels = view_pixels(store, video.sha256, view, {step for _, steps in wanted for step in steps})
        found += [TrainVideo(np.stack([pixels[step] for step in steps]), number) for number, steps in wanted]
    if without:
        print(f"{split}: {without} video(s) left out: {NO_FLOW}")
    return found
