"""What the report says of an experiment beside its scores: the data, the view, the CNNs, and what made the numbers."""

import importlib.metadata
import itertools
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from pipeline.config import Experiment, StreamSettings, read_yaml
from pipeline.data.cards import Dataset
from pipeline.files import content_hash
from pipeline.reporting.numbers import Source
from pipeline.stages.answers import read_scores
from pipeline.stages.drawing import read_text_table
from pipeline.stages.layout import Layout, StageOptions, representation, training_name
from pipeline.stages.provenance import git_state
from pipeline.view import features_key

PACKAGES = ("lrcn-pipeline", "torch", "torchvision", "av", "numpy", "scikit-learn")


def data_facts(options: StageOptions, dataset: Dataset, audit: Source, config: Source) -> dict[str, str]:
    """Of the data set and of how the model looks at it, name to value."""
    files = audit.under("files")
    card = Source(f"datasets/{options.experiment.dataset}/card.yaml", dataset.card.model_dump(mode="json"))
    decoded = Source("decoded.csv", read_text_table(options.layout.decoded).to_dict("records"))
    verdicts = [Markup("{} {}").format(decoded.count(status=word), word) for word in ("ok", "damaged", "rejected")]
    return {
        "videos": Markup("{}; {} other files of the folder are none").format(
            files.whole("ok"), files.whole("rejected")
        ),
        "decoding": Markup(", ").join(verdicts),
        "groups": audit.whole("videos", "groups"),
        "classes": Markup(", ").join(dataset.classes),
        "view": _view(options, config.under("view")),
        **_streams(options.experiment, config),
        "licence": card.text("licence"),
        "source": card.text("source"),
    }


def provenance(options: StageOptions, layout: Layout) -> dict[str, str]:
    """What made these numbers: code, tables, weights and features by their hashes, packages, machine."""
    experiment = options.experiment
    pairs = itertools.product(experiment.streams, experiment.folds)
    names = {representation(experiment, stream, fold): experiment.stream(stream).view for stream, fold in pairs}
    made = {}
    for name, view in names.items():
        facts = read_scores(layout.backbone(name) / "backbone.json")
        made[f"{name} weights"] = facts["weights_sha256"]
        made[f"{name} features key"] = features_key(view, facts["name"], facts["weights_sha256"])
    tables = (Path("configs") / f"{options.name}.yaml", layout.videos, layout.segments, layout.splits)
    return {
        **git_state(),
        "models' git.commit": ", ".join(_commits(options, layout)),
        **{f"{path.name} sha256": content_hash(path) for path in tables},
        **made,
        "folds": ", ".join(map(str, experiment.folds)),
        "seeds": ", ".join(map(str, experiment.seeds)),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _commits(options: StageOptions, layout: Layout) -> list[str]:
    """The commits at which the models were trained, each once; `dirty` where tracked files differed from it."""
    experiment = options.experiment
    every = itertools.product(experiment.streams, experiment.folds, experiment.seeds)
    names = [training_name(task, s, fold, seed) for s, fold, seed in every for task in experiment.stream(s).tasks]
    found = [read_yaml(layout.training(name) / "model" / "model.yaml")["provenance"] for name in names]
    dirty = {"true": " (dirty)"}
    return list(dict.fromkeys(f"{made['git.commit']}{dirty.get(made['git.dirty'], '')}" for made in found))


def _view(options: StageOptions, view: Source) -> Markup:
    """How the model looks at a video."""
    own = options.experiment.view
    clips = Markup("whole videos")
    if own.clip_frames:
        clips = Markup("clips of {} frames every {}").format(view.whole("clip_frames"), view.whole("clip_stride"))
    rate = view.number("fps", places=0 if float(own.fps).is_integer() else 2)
    if not own.has_pictures:
        return Markup("{} timesteps a second, {}").format(rate, clips)
    seen = Markup("centre {} pixels").format(view.whole("crop"))
    if own.crops > 1:
        seen = Markup("{} crops of {} pixels (centre and corners, and these mirrored)").format(
            view.whole("crops"), view.whole("crop")
        )
    return Markup("{} frames a second, shorter side {} pixels, {}, {}").format(
        rate, view.whole("short_side"), seen, clips
    )


def _streams(experiment: Experiment, config: Source) -> dict[str, Markup]:
    """The CNN of each stream, and how the two are fused."""
    facts = {"backbone": _backbone(experiment.stream("rgb"), config)}
    if experiment.flow is not None:
        flow = config.under("flow")
        chosen = (
            "chosen on the validation side of each fold"
            if experiment.flow.weight == "validation"
            else flow.number("weight")
        )
        facts |= {
            "optical flow": Markup("{}; {}").format(experiment.flow.method, _backbone(experiment.stream("flow"), flow)),
            "fusion": Markup("mean of the streams' probabilities, weight of flow: {}").format(chosen),
        }
    return facts


def _backbone(settings: StreamSettings, config: Source) -> Markup:
    """Which CNN, cut at which layer, with which weights, and how these were trained on."""
    backbone, finetune = settings.backbone, settings.finetune
    if backbone is None:
        return Markup("none: the features came ready-made")
    words: Sequence[Markup | str] = [
        config.text("backbone", "name"),
        *([Markup("layer {}").format(config.text("backbone", "layer"))] if backbone.layer else []),
        Markup("weights: <code>{}</code>").format(Path(backbone.weights).name),
    ]
    tuned = []
    if finetune is not None:
        own = config.under("finetune")
        tuned.append(Markup("fine-tuned in each fold on single frames for {} epochs").format(own.whole("epochs")))
        if finetune.end_to_end is not None:
            windows = own.under("end_to_end")
            tuned.append(
                Markup("then with an LSTM on windows of {} frames for {} epochs").format(
                    windows.whole("clip_frames"), windows.whole("epochs")
                )
            )
    return Markup(", ").join([*words, *tuned])
