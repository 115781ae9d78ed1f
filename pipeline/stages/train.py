"""Stage `train`: a recurrent network for one task, stream, fold and seed, as a model folder, curves and MLflow run."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import pandas as pd
import torch
from tqdm import tqdm

from pipeline.config import Train
from pipeline.data.tables import Side
from pipeline.device import choose_device
from pipeline.errors import ConfigError
from pipeline.evaluation.calibration import fit_calibration
from pipeline.features.backbones import describe_backbone
from pipeline.features.store import FeatureStore
from pipeline.files import content_hash, explaining_full_disk, write_json, write_table
from pipeline.models.modelfolder import Model, ModelSpec, save_model
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.reporting.timefigures import training_figures
from pipeline.runlinks import MODEL_SHA256, RUN_FILE
from pipeline.stages.figures import write_figures
from pipeline.stages.layout import StageOptions, dataset_of, stage_options
from pipeline.stages.provenance import model_provenance, run_tags
from pipeline.stages.samples import Sample, fold_videos, labelled_answers, read_samples, task_classes
from pipeline.stages.tracked import training_run
from pipeline.tracking import Run
from pipeline.training.checkpoint import CheckpointSlot, tensor_digest, training_identity
from pipeline.training.distributed import World, process_group
from pipeline.training.gradients import gradient_by_distance
from pipeline.training.loop import TrainSettings, check, train
from pipeline.training.sequences import Sequences
from pipeline.view import features_key

# A file's name may be no UTF-8, which the default storage of texts (Arrow, since pandas 3) refuses.
pd.set_option("mode.string_storage", "python")
HISTORY_COLUMNS = ["epoch", "train_loss", "val_loss", "val_score", "lr", "grad_norm"]


def main(argv: Sequence[str] | None = None) -> None:
    """Train on the fold's training side, choose the epoch on its validation side; the test side is not read.

    A training that was cut off goes on from its checkpoint, to the result it would have had. Under `torchrun` the
    processes share each batch, and the first of them writes.
    """
    options = stage_options(__doc__, argv, task=True, stream=True, fold=True, seed=True)
    with (
        process_group(choose_device(options.runtime.device)) as world,
        options.layout.writing(options.layout.training(options.training)),
    ):
        train_one(options, world)


def train_one(options: StageOptions, world: World) -> None:
    """Train the network that the options name."""
    experiment, layout, stream = options.experiment, options.layout, options.settings
    settings = stream.settings(options.task)
    if settings is None:
        section = f"{'flow.' if options.stream == 'flow' else ''}train.{options.task}"
        raise ConfigError(
            f"configs/{options.name}.yaml: {section} is empty; expected settings, or run `lrcn select` again"
        )
    dataset = dataset_of(experiment)
    name = options.representation
    backbone_file = layout.backbone(name) / "backbone.safetensors"
    backbone = describe_backbone(backbone_file)
    key = features_key(stream.view, backbone.name, backbone.weights_sha256)
    store = FeatureStore(layout.features(name), key)
    sides: dict[Side, list[Sample]] = {
        split: read_samples(layout, store, dataset, task=options.task, fold=options.fold, split=split)
        for split in ("train", "val")
    }
    classes = task_classes(dataset, options.task)
    packed = {
        split: Sequences.pack((s.features.values for s in samples), [s.labels for s in samples], world.device)
        for split, samples in sides.items()
    }
    network = new_network(settings, backbone.feature_size, len(classes), options.seed).to(world.device)
    network.standardise_by(packed["train"].videos())
    loop = loop_settings(options, settings)
    check(network, packed["train"], packed["val"], loop)
    reach = {"before": gradient_by_distance(network, packed["train"])}
    checkpoint = CheckpointSlot(layout.checkpoint(options.training))
    identity = {
        "network": {**architecture(settings, backbone.feature_size), "classes": len(classes)},
        "view": asdict(stream.view),
        "features": key,
        "train": [s.video.sha256 for s in sides["train"]],
        "val": [s.video.sha256 for s in sides["val"]],
        "labels": tensor_digest({"train": packed["train"].labels, "val": packed["val"].labels}),
    }

    def fit(on_epoch: Callable[[dict[str, float]], None]) -> list[dict[str, float]]:
        history = train(
            network, packed["train"], packed["val"], stream.view, loop, on_epoch,
            checkpoint=checkpoint, identity=identity, world=world,
        )  # fmt: skip
        world.wait()
        return history

    if not world.is_main:
        fit(lambda row: None)
        return
    tags = run_tags(options, key)
    folder = layout.training(options.training)
    folder.mkdir(parents=True, exist_ok=True)
    about = (
        f"{settings.cell} on {backbone.name} features ({options.stream}), {options.task} task of {dataset.card.title}, "
        f"fold {options.fold}, seed {options.seed}"
    )
    with training_run(options, tags, about, checkpoint.memory(training_identity(loop, identity))) as run:
        for split, samples in sides.items():
            run.log_dataset(pd.DataFrame([asdict(s.video) for s in samples]), str(layout.videos), split, split)
        history = fit(Progress(run, options, settings.epochs))
        best = min(history, key=lambda row: row["val_loss"])
        rows = [[row[name] for name in HISTORY_COLUMNS] for row in history]
        write_table(layout.history(options.training), HISTORY_COLUMNS, rows)
        reach["after"] = gradient_by_distance(network, packed["train"])
        norms = zip(*(reach[moment].tolist() for moment in ("before", "after")), strict=True)
        write_table(
            folder / "gradients.csv",
            ["distance_steps", "before_training", "after_training"],
            [[distance, *both] for distance, both in enumerate(norms)],
        )
        spec = ModelSpec(
            task=options.task,
            classes=classes,
            background=dataset.card.background if options.task == "frame" else None,
            architecture=architecture(settings, backbone.feature_size),
            view=stream.view,
            backbone=backbone.name,
            features_key=key,
            provenance=model_provenance(options, tags),
            longest_steps=max(len(sample.features.values) for sample in sides["train"]),
        )
        model = calibrated(Model(spec, network), sides["val"])
        is_finetuned = stream.finetune is not None
        fold = fold_videos(layout, dataset, task=options.task, fold=options.fold, is_finetuned=is_finetuned)
        with explaining_full_disk(folder / "model"):
            save_model(folder / "model", model, backbone_file, fold)
        by_distance = {name: norms.numpy() for name, norms in reach.items()}
        svgs = training_figures(folder.name, pd.DataFrame(history), by_distance)
        run.log_folder(write_figures(folder / "figures", svgs), "figures")
        run.log_dict(experiment.model_dump(mode="json"), "config.yaml")
        run.set_tags({MODEL_SHA256: content_hash(folder / "model" / "model.yaml")})
        run.log_model(folder / "model", epoch=int(best["epoch"]))
        run.log_metrics({f"best_{name}": best[name] for name in ("epoch", "val_loss", "val_score")}, int(best["epoch"]))
        write_json(folder / RUN_FILE, run.facts)
    checkpoint.remove()
    print(
        f"train: {options.name} {folder.name}: {len(sides['train'])} videos, {len(history)} epochs, best epoch "
        f"{best['epoch']:.0f} with validation loss {best['val_loss']:.3f} and score {best['val_score']:.3f}, "
        f"temperature {model.spec.calibration.temperature:.3f}"
    )


def calibrated(model: Model, validation: Sequence[Sample]) -> Model:
    """The model with the temperature and the thresholds that its answers on the validation side give."""
    probs = [model.predict(sample.features, model.spec.features_key) for sample in validation]
    calibration = fit_calibration(*labelled_answers(model.task, validation, probs))
    return Model(replace(model.spec, calibration=calibration), model.network)


def architecture(settings: Train, feature_size: int) -> dict[str, object]:
    """Keyword arguments of RecurrentClassifier but the number of classes."""
    names = (
        "cell", "hidden_size", "num_layers", "bidirectional", "motion", "input_dropout", "dropout", "head",
        "memory_steps",
    )  # fmt: skip
    return {"feature_size": feature_size, **{name: getattr(settings, name) for name in names}}


def new_network(settings: Train, feature_size: int, num_classes: int, seed: int) -> RecurrentClassifier:
    """A network whose first weights come from the seed, the global generator being left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU, where networks are made
        return RecurrentClassifier(num_classes=num_classes, **architecture(settings, feature_size))  # type: ignore[arg-type]


def loop_settings(options: StageOptions, settings: Train) -> TrainSettings:
    """The part of the configuration that the loop is told; what a task has no use for is left out."""
    names = [
        "epochs", "batch_size", "lr", "weight_decay", "clip_norm", "patience", "optimizer", "warm_up", "schedule",
        "step_epochs", "label_smoothing", "balance",
    ]  # fmt: skip
    is_frame = options.task == "frame"
    return TrainSettings(
        task=options.task,
        seed=options.seed,
        chunk_frames=settings.chunk_frames if is_frame else 0,
        smoothing=settings.smoothing if is_frame else 0.0,
        **{name: getattr(settings, name) for name in names},
    )


class Progress:
    """Called with each epoch's row: to MLflow and, on a terminal, a bar."""

    def __init__(self, run: Run, options: StageOptions, epochs: int) -> None:
        self.run = run
        self.bar = tqdm(total=epochs, desc=f"train {options.training}", disable=not sys.stderr.isatty(), unit="epoch")

    def __call__(self, row: dict[str, float]) -> None:
        """Report an epoch."""
        self.run.log_epoch({name: value for name, value in row.items() if name != "epoch"}, int(row["epoch"]))
        self.bar.set_postfix(val_loss=f"{row['val_loss']:.3f}", val_score=f"{row['val_score']:.3f}")
        self.bar.update()
